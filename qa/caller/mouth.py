"""The mouth of a scripted caller: speech and keys one after the other, and a background that never ends."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import tones
from offhook.codecs.pcm import lay_under
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.phones.base import Mouth

FRAME: Final = RATE // 50
"""Samples a frame: 20 ms."""


class ScriptMouth(Mouth):
    """Give what was queued, a frame at a time. Frames of speech alone are slices of what was prepared."""

    def __init__(self) -> None:
        self.at = 0
        "Sample of the track at which the next frame begins. Who uses it keeps it true."
        self._queue: deque[Samples] = deque()
        self._done = 0
        "Samples of the first sound that have left."
        self._left = 0
        "Samples of all sounds that have not."
        self._bed: Samples | None = None
        self._bed_at = 0

    def say(self, sound: Samples) -> Span:
        """Queue a sound behind what is still to be said; gives where it will lie in the track."""
        start = self.at + self._left
        if len(sound):
            self._queue.append(sound)
            self._left += len(sound)
            self.saying = True
        return Span(start / RATE, (start + len(sound)) / RATE)

    def press(self, digits: str, tone: float, gap: float) -> Span:
        """Queue keys as tones, `tone` seconds each and `gap` seconds apart. Raises ValueError: there is no such key."""
        pause = np.zeros(round(gap * RATE), np.int16)
        pieces = [piece for digit in digits for piece in (np.frombuffer(tones(digit, tone, L16_8K), "<i2"), pause)]
        return self.say(np.concatenate(pieces[:-1]))

    def background(self, bed: Samples | None, start: int = 0) -> None:
        """Change what is heard behind the speech.

        Args:
            bed: whole frames, repeated without end; None: silence.
            start: the frame of it that is heard first; any number.
        """
        self._bed = bed
        self._bed_at = start * FRAME % len(bed) if bed is not None else 0

    def frame(self) -> Samples | None:
        """The next 160 samples; None: silence."""
        if not self._left:
            return None if self._bed is None else self._next_of(self._bed)
        speech = self._speech()
        if self._bed is None:
            return speech
        # The speech stays as it was written; where both do not fit, the background gives way.
        return np.frombuffer(lay_under(speech.tobytes(), self._next_of(self._bed).tobytes()), "<i2")

    def _next_of(self, bed: Samples) -> Samples:
        piece = bed[self._bed_at : self._bed_at + FRAME]
        self._bed_at += FRAME
        if self._bed_at >= len(bed):
            self._bed_at = 0
        return piece

    def _speech(self) -> Samples:
        head, done = self._queue[0], self._done
        if len(head) - done > FRAME:
            self._done += FRAME
            self._left -= FRAME
            return head[done : done + FRAME]
        frame = np.zeros(FRAME, np.int16)
        filled = 0
        while filled < FRAME and self._queue:
            head = self._queue[0]
            piece = head[self._done : self._done + FRAME - filled]
            frame[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._done += len(piece)
            if self._done == len(head):
                self._queue.popleft()
                self._done = 0
        self._left -= filled
        self.saying = self._left > 0
        return frame
