"""Streaming sample-rate conversion that withholds nothing.

Theory of operation
-------------------
A polyphase FIR: one low-pass prototype at the common multiple of both rates, cut at half the lower rate, a
Kaiser-windowed sinc with 24 samples of the lower rate on either side. That makes 48 taps a phase from 8 to
16 kHz and a constant delay of 24 samples of the lower rate, 3 ms when that is 8 kHz. The first output comes
with the first input: 20 ms in, 20 ms out, from the first frame on.

`up` and `down` are the ratio in lowest terms: every `down` input samples (a step) give exactly `up` output
samples. Input that is no whole step waits for the rest of it, and so does the odd byte of a sample. Steps are
gathered into rows of `ROW_STEPS`; a row of outputs is a row of inputs and their history times one constant
matrix, so a frame is one small matrix product.

The taps are multiples of 2^-30 and the samples int16, so every partial sum fits a double without rounding
(15 + 30 + 2 bits of 53). The sum is exact in any order: neither the cutting into pieces nor the machine's
linear algebra can change one bit of the output.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from offhook.codecs.audio import FRAME_MS, RATES

__all__ = ["Resampler"]

SIDE: Final = 24
"""Prototype length on either side of its centre, in samples of the lower rate: the delay."""

KAISER_BETA: Final = 9.0
"""Images of 3 kHz -96 dB, of 3.4 kHz -94 dB; 3.4 kHz itself within 0.001 dB, 3.6 kHz -0.02 dB."""

ROW_STEPS: Final = 16
"""Steps a row of the matrix product: divides every frame, and is the fastest of those that do."""

_LOWEST: Final = np.array(-32768.0)
_HIGHEST: Final = np.array(32767.0)


class Resampler:
    """Converts one stream of int16 mono from one rate of `audio.RATES` to another.

    Not thread-safe: one object a stream. About 15 kB each.

    Raises:
        ValueError: a rate is not one offhook carries, or both are the same.
    """

    def __init__(self, source: int, target: int) -> None:
        for name, rate in (("source", source), ("target", target)):
            if rate not in RATES:
                raise ValueError(f"{name} rate {rate!r} is not one of {', '.join(map(str, RATES))}")
        if source == target:
            raise ValueError(f"source and target rate are both {source}: there is nothing to convert")
        divisor = math.gcd(source, target)
        self._up, self._down = target // divisor, source // divisor
        self._matrix, self._history = _matrix(self._up, self._down)
        self._frame = source * FRAME_MS // 1000
        self._row = ROW_STEPS * self._down
        rows = self._frame // self._row
        self._rest = b""
        self._inputs: NDArray[np.float64] = np.zeros(self._history + self._frame)
        # Every row with the history it needs, as overlapping views of the inputs.
        self._views = as_strided(
            self._inputs,
            (rows, self._history + self._row),
            (self._inputs.itemsize * self._row, self._inputs.itemsize),
            writeable=False,
        )
        # The product wants rows that do not overlap, and somewhere to go.
        self._rows: NDArray[np.float64] = np.empty(self._views.shape)
        self._outputs: NDArray[np.float64] = np.empty((rows, ROW_STEPS * self._up))
        self.delay: Final = SIDE / min(source, target)
        "Seconds by which the output lags the input."

    def process(self, pcm: bytes) -> bytes:
        """Take int16 little-endian samples of any number of bytes; give all output they determine.

        The sum of the outputs never depends on how the input was cut. A whole number of milliseconds in
        gives as many out; the last `delay` seconds of a stream come out when as much silence follows.
        """
        if self._rest:
            pcm = self._rest + pcm
            self._rest = b""
        if over := len(pcm) % (2 * self._down):
            self._rest = pcm[-over:]
            pcm = pcm[:-over]
        samples: NDArray[np.int16] = np.frombuffer(pcm, "<i2")
        if len(samples) == self._frame:
            return self._convert(samples)
        pieces = range(0, len(samples), self._frame)
        return b"".join([self._convert(samples[at : at + self._frame]) for at in pieces])

    def _convert(self, samples: NDArray[np.int16]) -> bytes:
        """Convert whole steps, a frame at most."""
        size = len(samples)
        inputs, views, rows, outputs = self._inputs, self._views, self._rows, self._outputs
        inputs[self._history : self._history + size] = samples
        if size != self._frame:
            # The last row may be half full: what it makes of the old samples behind the new is cut off below.
            count = -(-size // self._row)
            views, rows, outputs = views[:count], rows[:count], outputs[:count]
        np.copyto(rows, views)
        np.matmul(rows, self._matrix, out=outputs)
        inputs[: self._history] = inputs[size : size + self._history]
        np.rint(outputs, out=outputs)
        outputs.clip(_LOWEST, _HIGHEST, out=outputs)
        return outputs.astype("<i2").tobytes()[: 2 * size // self._down * self._up]


@functools.cache
def _matrix(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """The matrix that turns a row of inputs, after `history` earlier ones, into a row of outputs."""
    taps = _prototype(up, down)
    history = (len(taps) - 1) // up
    inputs = np.arange(-history, ROW_STEPS * down)
    outputs = np.arange(ROW_STEPS * up)
    # Output n is the sum over k of tap[n * down - k * up] * input[k].
    index = outputs[None, :] * down - inputs[:, None] * up
    matrix = np.where((index >= 0) & (index < len(taps)), taps[index.clip(0, len(taps) - 1)], 0.0)
    matrix.flags.writeable = False
    return matrix, history


def _prototype(up: int, down: int) -> NDArray[np.float64]:
    """Taps at `up` times the source rate, odd in number, every phase of unit gain at 0 Hz."""
    widest = max(up, down)
    at = np.arange(-SIDE * widest, SIDE * widest + 1)
    taps: NDArray[np.float64] = np.sinc(at / widest) * np.kaiser(len(at), KAISER_BETA)
    for phase in range(up):
        taps[phase::up] /= taps[phase::up].sum()
    scale = 2.0**30
    return np.rint(taps * scale) / scale
