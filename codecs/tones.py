"""Tones on the line: the beep of a mailbox."""

from __future__ import annotations

from typing import Final

import numpy as np

RATE: Final = 8000

FRAME: Final = 160
"""Samples judged at once: 20 ms, hence bins of 50 Hz."""

LOWEST, HIGHEST = 350, 2500
"""Hz: beeps of mailboxes lie between; a voice's fundamental lies below, most hiss above."""

PURITY: Final = 0.85
"""Share of the energy within 100 Hz of the strongest bin. A vowel spreads over its harmonics and stays below 0.7."""

QUIETEST: Final = 300.0
"""RMS in int16 units (-41 dBFS) below which nothing is a beep."""

SHORTEST: Final = 6
"""Frames in a row: 120 ms. Single notes of speech are shorter."""


class BeepDetector:
    """Hears one long pure tone. Feed it int16 mono at 8 kHz in any pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._bin = -9
        self._frames = 0
        self._window = np.hanning(FRAME)

    def push(self, pcm: bytes) -> bool:
        """Take audio; True once a beep has ended in it."""
        data = self._rest + pcm
        ended = False
        whole = len(data) // (2 * FRAME)
        for i in range(whole):
            ended |= self._judge(data[i * 2 * FRAME : (i + 1) * 2 * FRAME])
        self._rest = data[whole * 2 * FRAME :]
        return ended

    def _judge(self, frame: bytes) -> bool:
        samples = np.frombuffer(frame, "<i2").astype(np.float64)
        peak = -9
        if np.sqrt(np.mean(samples**2)) >= QUIETEST:
            energy = np.abs(np.fft.rfft(samples * self._window)) ** 2
            strongest = int(np.argmax(energy))
            near = energy[max(0, strongest - 2) : strongest + 3].sum()
            if LOWEST <= strongest * RATE / FRAME <= HIGHEST and near >= PURITY * energy.sum():
                peak = strongest
        if peak >= 0 and abs(peak - self._bin) <= 1:
            self._frames += 1
            return False
        ended = self._frames >= SHORTEST
        self._bin, self._frames = peak, int(peak >= 0)
        return ended
