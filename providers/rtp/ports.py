"""Port pairs for RTP: an even port a call, RTCP on the next (RFC 3550 section 11), and a rest after each call.

A port that was just given back still receives the old peer's packets; the next call must not hear them. So it rests
in quarantine, and the port that has rested longest is given out first.
"""

from __future__ import annotations

from collections import deque
from typing import Final

QUARANTINE: Final = 30.0
"""Seconds a port rests: a peer that missed our BYE retransmits no longer than 32 s, and most stop at once."""


class NoPortLeft(RuntimeError):
    """Every port is in use or rests: refuse the call with 503, or widen the range."""


class PortPool:
    """The even ports from `low` to `high`, both inclusive.

    Raises:
        ValueError: the range holds no even port with its successor.
    """

    def __init__(self, low: int, high: int, quarantine: float = QUARANTINE) -> None:
        first = low + low % 2
        if not (low > 0 and high < 65536 and first < high):
            raise ValueError(f"ports {low} to {high} hold no pair of an even port and the next: give a wider range")
        self._free = deque(range(first, high, 2))
        self._resting: deque[tuple[float, int]] = deque()
        self._taken: set[int] = set()
        self._quarantine = quarantine
        self.size = len(self._free)
        "Calls that the range has room for."

    def take(self, now: float) -> int:
        """An even port for a call.

        Raises:
            NoPortLeft: none is free at present.
        """
        self._wake(now)
        if not self._free:
            raise NoPortLeft(
                f"all {self.size} RTP port pairs are taken ({len(self._taken)}) or rest ({len(self._resting)}): "
                "widen the media port range"
            )
        port = self._free.popleft()
        self._taken.add(port)
        return port

    def give_back(self, port: int, now: float) -> None:
        """The call is over (or the port belongs to somebody else): let it rest. A second time changes nothing."""
        if port in self._taken:
            self._taken.discard(port)
            self._resting.append((now + self._quarantine, port))

    def free(self, now: float) -> int:
        """How many could be taken."""
        self._wake(now)
        return len(self._free)

    def _wake(self, now: float) -> None:
        resting = self._resting
        while resting and resting[0][0] <= now:
            self._free.append(resting.popleft()[1])
