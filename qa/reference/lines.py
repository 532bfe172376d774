"""What the reference says: samples whose first and last are voiced, so that it is known when it speaks.

With flite installed it says words; without it, or for a calibration, a made-up voice of pulses through formants,
which sets in and breaks off from one sample to the next and has no pause. Either is the same for the same text.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from offhook.codecs.convert import resample_all
from offhook.codecs.wav import parse_wav
from offhook.qa.reference.ear import RATE, Samples

Voice = Literal["auto", "flite", "made-up"]

GREETING: Final = "Hello, this is the reference agent. How may I help you today?"
ANSWERS: Final = (
    "Thank you for telling me. I have made a note of it and will see to it right away. What else would you like?",
    "I understand. That can be arranged without any trouble, it only takes a moment of your time. Shall I go on?",
    "Certainly. Your request has been written down and somebody will look after it this week. Is there more?",
    "Very well. We are open from nine in the morning until five in the afternoon. Would that suit you?",
)
"""In turn, from the first one on in every call."""
REPROMPT: Final = "Are you still there?"
GOODBYE: Final = "Thank you for calling the reference agent. Goodbye."
TRANSFER: Final = "One moment please, I will connect you."
PRESSED: Final = "You pressed"
KEYS: Final = {
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "*": "star",
    "#": "pound",
    **{key: key for key in "ABCD"},
}

KEY_GAP_S: Final = 0.050
"""Between spoken keys, which break off: 60 ms would be a hole in the sentence."""

VOICED: Final = 328
"""Size of a sample that counts as voice, 1 % of full scale: a line begins and ends with one."""

SYNTHESIS_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """Something to say."""

    text: str
    samples: Samples
    "The first and the last are voiced."

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / RATE


class Lines:
    """Everything that the reference may say, at one level.

    Args:
        voice: `auto` is flite where it is installed.

    Raises:
        RuntimeError: flite was asked for and is not installed, or failed.
    """

    def __init__(self, voice: Voice = "auto") -> None:
        if voice == "auto":
            voice = "flite" if shutil.which("flite") else "made-up"
        self.voice = voice
        texts = [GREETING, *ANSWERS, REPROMPT, GOODBYE, TRANSFER, PRESSED, *KEYS.values()]
        speak = _flite if voice == "flite" else made_up
        with ThreadPoolExecutor(2) as threads:
            self._said: Mapping[str, Samples] = dict(zip(texts, threads.map(speak, texts), strict=True))

    def line(self, text: str, level: float, gain: float = 0.0) -> Line:
        """A line at a level, dBov of its louder half; `gain` dB on top may clip it."""
        return Line(text, at_level(self._said[text], level, gain))

    def keys(self, digits: str, level: float, gain: float = 0.0) -> Line:
        """Keys, spoken one by one."""
        pause = np.zeros(int(KEY_GAP_S * RATE), np.int16)
        pieces: list[Samples] = [self._said[PRESSED]]
        for digit in digits:
            pieces += [pause, self._said[KEYS[digit]]]
        text = " ".join([PRESSED, *(KEYS[digit] for digit in digits)])
        return Line(text, at_level(np.concatenate(pieces), level, gain))


def louder_half(samples: Samples) -> float:
    """dBov of the louder half of the whole 20 ms pieces: a level that pauses do not lower. 0 is a full-scale square."""
    size = RATE // 50
    pieces = samples[: len(samples) // size * size].astype(np.float64).reshape(-1, size)
    power = np.sort(np.square(pieces).mean(axis=1))
    return float(10 * np.log10(max(power[len(power) // 2 :].mean(), 1e-3) / 32768.0**2))


def at_level(samples: Samples, level: float, gain: float = 0.0) -> Samples:
    """Scale to a level of the louder half, and then by `gain` dB; clips."""
    factor = 10 ** ((level - louder_half(samples) + gain) / 20)
    return np.clip(np.rint(samples.astype(np.float64) * factor), -32768, 32767).astype(np.int16)


def made_up(text: str) -> Samples:
    """A voice for a text: 55 ms a letter, pitch and vowels by the text alone."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    size = max(RATE // 4, int(0.055 * RATE * len(text)))
    phase = np.cumsum(118 + 14 * np.sin(np.arange(size) * (2 * np.pi * 0.7 / RATE))) / RATE
    pulses = np.zeros(size)
    pulses[np.flatnonzero(np.diff(np.floor(phase), prepend=-1.0) > 0)] = 1.0
    vowel = int(0.16 * RATE)
    wave = np.zeros(size + vowel)
    for begin in range(0, size, vowel):
        part = pulses[begin : begin + vowel]
        rung = np.convolve(part, _mouth(rng.uniform(450, 700), rng.uniform(1100, 1800)))
        wave[begin : begin + len(rung)] += rung[: len(wave) - begin]
    return _trimmed(np.rint(wave[:size] * (12000 / np.abs(wave[:size]).max())).astype(np.int16))


def _mouth(first: float, second: float) -> npt.NDArray[np.float64]:
    """The ring of two formants after a pulse, 8 ms of it: loud from the first sample on."""
    time = np.arange(RATE // 125) / RATE
    return np.asarray(
        np.exp(-time * 350) * (np.cos(2 * np.pi * first * time) + 0.5 * np.cos(2 * np.pi * second * time))
    )


def _trimmed(samples: Samples) -> Samples:
    voiced = np.flatnonzero(np.abs(samples.astype(np.int32)) >= VOICED)
    if not len(voiced):
        raise RuntimeError("the synthesiser gave silence")
    return samples[int(voiced[0]) : int(voiced[-1]) + 1]


def _flite(text: str) -> Samples:
    with tempfile.TemporaryDirectory(prefix="offhook-reference-") as folder:
        # By files, for flite writes its WAV header by seeking back.
        written, spoken = Path(folder, "text"), Path(folder, "voice.wav")
        written.write_text(text)
        command: Sequence[str | Path] = ["flite", "-voice", "slt", "-f", written, "-o", spoken]
        try:
            subprocess.run(command, capture_output=True, timeout=SYNTHESIS_TIMEOUT_S, check=True)
            _, rate, channels, data = parse_wav(spoken.read_bytes(), name="flite")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise RuntimeError(
                f"flite failed: {error}; install it (apt install flite), or use --voice made-up"
            ) from error
    mono = np.frombuffer(data, "<i2")[::channels]
    samples = np.frombuffer(resample_all(mono.tobytes(), rate, RATE), "<i2").astype(np.float64)
    return _trimmed(np.rint(samples * (12000 / max(np.abs(samples).max(), 1.0))).astype(np.int16))
