"""A call that begins on its own socket: it rings there, is answered there, and its audio comes the same way.

There is no webhook before the socket and no token in its path: who may open one, the upgrade's credentials say
(or the list of sources), before anything here runs. The stream says when the call rings; the switchboard then
finds its agent as for every other call, and the answer goes back on the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from offhook.gateway.reasons import EndedBy, EndReason
from offhook.gateway.switchboard import DrainingError, ReplayedWebhookError
from offhook.providers.base import (
    AcceptAnswer,
    CallOffered,
    DirectStream,
    MediaReceived,
    ProtocolFault,
    Provider,
    RejectAnswer,
    StreamEnded,
    StreamEvent,
)

if TYPE_CHECKING:
    from offhook.gateway.call import Call
    from offhook.gateway.switchboard import Switchboard

log = structlog.get_logger("offhook.gateway.direct")

OFFER_BUDGET: Final = 5.0
"""Seconds an accepted socket may take to say which call it is."""

START_BUDGET: Final = 5.0
"""Seconds an answered socket may take to start its audio."""

NORMAL: Final = 1000
POLICY_VIOLATION: Final = 1008
"""RFC 6455 7.4.1."""
TRY_AGAIN_LATER: Final = 1013
"""IANA's WebSocket close codes."""


class MediaSocket(Protocol):
    """The carrier's socket, whatever it is made of."""

    @property
    def writable_now(self) -> bool:
        """False while the peer does not take what was sent already."""

    def send_message(self, message: bytes) -> None:
        """Send one message now; goes nowhere once the socket is closing."""

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket; a second time does nothing."""


class DirectLine:
    """One such socket, from its first message to its end."""

    def __init__(self, board: Switchboard, provider: Provider, stream: DirectStream, socket: MediaSocket) -> None:
        self._board, self._provider, self._stream, self._socket = board, provider, stream, socket
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        self._early: list[StreamEvent] = []
        "What the carrier said while the call rang."
        self._id = ""
        "The carrier's id of the call, once it rings."
        self._over = False
        self._timer = self._loop.call_later(OFFER_BUDGET, self._silent)

    def receive(self, data: bytes, is_text: bool) -> None:
        """Take one message, or, of a stream socket, what was read."""
        now = self._loop.time()
        events = self._stream.receive(data, now) if is_text else self._stream.receive_binary(data, now)
        self._take(events, now)

    def lost(self, code: int) -> None:
        """The socket is gone; `code` as in RFC 6455, 1000 for an orderly end, 1006 for none."""
        self._timer.cancel()
        if self._call is not None:
            self._call.socket_closed(code)
        else:
            self._hung_up("the socket closed while it rang")

    def _take(self, events: Sequence[StreamEvent], now: float) -> None:
        for event in events:
            call = self._call
            if call is not None:
                call.last_heard = now
                call.carrier_event(event)
            elif isinstance(event, CallOffered):
                self._timer.cancel()
                self._id = event.incoming.carrier_call_id
                self._board.run(self._answer(event), f"direct-{self._id}")
            elif isinstance(event, StreamEnded):
                self._hung_up(event.detail)
                self._close(NORMAL, "")
            elif isinstance(event, ProtocolFault) and event.close_code:
                log.warning("socket refused", carrier=self._provider.name, kind=event.kind, detail=event.detail)
                self._hung_up(event.kind)
                self._close(event.close_code, event.kind)
            elif self._id and not isinstance(event, MediaReceived):
                self._early.append(event)

    async def _answer(self, offered: CallOffered) -> None:
        if self._over:
            return  # it hung up before anybody was asked
        incoming = offered.incoming
        try:
            answer = await self._board.incoming(self._provider, incoming)
        except ReplayedWebhookError:
            answer = RejectAnswer("rejected")
        except DrainingError:
            answer = RejectAnswer("busy")
        call = self._board.find(self._provider, incoming.carrier_call_id)
        if not isinstance(answer, AcceptAnswer) or call is None:
            if not self._over:
                for message in self._stream.refuse(answer):
                    self._socket.send_message(message)
            busy = isinstance(answer, RejectAnswer) and answer.reason == "busy"
            self._close(TRY_AGAIN_LATER if busy else POLICY_VIOLATION, "the call is not taken")
            return
        now = self._loop.time()
        self._call = call
        call.connect(self._socket, self._stream)
        messages, events = self._stream.accept(answer, now)
        for message in messages:
            self._socket.send_message(message)
        early, self._early = self._early, []
        self._take([*events, *early], now)
        self._timer = self._loop.call_later(START_BUDGET, self._no_start)

    def _hung_up(self, detail: str) -> None:
        """It ended while it rang."""
        self._over = True
        call = self._board.find(self._provider, self._id) if self._id else None
        if call is not None:
            call.end(EndReason.CALLER_HANGUP, EndedBy.CALLER, detail)

    def _close(self, code: int, why: str) -> None:
        self._timer.cancel()
        self._over = True
        self._socket.close(code, why[:100])

    def _silent(self) -> None:
        log.warning("socket that offered no call", carrier=self._provider.name)
        self._close(POLICY_VIOLATION, f"no call within {OFFER_BUDGET:g} s")

    def _no_start(self) -> None:
        call = self._call
        if call is not None and not call.answered_at:
            call.end(EndReason.MEDIA_NEVER_CAME, EndedBy.CARRIER, f"no audio within {START_BUDGET:g} s of the answer")
