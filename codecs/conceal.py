"""Loss concealment: what is played for a packet that did not come.

After ITU-T G.711 Appendix I in spirit: the last stretch of whole pitch periods is repeated, at full level at first
and then fading to silence; where the stream goes on, the two are cross-faded. Nothing is delayed.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offhook.codecs.audio import AudioFormat
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm

__all__ = ["Concealer"]

HISTORY: Final = 0.06
"""Seconds of the past that are looked at: the longest loop, the stretch compared, and room for the cross-fade."""

KEPT: Final = 8
"""Pieces that are kept for it: 80 ms of the shortest packets (10 ms)."""

SHORTEST, LONGEST = 0.0025, 0.015
"""Seconds of a pitch period: voices from 66 to 400 Hz."""

COMPARED: Final = 0.02
"""Seconds of the past that are compared with what went before them."""

LOOP: Final = 0.01
"""Seconds that the repeated stretch has at least: single short periods would buzz."""

VOICED: Final = 0.5
"""Correlation from which there is a pitch; below, the last 20 ms are repeated, so that noise stays noise."""

FULL, SILENT = 0.02, 0.08
"""Seconds into a loss until which the level stays, and from which on there is silence."""

BACK: Final = 0.008
"""Seconds over which the returning stream is faded in; Appendix I takes up to 10 ms, the more the longer the loss."""

SEAM: Final = 0.0025
"""Seconds over which the step into the loop and the step at its end are smoothed."""

Signal = NDArray[np.float64]


class Concealer:
    """Fills the holes of one stream. Every stretch of it passes through `good` or is asked for with `lost`."""

    __slots__ = ("_at", "_format", "_loop", "_lost", "_recent", "_step")

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._recent: deque[bytes] = deque(maxlen=KEPT)
        self._lost = False
        self._at = 0  # samples concealed since the loss began
        self._loop: Signal = np.zeros(1)
        self._step = 0.0

    def good(self, audio: bytes) -> bytes:
        """Take a piece that came, and give what is to be played: the very object, but for the first after a loss."""
        if self._lost:
            self._lost = False
            audio = self._faded_in(audio)
        self._recent.append(audio)
        return audio

    def lost(self, size: int) -> bytes:
        """Give `size` bytes (whole samples) in place of what did not come."""
        count = size // self._format.sample_bytes
        if not self._lost:
            self._prepare()
            self._lost = True
            self._at = 0
        audio = self._encode(self._go_on(count))
        self._at += count
        self._recent.append(audio)
        return audio

    def _prepare(self) -> None:
        """Find what to repeat."""
        rate = self._format.rate
        needed = round(HISTORY * rate)
        past = self._decode(b"".join(self._recent))[-needed:]
        if len(past) < needed:
            past = np.concatenate([np.zeros(needed - len(past)), past])
        size = _loop_size(past, rate)
        loop = past[-size:].copy()
        # The end of the loop becomes what went before its beginning, so that it runs into itself.
        seam = round(SEAM * rate)
        ramp = np.arange(1, seam + 1) / seam
        loop[-seam:] += (past[-size - seam : -size] - loop[-seam:]) * ramp
        self._loop = loop
        self._step = float(past[-1] - past[-size - 1])

    def _go_on(self, count: int) -> Signal:
        """The next `count` samples of the loop, fading."""
        rate = self._format.rate
        at = self._at
        if at >= SILENT * rate:
            return np.zeros(count)
        index = np.arange(at, at + count)
        wave: Signal = self._loop[index % len(self._loop)]
        seam = SEAM * rate
        if at < seam and self._step:
            wave += self._step * np.maximum(0.0, 1 - (index + 1) / seam)
        level = np.clip((SILENT * rate - index) / ((SILENT - FULL) * rate), 0.0, 1.0)
        return np.asarray(wave * level)

    def _faded_in(self, audio: bytes) -> bytes:
        pcm = self._decode(audio).copy()
        count = min(len(pcm), round(BACK * self._format.rate))
        ramp = np.arange(1, count + 1) / (count + 1)
        pcm[:count] = pcm[:count] * ramp + self._go_on(count) * (1 - ramp)
        return self._encode(pcm)

    def _decode(self, audio: bytes) -> Signal:
        encoding = self._format.encoding
        if encoding == "pcmu":
            audio = ulaw_to_pcm(audio)
        elif encoding == "pcma":
            audio = alaw_to_pcm(audio)
        return np.frombuffer(audio, "<i2").astype(np.float64)

    def _encode(self, wave: Signal) -> bytes:
        pcm = np.rint(wave).clip(-32768, 32767).astype("<i2").tobytes()
        encoding = self._format.encoding
        if encoding == "pcmu":
            return pcm_to_ulaw(pcm)
        if encoding == "pcma":
            return pcm_to_alaw(pcm)
        return pcm


def _loop_size(past: Signal, rate: int) -> int:
    """Samples of the stretch to repeat: whole pitch periods where there is a pitch."""
    compared, low, high = round(COMPARED * rate), round(SHORTEST * rate), round(LONGEST * rate)
    # Pitch is found at 8 kHz, and at the rate itself only nearby.
    coarse = rate // 8000
    period, likeness = _best_lag(past[::-1][::coarse][::-1], compared // coarse, low // coarse, high // coarse)
    if likeness < VOICED:
        return compared
    if coarse > 1:
        period, _ = _best_lag(past, compared, max(low, (period - 1) * coarse), min(high, (period + 1) * coarse))
    return period * -(-round(LOOP * rate) // period)


def _best_lag(past: Signal, compared: int, low: int, high: int) -> tuple[int, float]:
    """The lag in samples at which the past is most like its last `compared` samples, and how like (-1 to 1)."""
    last = past[-compared:]
    before = past[-compared - high : len(past) - low]
    products = np.correlate(before, last, "valid")
    squares = np.concatenate([[0.0], np.cumsum(before * before)])
    energies = squares[compared:] - squares[:-compared]
    likeness = products / np.sqrt(np.maximum(energies * float(last @ last), 1.0))
    # Of lags that are nearly as good, the shortest is the pitch; the others are its multiples.
    best = int(
        np.flatnonzero(likeness >= 0.97 * likeness.max() if likeness.max() > 0 else likeness == likeness.max())[-1]
    )
    return high - best, float(likeness[best])
