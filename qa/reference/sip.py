"""The reference as a SIP user agent: UDP and TCP on one port, offhook's own signalling, RTP of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Sequence
from typing import Final

from offhook.codecs import opus
from offhook.providers.rtp.media import G722, OPUS, PCMA, PCMU, Address, Codec
from offhook.providers.sip.endpoint import Endpoint
from offhook.providers.sip.events import (
    Cancelled,
    Ended,
    InfoReceived,
    OfferReceived,
    ReferProgressed,
    ReferReceived,
    RequestArrived,
    UaEvent,
)
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.sockets import bound_socket, family_of
from offhook.providers.sip.uri import format_host
from offhook.qa.reference.behaviour import Behaviour, behaviour_of
from offhook.qa.reference.brain import Brain, HangUp, Order, Transfer
from offhook.qa.reference.lines import Lines
from offhook.qa.reference.rtp import RtpAudio
from offhook.qa.reference.truth import CallTruth, TruthLog

LEAVE_S: Final = 1.0
"""After a transfer was taken, until we hang up where the caller does not."""

MAX_CALLS: Final = 2_000

REASON: Final = "X-Transfer-Reason"
"""Header of the REFER."""


def _codecs() -> tuple[Codec, ...]:
    """What can be spoken here."""
    try:
        opus.warm()
    except RuntimeError:
        return (PCMU, PCMA, G722)
    return (PCMU, PCMA, G722, OPUS)


def _free_for_both(host: str) -> int:
    """A port that neither UDP nor TCP uses here. Raises OSError."""
    while True:
        with bound_socket("tcp", host, 0) as tcp:
            port: int = tcp.getsockname()[1]
            with contextlib.suppress(OSError), bound_socket("udp", host, port):
                return port


class SipReference:
    """All SIP calls of the reference."""

    def __init__(self, lines: Lines, behaviour: Behaviour, truth: TruthLog, *, seed: int = 1) -> None:
        self._lines, self._behaviour, self._truth = lines, behaviour, truth
        self._loop = asyncio.get_running_loop()
        self.rng = random.Random(seed)  # noqa: S311  # numbers that need to be distinct only
        self.codecs = _codecs()
        self._sip = Endpoint(
            self._act, self.near, user="reference", user_agent="offhook reference", trusted=lambda host: True
        )
        self._host = "127.0.0.1"
        self._calls: dict[str, SipCall] = {}

    async def listen(self, host: str, port: int) -> int:
        """Listen on UDP and TCP; gives the port. Raises OSError."""
        self._host = host
        port = await self._sip.transport.listen("udp", host, port or _free_for_both(host))
        await self._sip.transport.listen("tcp", host, port)
        return port

    async def close(self) -> None:
        """Hang up, and close the sockets."""
        for call in tuple(self._calls.values()):
            call.hang_up()
        self.flush()
        for call in tuple(self._calls.values()):
            call.ended("reference")
        await self._sip.close()

    def near(self, hop: Hop) -> str:
        """Our address as that peer sees it."""
        return hop.local or self._sip.transport.local_to(hop.host) or self._host

    def flush(self) -> None:
        """Send what waits, and set the timer."""
        self._sip.flush()

    # --- messages ----------------------------------------------------------------------

    def _act(self, events: Sequence[UaEvent]) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                self._request(event)
            elif (session := getattr(event, "session", None)) is not None and session.id in self._calls:
                self._calls[session.id].take(event)

    def _request(self, event: RequestArrived) -> None:
        now = self._loop.time()
        if event.request.method != "INVITE":
            self._sip.ua.dismiss(event.tx, now)
            return
        if len(self._calls) >= MAX_CALLS:
            self._sip.ua.respond(event.tx, 503, now=now)
            return
        session = self._sip.ua.take_invite(event.tx, now, session_expires=0)
        if session is not None:
            SipCall(self, session, event.hop, self._loop)

    # --- for the calls -----------------------------------------------------------------

    def behaviour(self, user: str) -> Behaviour:
        """For calls to this user."""
        return behaviour_of(user, self._behaviour)

    def truth(self, call_id: str) -> CallTruth:
        """Where a call's truth goes."""
        return CallTruth(self._truth, call_id)

    def brain(self, behaviour: Behaviour, truth: CallTruth, *, events: bool) -> Brain:
        """A mind for a call."""
        return Brain(self._lines, behaviour, truth, events=events)

    def keep(self, call: SipCall) -> None:
        """Give it its events from now on."""
        self._calls[call.session.id] = call

    def forget(self, call: SipCall) -> None:
        """It is over."""
        self._calls.pop(call.session.id, None)


