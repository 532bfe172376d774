"""When the caller makes a sound, to the sample: first and last voiced sample, and keys in the audio.

A sample is voiced when its size reaches the threshold: 0.8 % of full scale where pauses are quiet, else well above
the noise. A sound is what has no pause longer than 200 ms. This shares nothing with the detectors that measure calls,
for what it finds is held against them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import DtmfDetector

Samples = npt.NDArray[np.int16]
"""Mono int16 at 8 kHz."""

RATE: Final = 8000

QUIET: Final = 262
"""Size below which no sample is voiced, -42 dBFS."""

NOISY: Final = 100
"""Peak in 20 ms, -50 dBFS, from which on the quietest moments of the last seconds are noise."""

ABOVE_NOISE: Final = 2.5
"""How far voice stands above the noise where there is some."""

GAP_S: Final = 0.200
"""A longer pause parts two sounds."""

CLICK_S: Final = 0.030
"""What is shorter, with `CLICK_GAP_S` of silence behind, was no beginning of a sound."""
CLICK_GAP_S: Final = 0.060

BLOCK: Final = 5
"""Pieces of audio, of 20 ms as a rule, whose median makes a figure of the noise."""
MEMORY: Final = 80
"""Such figures that are looked at: 8 s, in which the caller listens longer than he speaks without a pause."""

SHARE: Final = 40
"""Percentile of them that is the noise; it has loud moments, but speech is rarer still."""


@dataclass(slots=True)
class Sound:
    """One sound of the caller. Seconds on the line's clock."""

    onset: float
    "Of its first voiced sample."
    last: float
    "End of its last voiced sample so far."
    tone: bool = False
    "A key was heard in it: it is no speech."
    done: bool = field(default=False, compare=False)
    "It was answered, or needs no answer."

    @property
    def seconds(self) -> float:
        """From first to last voiced sample."""
        return self.last - self.onset


class Ear:
    """Hears one caller."""

    def __init__(self) -> None:
        self.sound: Sound | None = None
        "The latest sound; it goes on while its last sample is at most `GAP_S` ago."
        self._keys = DtmfDetector(L16_8K)
        self._block: list[int] = []
        self._noise: deque[float] = deque(maxlen=MEMORY)
        self._above = float(QUIET)

    def feed(self, samples: Samples, at: float) -> list[str]:
        """Take what the caller sent; gives the keys that were recognised in it.

        Args:
            samples: up to 60 ms of it, in order.
            at: when its first sample was on the line.
        """
        if not len(samples):
            return []
        size = np.abs(samples.astype(np.int32))
        loud = np.flatnonzero(size >= self._threshold(int(size.max())))
        if len(loud):
            self._voiced(at + int(loud[0]) / RATE, at + (int(loud[-1]) + 1) / RATE)
        keys = self._keys.feed(samples.astype("<i2", copy=False).tobytes())
        if keys and self.sound is not None:
            self.sound.tone = True
        return keys

    def _voiced(self, first: float, end: float) -> None:
        sound = self.sound
        if sound is not None:
            pause = first - sound.last
            if pause <= (CLICK_GAP_S if sound.seconds < CLICK_S else GAP_S):
                sound.last = end
                return
        self.sound = Sound(first, end)

    def _threshold(self, peak: int) -> float:
        self._block.append(peak)
        if len(self._block) >= BLOCK:
            self._noise.append(float(np.median(self._block)))
            self._block.clear()
            noise = float(np.percentile(self._noise, SHARE)) if min(self._noise) >= NOISY else 0.0
            self._above = max(float(QUIET), ABOVE_NOISE * noise)
        return self._above
