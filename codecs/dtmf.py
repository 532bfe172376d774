"""DTMF in the audio itself: keys as tones (ITU-T Q.23), and their detection (Q.24).

The detector looks at windows of 25 ms, one every 5 ms. In each it fits one tone of either group, at the nominal
frequency or up to 2.25 % beside it, under a Hann weight, and asks how much of the energy the two explain. That share
(`PURITY`) does most of the work: it falls in proportion to the part of the window that the tones do not cover, so a
run of pure windows measures how long they lasted, and speech, whose energy lies in many harmonics, hardly ever
reaches it. A key is reported once, in its 5th pure window: some 33 ms after it began.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offhook.codecs.audio import AudioFormat
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm

__all__ = ["DIGITS", "DtmfDetector", "tones"]

LOW: Final = (697, 770, 852, 941)
HIGH: Final = (1209, 1336, 1477, 1633)
DIGITS: Final = "123A456B789C*0#D"
"""Row by row: the key of LOW[i] and HIGH[j] is DIGITS[4 * i + j]."""

LOW_LEVEL, HIGH_LEVEL = -15.2, -13.2
"""dBFS of the tones we send: -9 and -7 dBm0, the higher ones stronger because lines weaken them."""

RAMP: Final = 0.002
"""Seconds over which a tone swells and ends, lest it clicks."""

WINDOW: Final = 0.025
HOP: Final = 0.005

BESIDE: Final = (-0.0225, -0.015, -0.0075, 0.0, 0.0075, 0.015, 0.0225)
"""Where a tone is looked for, relative to its frequency. Q.24: taken up to 1.5 % off, refused from 3.5 % on; a tone
that fits best at either end is refused."""

PURITY: Final = 0.80
"""Share of the energy that the two tones explain, at the edges of a key too."""

CLEAR: Final = 0.92
"""The same in the middle of a key. Noise 15 dB below the tones leaves 0.97, μ-law 0.99; of vowels
that pass for keys for 30 ms, one in half an hour of speech, the share has been seen to reach 0.91."""

QUIETEST: Final = -40.0
"""dBFS of both tones together below which nothing is a key (about -34 dBm0; Q.24 asks for -25 to -29)."""

MOST_LOW, MOST_HIGH = 10.0, 8.0
"""dB by which the low tone may exceed the high one, and the other way round (Q.24: 8 and 4, in the middle)."""

SHORTEST, CLEAR_ONES = 5, 3
"""Pure windows in a row that make a key, and how many of them must be clear: a tone of 33 ms at least. Q.24: 40 ms is
a key, 23 ms is none."""

ENDED: Final = 7
"""Windows without the key until it counts as released: neither gaps of 10 ms nor a lost packet split it, 40 ms do."""

Signal = NDArray[np.float32]


def tones(digit: str, seconds: float, audio_format: AudioFormat) -> bytes:
    """Give the sound of a key.

    Args:
        digit: one of 0-9, *, #, A-D.
        seconds: how long; receivers need 0.04, and as much silence before the next.

    Raises:
        ValueError: there is no such key.
    """
    place = DIGITS.find(digit.upper()) if len(digit) == 1 else -1
    if place < 0:
        raise ValueError(f"digit {digit!r} is none of {''.join(sorted(DIGITS))}")
    rate = audio_format.rate
    count = round(seconds * rate)
    phase = np.arange(count) * (2 * np.pi / rate)
    wave = _amplitude(LOW_LEVEL) * np.sin(phase * LOW[place // 4])
    wave += _amplitude(HIGH_LEVEL) * np.sin(phase * HIGH[place % 4])
    ramp = np.minimum(np.arange(count) + 1, RAMP * rate) / (RAMP * rate)
    pcm: bytes = np.rint(wave * ramp * ramp[::-1]).astype("<i2").tobytes()
    if audio_format.encoding == "pcmu":
        return pcm_to_ulaw(pcm)
    if audio_format.encoding == "pcma":
        return pcm_to_alaw(pcm)
    return pcm


def _amplitude(dbfs: float) -> float:
    return float(32768 * np.sqrt(2) * 10 ** (dbfs / 20))


class _Bank(NamedTuple):
    """What the windows of a rate are multiplied with."""

    weight: Signal
    "Hann, of sum 1; shape (samples,)."
    waves: Signal
    "Cosines, then sines, of every place of every tone, weighted so that squares are energies; shape (samples, 2 * 56)."


@lru_cache(maxsize=4)
def _bank(rate: int) -> _Bank:
    count = round(WINDOW * rate)
    weight = np.hanning(count + 2)[1:-1]
    weight /= weight.sum()
    frequencies = np.outer(LOW + HIGH, 1 + np.array(BESIDE)).ravel()
    phase = np.outer(np.arange(count), frequencies * (2 * np.pi / rate))
    waves = np.sqrt(2) * weight[:, None] * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    return _Bank(weight.astype(np.float32), waves.astype(np.float32))


class DtmfDetector:
    """Hears the keys in one stream, each press once."""

    __slots__ = (
        "_absent",
        "_bank",
        "_candidate",
        "_clear",
        "_encoding",
        "_hits",
        "_hop",
        "_pressed",
        "_quietest",
        "_rest",
    )

    def __init__(self, audio_format: AudioFormat) -> None:
        self._encoding = audio_format.encoding
        self._bank = _bank(audio_format.rate)
        self._hop = round(HOP * audio_format.rate)
        self._rest: Signal = np.zeros(0, np.float32)
        self._quietest = 10 ** (QUIETEST / 10) * 32768**2
        self._candidate = ""
        self._hits = self._clear = 0
        self._pressed = ""
        self._absent = 0

    def feed(self, audio: bytes) -> list[str]:
        """Take audio in the format, whole samples, any length; give the keys that were recognised in it."""
        if self._encoding == "pcmu":
            audio = ulaw_to_pcm(audio)
        elif self._encoding == "pcma":
            audio = alaw_to_pcm(audio)
        signal = np.concatenate([self._rest, np.frombuffer(audio, "<i2")], dtype=np.float32)
        size, hop = len(self._bank.weight), self._hop
        count = (len(signal) - size) // hop + 1
        if count <= 0:
            self._rest = signal
            return []
        self._rest = signal[count * hop :]
        # One window every `hop` samples, all of them views; sliding_window_view takes 15 us for the same.
        windows: Signal = np.ndarray((count, size), np.float32, signal, strides=(4 * hop, 4))
        return [digit for digit, clear in self._look(windows) if self._step(digit, clear)]

    def _step(self, digit: str, clear: bool) -> bool:
        """Take what one window holds; True when it makes a key."""
        if digit and digit == self._pressed:
            self._absent = 0
            return False
        if self._pressed:
            self._absent += 1
            if self._absent >= ENDED:
                self._pressed = ""
        if digit != self._candidate:
            self._candidate, self._hits, self._clear = digit, 0, 0
        self._hits += 1
        self._clear += clear
        if not digit or self._hits < SHORTEST or self._clear < CLEAR_ONES:
            return False
        self._pressed, self._absent = digit, 0
        return True

    def _look(self, windows: Signal) -> list[tuple[str, bool]]:
        """The key in each window ("" where there is none), and whether it is clear."""
        bank = self._bank
        total = (windows * windows) @ bank.weight
        if total.max() < self._quietest:
            return [("", False)] * len(windows)
        fits = windows @ bank.waves
        half = fits.shape[1] // 2
        fits *= fits
        energy = (fits[:, :half] + fits[:, half:]).reshape(len(windows), 2, 4 * len(BESIDE))
        strongest = energy.max(axis=2)
        share = strongest.sum(axis=1) / np.maximum(total, self._quietest)
        found = [("", False)] * len(windows)
        for i in np.flatnonzero(share >= PURITY):
            row, at_low = divmod(int(energy[i, 0].argmax()), len(BESIDE))
            column, at_high = divmod(int(energy[i, 1].argmax()), len(BESIDE))
            low, high = strongest[i]
            if (
                0 < at_low < len(BESIDE) - 1
                and 0 < at_high < len(BESIDE) - 1
                and low <= high * 10 ** (MOST_LOW / 10)
                and high <= low * 10 ** (MOST_HIGH / 10)
            ):
                found[i] = (DIGITS[4 * row + column], bool(share[i] >= CLEAR))
        return found