class SipCall:
    """One call."""

    def __init__(self, owner: SipReference, session: InviteSession, hop: Hop, loop: asyncio.AbstractEventLoop) -> None:
        self.session = session
        self._owner, self._loop, self._peer = owner, loop, hop
        self._behaviour = owner.behaviour(session.local_party.uri.user)
        self._truth = owner.truth(session.request.call_id)
        self._negotiator = MediaNegotiator(codecs=owner.codecs, srtp="allowed", session_id=owner.rng.getrandbits(62))
        self._local = Address(owner.near(hop), 0)
        self._audio: RtpAudio | None = None
        self._brain: Brain | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        from_ = session.remote_party.uri.user
        self._truth("call", 0.0, way="sip", **{"from": from_, "to": session.local_party.uri.user})
        owner.keep(self)
        if self._behaviour.refuses:
            self._refuse(486, "busy")
            return
        session.ring(now=loop.time())
        self._timer = loop.call_later(self._behaviour.ring, self._guarded(self._answer))

    def _guarded(self, do: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            do()
            self._owner.flush()

        return run

    def _refuse(self, status: int, why: str) -> None:
        self._truth("refused", 0.0, status=status, why=why)
        self.session.refuse(status, now=self._loop.time())

    def _answer(self) -> None:
        self._timer = None
        sock = socket.socket(family_of(self._local.host), socket.SOCK_DGRAM)
        sock.bind((self._local.host, 0))
        self._local = Address(self._local.host, sock.getsockname()[1])
        offer = self.session.remote_offer
        if offer is None:
            sock.close()
            self._refuse(488, "the INVITE has no offer, which the reference wants")
            return
        try:
            body, plan = self._negotiator.answer(offer, self._local)
        except (BadSdp, NotAcceptable) as error:
            sock.close()
            self._refuse(488, str(error))
            return
        now = self._loop.time()
        self._brain = self._owner.brain(self._behaviour, self._truth, events=plan.dtmf_send_type is not None)
        self._audio = RtpAudio(sock, self._brain, self._order, self._owner.rng)
        self.session.answer(body, now=now)
        self._owner.flush()
        self._truth.answered()
        self._audio.start(plan)

    def take(self, event: UaEvent) -> None:
        """Something happened to the call."""
        now = self._loop.time()
        match event:
            case OfferReceived(sdp=sdp):
                self._change(sdp, now)
            case InfoReceived(body=body):
                self._info(body.decode(errors="replace"))
            case ReferReceived(tx=tx):
                self.session.refuse_refer(tx, now=now)
            case ReferProgressed(final=True, status=status):
                if status < 300:
                    self._timer = self._loop.call_later(LEAVE_S, self._guarded(self.hang_up))
                else:
                    self.hang_up()
            case Cancelled():
                self.ended("caller")
            case Ended(by=by):
                self.ended("reference" if by == "callee" else by)
            case _:
                pass  # ringing on is nobody's concern

    def _change(self, sdp: bytes | None, now: float) -> None:
        """A re-INVITE: hold, resume, another codec."""
        if sdp is None:
            self.session.answer_offer(self._negotiator.offer(self._local), now=now)
            return
        old = self._negotiator.plan
        try:
            body, plan = self._negotiator.answer(sdp, self._local)
        except (BadSdp, NotAcceptable):
            self.session.answer_offer(None, 488, now=now)
            return
        self.session.answer_offer(body, now=now)
        if self._audio is None or self._brain is None:
            return
        self._audio.adopt(plan)
        if old is not None and old.codec != plan.codec:
            self._truth("codec", self._audio.now, codec=plan.codec.name)
        held = plan.direction != "sendrecv"
        if held != (old is not None and old.direction != "sendrecv"):
            for order in self._brain.hold(held, self._audio.now):
                self._audio.do(order)

    def _info(self, text: str) -> None:
        for line in text.splitlines():
            name, _, value = line.partition("=")
            key = value.strip().upper()
            if name.strip().lower() == "signal" and len(key) == 1 and self._brain and self._audio:
                self._brain.key(key, self._audio.now, "info")

    def _order(self, order: Order) -> None:
        """What the brain wants beside speaking; at its own second, which lies within the frame to come."""
        assert self._audio is not None
        wait = max(0.0, order.at - self._audio.now)
        if isinstance(order, HangUp):
            self._timer = self._loop.call_later(wait, self._guarded(self.hang_up))
        elif isinstance(order, Transfer):
            to = order.to
            self._timer = self._loop.call_later(wait, self._guarded(lambda: self._refer(to)))

    def _refer(self, to: str) -> None:
        if self.session.confirmed:
            target = f"sip:{to}@{format_host(self._peer.host, self._peer.port)}"
            self.session.refer(target, headers=[(REASON, "the caller asked for it")], now=self._loop.time())

    def hang_up(self) -> None:
        """End it."""
        self.session.hang_up(now=self._loop.time())

    def ended(self, by: str) -> None:
        """It is over."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        at, late = 0.0, 0.0
        if self._audio is not None and self._brain is not None:
            at, late = self._audio.now, self._audio.late
            self._brain.over()
            self._audio.close()
        self._truth("ended", at, by=by, late_ms=round(late * 1000, 1))
        self._owner.forget(self)
