"""Linear PCM: int16 little-endian mono, as bytes. Level, gain, mixing, and tones.

Levels are dBFS against a full-scale square wave (an RMS of 32768), so a full-scale sine reads -3.01.
"""

from __future__ import annotations

import math
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # As in g711: 3.11 and 3.12 warn of what `audioop-lts` brings back in 3.13.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = [
    "SILENCE_DBFS",
    "WholeSamples",
    "dbfs",
    "gain",
    "lay_under",
    "mix",
    "peak",
    "rms",
    "scale",
    "silence",
    "tone",
    "whole_rms",
]

FULL_SCALE: Final = 32768

SILENCE_DBFS: Final = -100.0
"""What digital silence reads: below the quietest int16 signal there is (-90.3), and still a number JSON has."""


class WholeSamples:
    """Carries the odd byte of a sample that was cut in two over to the next piece."""

    __slots__ = ("_odd",)

    def __init__(self) -> None:
        self._odd = b""

    def push(self, data: bytes) -> bytes:
        """Give every whole sample so far: `data` itself where nothing is left over."""
        if self._odd:
            data = self._odd + data
            self._odd = b""
        if len(data) % 2:
            self._odd = data[-1:]
            data = data[:-1]
        return data


def rms(pcm: bytes) -> float:
    """Root mean square in int16 units, 0 to 32768; 0 of nothing."""
    if not pcm:
        return 0.0
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return math.sqrt(float(samples @ samples) / len(samples))


def whole_rms(pcm: bytes) -> int:
    """Root mean square in whole int16 units, rounded down; 0 of nothing. A fifth of a microsecond for 10 ms."""
    return int(audioop.rms(pcm, 2))


def peak(pcm: bytes) -> int:
    """Largest amplitude, 0 to 32768; a microsecond for a frame."""
    return int(audioop.max(pcm, 2))


def dbfs(pcm: bytes) -> float:
    """Level in dBFS, at most 0; `SILENCE_DBFS` for silence or nothing."""
    level = rms(pcm)
    return 20 * math.log10(level / FULL_SCALE) if level else SILENCE_DBFS


def gain(pcm: bytes, decibels: float) -> bytes:
    """Amplify (or soften, below 0 dB); what leaves the int16 range saturates."""
    return _saturate(np.rint(np.frombuffer(pcm, "<i2") * 10 ** (decibels / 20)))


def mix(one: bytes, other: bytes) -> bytes:
    """Add two stretches that begin together; the shorter one ends in silence, the sum saturates."""
    if len(one) < len(other):
        one, other = other, one
    total = np.frombuffer(one, "<i2").astype(np.float64)
    total[: len(other) // 2] += np.frombuffer(other, "<i2")
    return _saturate(total)


def scale(pcm: bytes, factor: float) -> bytes:
    """Multiply every sample; what leaves the int16 range saturates. The fast way for a frame, rounding down."""
    return audioop.mul(pcm, 2, factor)


def lay_under(voice: bytes, bed: bytes) -> bytes:
    """Add a bed to a voice of equal length without clipping: where both do not fit, the bed gives way.

    The voice keeps its level; the bed is softened for this stretch to the room that the voice's peak leaves.
    """
    room = max(0, FULL_SCALE - 1 - audioop.max(voice, 2))
    peak = audioop.max(bed, 2)
    if peak > room:
        bed = audioop.mul(bed, 2, room / peak)
    return audioop.add(voice, bed, 2)


def silence(seconds: float, rate: int) -> bytes:
    """Digital silence."""
    return bytes(2 * round(seconds * rate))


def tone(frequency: float, seconds: float, rate: int, level: float = -15.0) -> bytes:
    """A sine of `frequency` Hz that starts at phase 0, at `level` dBFS (the loudest sine there is: -3.01)."""
    phase = np.arange(round(seconds * rate)) * (2 * math.pi * frequency / rate)
    peak = min(FULL_SCALE * math.sqrt(2) * 10 ** (level / 20), FULL_SCALE - 1)
    wave: NDArray[np.float64] = np.rint(np.sin(phase) * peak)
    return wave.astype("<i2").tobytes()


def _saturate(samples: NDArray[np.float64]) -> bytes:
    limited: NDArray[np.float64] = samples.clip(-FULL_SCALE, FULL_SCALE - 1)
    return limited.astype("<i2").tobytes()
