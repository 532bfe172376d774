"""Asterisk's linear audio at every rate it has, and how it is carried here.

Asterisk names signed linear audio `slin` and its thousands of samples a second; offhook carries 8, 16, 24 and 48 kHz.
Audio at another rate is converted to the next higher of these, or to 48 kHz, on its way in, and back on its way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import soxr

from offhook.codecs.audio import PCMA, PCMU, RATES, AudioFormat
from offhook.codecs.pcm import WholeSamples
from offhook.codecs.resample import Resampler

SLIN: Final = {
    "slin": 8000,
    "slin8": 8000,
    "slin12": 12_000,
    "slin16": 16_000,
    "slin24": 24_000,
    "slin32": 32_000,
    "slin44": 44_100,
    "slin48": 48_000,
    "slin96": 96_000,
    "slin192": 192_000,
}
"""Rates in Hz by Asterisk's name of the format."""

G711: Final = {"ulaw": PCMU, "alaw": PCMA}
"""Asterisk's names of what goes through untouched."""


def carried(rate: int) -> AudioFormat:
    """The format in which linear audio of this rate is carried.

    >>> str(carried(16_000)), str(carried(12_000)), str(carried(192_000))
    ('l16/16000', 'l16/16000', 'l16/48000')
    """
    return AudioFormat("l16", next((known for known in RATES if known >= rate), RATES[-1]))


def rate_converter(source: int, target: int) -> Callable[[bytes], bytes]:
    """What turns one stream of int16 mono at `source` Hz into one at `target` Hz, piece by piece.

    At equal rates the very object comes back. Any number of bytes may go in; at rates that offhook does not carry,
    what comes out lags by a few milliseconds and varies in size by a few samples.
    """
    if source == target:
        return _same
    if source in RATES and target in RATES:
        return Resampler(source, target).process
    return _AnyRate(source, target).process


def _same(pcm: bytes) -> bytes:
    return pcm


class _AnyRate:
    """A streaming conversion between any two rates."""

    def __init__(self, source: int, target: int) -> None:
        # Low quality: 16 bits, with the shortest delay that still keeps images and aliases below hearing.
        self._stream = soxr.ResampleStream(source, target, 1, dtype="int16", quality="LQ")
        self._whole = WholeSamples()

    def process(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(self._whole.push(pcm), "<i2")
        if not len(samples):
            return b""
        out: bytes = self._stream.resample_chunk(samples.astype(np.int16)).astype("<i2").tobytes()
        return out
