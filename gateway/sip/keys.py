"""Keys in SIP INFO, and which of several ways of telling a key counts (RFC 4733, RFC 6086 and the drafts before it)."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

RELAY: Final = "application/dtmf-relay"
PLAIN: Final = "application/dtmf"

DIGITS: Final = frozenset("0123456789ABCD*#")

LENGTH_MS: Final = 160
"""Milliseconds of a key that we send."""

EVERY: Final = 0.25
"""Seconds between two keys that we send."""

PAUSE: Final = 0.5
"""Seconds that `w` waits."""

MAX_BODY: Final = 256
"""Bytes of such an INFO; a longer one is about something else."""

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


def from_info(body: bytes, content_type: str) -> tuple[str, int] | None:
    """The key and its milliseconds in the body of an INFO; None when it is none."""
    if len(body) > MAX_BODY or content_type not in (RELAY, PLAIN):
        return None
    text = body.decode("ascii", "replace")
    if content_type == PLAIN and "=" not in text:
        return _key(text, 0)
    signal, duration = "", 0
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip().lower() == "signal":
            signal = value
        elif name.strip().lower() == "duration" and (digits := value.strip()).isdecimal() and len(digits) < 6:
            duration = int(digits)
    return _key(signal, duration)


def _key(text: str, duration: int) -> tuple[str, int] | None:
    digit = {"10": "*", "11": "#", "12": "A", "13": "B", "14": "C", "15": "D"}.get(text.strip(), text.strip().upper())
    return (digit, duration) if digit in DIGITS and len(digit) == 1 else None


def to_info(digit: str) -> bytes:
    """The body of an INFO for one key."""
    return f"Signal={digit}\r\nDuration={LENGTH_MS}\r\n".encode()
