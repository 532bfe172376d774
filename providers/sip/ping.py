"""Whether a target is worth calling: OPTIONS pings and the outcome of calls, as a circuit breaker.

Theory of operation
-------------------
A target is CLOSED (the circuit carries calls) until `FAILURES` pings or calls in a row failed. Then it is OPEN: no
call is tried, so that callers go to the next target at once instead of waiting for a timeout. After a pause, which
doubles up to `MAX_PAUSE`, one probe is let through, which is HALF_OPEN: the next ping, or, where there are no pings,
the next call. Its success closes the circuit, its failure opens it again. A probe of which nothing is heard for
`PROBE_TIME` is not waited for.

Good news counts in every state: a call that was placed before the circuit opened may still be answered.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

FAILURES: Final = 2
"""Failures in a row that open the circuit: one may be a lost datagram too many."""

FIRST_PAUSE: Final = 5.0
MAX_PAUSE: Final = 60.0
"""Seconds until an open circuit is probed, doubling from the first to the last."""

PROBE_TIME: Final = 64.0
"""Seconds after which a probe counts as lost; twice what a transaction waits (64*T1)."""

JITTER: Final = 0.1
"""Share by which every pause is shortened at random, so that targets are not all pinged in the same moment."""

DOWN: Final = frozenset({408, 430, 502, 503, 504})
"""Statuses of OPTIONS or INVITE that mean the target cannot take calls now. Any other answer, 404, 405 and 500
included, is a sign of life (408 and 503 also stand for no answer and no way there)."""


class Circuit(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Step(StrEnum):
    """What can happen to a circuit."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    BROKE = "broke"
    "Failed once too often."
    PROBED = "probed"


_C, _E = Circuit, Step
TRANSITIONS: Final[Mapping[Circuit, Mapping[Step, Circuit]]] = {
    _C.CLOSED: {_E.SUCCEEDED: _C.CLOSED, _E.FAILED: _C.CLOSED, _E.BROKE: _C.OPEN},
    _C.OPEN: {_E.SUCCEEDED: _C.CLOSED, _E.FAILED: _C.OPEN, _E.PROBED: _C.HALF_OPEN},
    _C.HALF_OPEN: {_E.SUCCEEDED: _C.CLOSED, _E.FAILED: _C.OPEN, _E.PROBED: _C.HALF_OPEN},
}
"""The one table."""


def random_share() -> float:
    """From 0 to 1, 1 excluded."""
    return secrets.randbelow(1 << 24) / (1 << 24)


class Ping:
    """The circuit of one target.

    Args:
        interval: seconds between pings; 0 for none, then calls alone decide.
        now: monotonic seconds.
        share: gives random numbers from 0 to 1.
    """

    __slots__ = ("_asked", "_due", "_failures", "_interval", "_opened", "_probed", "_share", "circuit", "round_trip")

    def __init__(self, interval: float, now: float, *, share: Callable[[], float] = random_share) -> None:
        self.circuit = Circuit.CLOSED
        self.round_trip = 0.0
        "Seconds that the last ping took; 0 before the first answer."
        self._interval = interval
        self._share = share
        self._failures = 0
        self._opened = 0
        "How often the circuit opened since it last carried calls."
        self._probed = 0.0
        self._asked: float | None = None
        self._due = now

    @property
    def up(self) -> bool:
        """Whether the target is believed to take calls."""
        return self.circuit is Circuit.CLOSED

    def next_timer(self) -> float | None:
        """When `tick` is due; None while a ping is under way, or without pings."""
        return None if self._interval <= 0 or self._asked is not None else self._due

    def tick(self, now: float) -> bool:
        """True when an OPTIONS is to be sent now; tell `answered` what became of it."""
        due = self.next_timer()
        if due is None or now < due:
            return False
        if self.circuit is not Circuit.CLOSED:
            self._probe(now)
        self._asked = now
        return True

    def answered(self, status: int, now: float) -> None:
        """The final status of the OPTIONS; 408 when nothing answered, 503 when nothing could be sent."""
        if self._asked is not None:
            if status not in DOWN:
                self.round_trip = now - self._asked
            self._asked = None
        self.report(status not in DOWN, now)

    def admit(self, now: float) -> bool:
        """Whether a call may be tried now; tell `report` what became of it.

        An open circuit without pings lets one call through as the probe when its pause is over.
        """
        if self.circuit is Circuit.CLOSED:
            return True
        if self._interval > 0:
            return False
        if now < (self._probed + PROBE_TIME if self.circuit is Circuit.HALF_OPEN else self._due):
            return False
        self._probe(now)
        return True

    def report(self, good: bool, now: float) -> None:
        """A call or a ping reached the target, or did not (see `DOWN`)."""
        if good:
            self._take(Step.SUCCEEDED)
            self._failures = self._opened = 0
            self._due = now + self._shortened(self._interval)
            return
        before = self.circuit
        self._failures += 1
        broke = before is Circuit.CLOSED and self._failures >= FAILURES
        self._take(Step.BROKE if broke else Step.FAILED)
        if self.circuit is Circuit.CLOSED:
            self._due = now + self._shortened(min(FIRST_PAUSE, self._interval or FIRST_PAUSE))
        elif before is not Circuit.OPEN:
            self._due = now + self._shortened(min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self._opened, 10)))
            self._opened += 1

    def _probe(self, now: float) -> None:
        self._take(Step.PROBED)
        self._probed = now

    def _take(self, step: Step) -> None:
        self.circuit = TRANSITIONS[self.circuit][step]

    def _shortened(self, seconds: float) -> float:
        return seconds * (1 - JITTER * self._share())
