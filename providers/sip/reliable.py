"""Provisional responses that must arrive (100rel, RFC 3262), both ways.

The called side numbers each with RSeq and sends it again until a PRACK names it; the next one waits until then. The
calling side answers each once with a PRACK, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from offhook.providers.sip.headers import BadHeader, parse_number
from offhook.providers.sip.message import BadMessage, Request, Response
from offhook.providers.sip.timers import Action, Repeater, Timers

FIRST_RSEQ: Final = 2**31 - 1
"""The first RSeq is chosen below this (section 3)."""

MAX_WAITING: Final = 8
"""Provisional responses that may wait for the PRACK of the one before; further ones are dropped, as the latest of
many ring tones is as good as all of them."""

Policy = Literal["off", "supported", "required"]
"""`off`: we do not speak 100rel; `supported`: where the peer requires it; `required`: wherever the peer can."""


class ReliableSender:
    """The called side of one INVITE.

    Args:
        transmit: sends one provisional response, given `now`; called again for each repetition.
        give_up: called when nobody answered with a PRACK in 64*T1.
        number: the first RSeq, from 1 to `FIRST_RSEQ`.
    """

    __slots__ = ("_current", "_give_up", "_number", "_repeater", "_t1", "_timers", "_transmit", "_waiting")

    def __init__(
        self, timers: Timers, transmit: Callable[[Response, float], None], give_up: Action, *, number: int, t1: float
    ) -> None:
        self._timers, self._transmit, self._give_up, self._t1 = timers, transmit, give_up, t1
        self._number = number - 1
        self._current: Response | None = None
        self._repeater: Repeater | None = None
        self._waiting: deque[Response] = deque(maxlen=MAX_WAITING)

    @property
    def pending(self) -> bool:
        """Whether a PRACK is still owed, so that the 2xx must wait."""
        return self._current is not None

    def send(self, response: Response, now: float) -> None:
        """Send a provisional response as soon as the one before has arrived."""
        if self._current is not None:
            self._waiting.append(response)
            return
        self._number += 1
        response.headers.add("Require", "100rel")
        response.headers.add("RSeq", str(self._number))
        self._current = response
        self._transmit(response, now)
        patience = 64 * self._t1
        self._repeater = Repeater(
            self._timers, self._again, self._give_up, now, first=self._t1, longest=patience, patience=patience
        )

    def acknowledged(self, prack: Request, invite_number: int, now: float) -> bool:
        """Take a PRACK; False when it names no response that waits for one (answer 481). Raises BadMessage."""
        if self._current is None or parse_rack(prack) != (self._number, invite_number, "INVITE"):
            return False
        self.stop()
        if self._waiting:
            self.send(self._waiting.popleft(), now)
        return True

    def stop(self) -> None:
        """Send nothing again."""
        if self._repeater is not None:
            self._repeater.stop()
        self._repeater = self._current = None

    def _again(self, now: float) -> None:
        if self._current is not None:
            self._transmit(self._current, now)


class ReliableReceiver:
    """The calling side, for the responses of one phone (one To-tag)."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: int | None = None

    def take(self, response: Response) -> int | None:
        """The RSeq to answer with a PRACK; None when the response is no new one in order. Raises BadMessage."""
        value = response.headers.get("RSeq")
        if value is None:
            raise BadMessage("RSeq is missing in a reliable provisional response")
        try:
            number = parse_number(value, 2**32, "RSeq")
        except BadHeader as error:
            raise BadMessage(str(error)) from None
        if self._latest is not None and number != self._latest + 1:
            return None
        self._latest = number
        return number


def is_reliable(response: Response) -> bool:
    """Whether a provisional response asks for a PRACK."""
    return 100 < response.status < 200 and "100rel" in response.options("Require")


def parse_rack(prack: Request) -> tuple[int, int, str]:
    """The RAck of a PRACK: RSeq, CSeq number and method of what it acknowledges. Raises BadMessage."""
    parts = (prack.headers.get("RAck") or "").split()
    if len(parts) != 3:
        raise BadMessage("RAck is not two numbers and a method")
    try:
        return parse_number(parts[0], 2**32, "RAck"), parse_number(parts[1], 2**32, "RAck"), parts[2]
    except BadHeader as error:
        raise BadMessage(str(error)) from None
