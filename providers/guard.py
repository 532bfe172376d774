"""How much a media socket may send us before we stop taking it."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 2.0
"""Seconds over which the rate is judged. A stalled network delivers its backlog at once; that is no flood."""

SPEED: Final = 2
"""How many times real time a peer may send. A carrier sends at 1."""

MAX_MESSAGES: Final = 500
"""Messages in one window. Frames of 10 ms at twice real time are 400; marks and keys come on top."""

GIVE_UP: Final = 10.0
"""Seconds of flooding after which the socket is closed."""


class FloodGuard:
    """Counts what a peer sends, in windows of `WINDOW` seconds.

    >>> guard = FloodGuard(bytes_a_second=8000)
    >>> guard.admit(32_000, now=0.0), guard.admit(160, now=0.1), guard.admit(160, now=2.5)
    (True, False, True)
    """

    __slots__ = ("_bytes", "_ends", "_flooded", "_max_bytes", "_messages", "_since")

    def __init__(self, bytes_a_second: int) -> None:
        self._max_bytes = int(bytes_a_second * SPEED * WINDOW)
        self._bytes = self._messages = 0
        self._ends = 0.0
        self._flooded = False
        self._since = 0.0

    def admit(self, size: int, now: float) -> bool:
        """Count one message with `size` bytes of audio; False when it is too much and must be dropped."""
        if now >= self._ends:
            # Calm is a whole window without a drop; anything less is the same flood going on.
            if not self._flooded or now >= self._ends + WINDOW:
                self._since = 0.0
            self._flooded = False
            self._ends = now + WINDOW
            self._bytes = self._messages = 0
        self._bytes += size
        self._messages += 1
        if self._bytes <= self._max_bytes and self._messages <= MAX_MESSAGES:
            return True
        self._flooded = True
        self._since = self._since or now
        return False

    def hopeless(self, now: float) -> bool:
        """True once a flood has gone on for `GIVE_UP` seconds."""
        return self._since > 0.0 and now - self._since >= GIVE_UP
