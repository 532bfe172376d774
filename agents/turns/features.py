"""The log-mel spectrogram that Whisper hears, for the last eight seconds of a turn.

The definition is that of Whisper's feature extractor with a chunk of eight seconds: 25 ms Hann windows (periodic)
every 10 ms, centred, with reflected edges; power; 80 triangular filters on Slaney's mel scale, each of unit area;
log10, no lower than 8 below the loudest; (x + 4) / 4. Before it all, the waveform is brought to mean 0 and
variance 1, silence in front included, as the end-of-turn model was trained.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRAMES", "MELS", "RATE", "SAMPLES", "log_mel"]

RATE: Final = 16_000
SAMPLES: Final = 8 * RATE
"""What the model hears: eight seconds."""
MELS: Final = 80
HOP: Final = 160
"""10 ms."""
WINDOW: Final = 400
"""25 ms."""
FRAMES: Final = SAMPLES // HOP

POWER_FLOOR: Final = 1e-10
VARIANCE_FLOOR: Final = 1e-7
"""Keeps digital silence from being divided by nothing."""


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the features of the last eight seconds; shorter audio gets silence in front.

    Args:
        samples: float32 mono at 16 kHz, full scale 1.

    Returns:
        float32 of shape (80, 800).
    """
    audio = np.zeros(SAMPLES, np.float32)
    if last := min(len(samples), SAMPLES):
        audio[-last:] = samples[-last:]
    audio = (audio - audio.mean()) / np.sqrt(audio.var() + np.float32(VARIANCE_FLOOR))
    padded = np.pad(audio, WINDOW // 2, mode="reflect")
    # The frame centred on the very end is left out, as Whisper does.
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:FRAMES]
    spectrum = np.fft.rfft(frames * _hann(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    mel = np.log10(np.maximum(power @ _filters(), POWER_FLOOR))
    mel = (np.maximum(mel, mel.max() - 8) + 4) / 4
    return np.ascontiguousarray(mel.T, np.float32)


@functools.cache
def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@functools.cache
def _filters() -> NDArray[np.float64]:
    """Shape (201, 80): from FFT bins to mel bands. Band i rises from corner i to i+1 and falls to i+2."""
    corners = _hertz(np.linspace(0, _mel(RATE / 2), MELS + 2))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return triangles


# Slaney's scale (Auditory Toolbox, 1998): linear up to 1 kHz, which is mel 15; from there 27 mels for each factor 6.4.
KNEE_HERTZ: Final = 1000.0
KNEE_MEL: Final = 15.0
MELS_A_LOG: Final = 27 / np.log(6.4)


def _mel(hertz: float) -> float:
    """For frequencies above the knee."""
    return float(KNEE_MEL + MELS_A_LOG * np.log(hertz / KNEE_HERTZ))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = KNEE_HERTZ * np.exp((mel - KNEE_MEL) / MELS_A_LOG)
    return np.where(mel < KNEE_MEL, mel * (KNEE_HERTZ / KNEE_MEL), above)
