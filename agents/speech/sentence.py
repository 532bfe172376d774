"""The caller's sentence as it comes in, from before the detector noticed it."""

from __future__ import annotations

from collections import deque
from typing import Final

from offhook.codecs.audio import FRAME_MS

PREROLL: Final = 0.4
"""Seconds of audio before the detector noticed speech that belong to the sentence: its first consonant."""


class IncomingSentence:
    """Collects frames of 20 ms while the caller speaks, at most `longest` seconds; pauses do not end it."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._before: deque[bytes] = deque(maxlen=int(PREROLL * 1000) // FRAME_MS)
        self._frames: list[bytes] = []
        self.talking = False
        "The caller speaks, as far as the detector has said."

    def __len__(self) -> int:
        """Frames so far."""
        return len(self._frames)

    @property
    def pcm(self) -> bytes:
        """All of it."""
        return b"".join(self._frames)

    @property
    def full(self) -> bool:
        """No more of it is kept."""
        return len(self._frames) * FRAME_MS >= self._longest * 1000

    def push(self, audio: bytes) -> None:
        """The next frame of the caller."""
        if not self.talking:
            self._before.append(audio)
        elif not self.full:
            self._frames.append(audio)

    def begin(self) -> None:
        """The caller speaks, perhaps again after a pause: the next word begins in what came before."""
        self._frames += self._before
        self._before.clear()
        self.talking = True

    def pause(self) -> None:
        """The caller has fallen silent."""
        self.talking = False

    def forget(self) -> None:
        """Drop it: it was understood, or will not be."""
        self._frames = []
