"""Which of several ways of telling a key counts (RFC 4733, RFC 6086)."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

EVERY: Final = 0.25
"""Seconds between two keys that we send."""

PAUSE: Final = 0.5
"""Seconds that `w` waits."""

SAME: Final = 2.0
"""Seconds within which a key that comes the other way too is the same press: an INFO may be sent when the key is let go
of, and be retransmitted."""

MAX_TOLD: Final = 32
"""Keys of one way that wait for their double."""

Way = Literal["rtp", "info"]


class Source:
    """A peer that sends a key both ways means one key: what one way has told, the other may tell once more in vain.

    Neither way shuts the other out, for a tone of somebody's music is taken for a key now and then, and a call that is
    moved goes on with another telephone.
    """

    def __init__(self, wanted: Literal["auto", "rfc4733", "info", "inband"]) -> None:
        self._only: Way | None = None if wanted == "auto" else "info" if wanted == "info" else "rtp"
        self._told: dict[Way, deque[tuple[str, float]]] = {
            "rtp": deque(maxlen=MAX_TOLD),
            "info": deque(maxlen=MAX_TOLD),
        }

    def takes(self, way: Way, digit: str, now: float) -> bool:
        """Whether a key that came this way counts."""
        if self._only is not None:
            return way == self._only
        doubles = self._told["info" if way == "rtp" else "rtp"]
        while doubles and now - doubles[0][1] > SAME:
            doubles.popleft()
        for told in doubles:
            if told[0] == digit:
                doubles.remove(told)
                return False
        self._told[way].append((digit, now))
        return True
