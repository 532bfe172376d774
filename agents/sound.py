"""Sounds for under and between the words: hold music, ringback, ambience, a sound of thinking.

`load` gives a loop for `AgentCall.bed`, out of a WAV file or made here. A file is read, resampled and brought to one
level once a host; the loops made here need no file, and come out the same on every machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offhook.agents import link
from offhook.agents.api import SettingsError
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import convert_all, resample_all
from offhook.codecs.g711 import alaw_to_pcm, ulaw_to_pcm
from offhook.codecs.wav import WavError, parse_wav

MAX_SECONDS: Final = 40.0
"""Of one loop: it travels to the gateway with every call that uses it, among the audio of others."""

MAX_BYTES: Final = (link.MAX_BODY - 4096) * 3 // 4
"""Of one loop, which travels as base64 in one message of the link: 24 s in L16 at 16 kHz."""

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of a sound file: five minutes of studio quality, of which the beginning is used."""

SEAM: Final = 0.08
"""Seconds in which the end of a file's sound fades into its beginning."""

LEVEL: Final = -24.0
"""RMS of a file's sound in dBFS: as loud as a voice that does not press."""

PEAK: Final = 0.6
"""Of full scale; a sound with higher peaks stays below LEVEL."""

KEPT: Final = 32
"""Loops kept, each of 320 kB in G.711."""

Samples = NDArray[np.float64]
"""Of full scale 1."""


def load(source: str, format: AudioFormat) -> bytes:
    """Make a loop without a seam. Blocks when it is new to this host, up to some 100 ms: load sounds in `warm`.

    Args:
        source: a name out of BUILT_IN, or the path of a WAV file (16-bit PCM or G.711, any rate, any channels).
            Of a long one the beginning is taken, MAX_SECONDS and MAX_BYTES at most.
        format: of the loop: `AgentCall.format` for a bed.

    Raises:
        SettingsError: there is no such sound, or the file is no WAV file that can be read; the text names it.
    """
    if source in BUILT_IN:
        return _made(source, format)
    stat = _found(source)
    return _read(source, stat.st_mtime_ns, stat.st_size, format)


def prompt(source: str, format: AudioFormat) -> bytes:
    """The same sound to be played once: from its beginning to its end, not a loop. Blocks. Raises SettingsError."""
    if source in BUILT_IN:
        return _made(source, format)
    stat = _found(source)
    return _read(source, stat.st_mtime_ns, stat.st_size, format, loop=False)


def _found(path: str) -> os.stat_result:
    try:
        stat = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            f"sound {path!r}: {reason}; give the path of a WAV file, or one of {', '.join(BUILT_IN)}"
        ) from error
    if stat.st_size > MAX_FILE:
        raise SettingsError(
            f"sound {path}: {stat.st_size >> 20} MB; the limit is {MAX_FILE >> 20}. Cut it to {MAX_SECONDS:g} s, "
            "more is never heard"
        )
    return stat


@lru_cache(maxsize=KEPT)
def _made(name: str, format: AudioFormat) -> bytes:
    samples, level = BUILT_IN[name](format.rate)
    return _bytes(_levelled(samples, level), format)


@lru_cache(maxsize=KEPT)
def _read(path: str, stamp: int, size: int, format: AudioFormat, *, loop: bool = True) -> bytes:
    """Time and size of the file are asked for so that a changed file is another one."""
    samples, rate = _samples(path)
    if not loop:
        return _encoded(samples[: int(MAX_SECONDS * rate)], rate, format)
    seconds = min(MAX_SECONDS, format.duration(MAX_BYTES) - SEAM)
    return _encoded(_looped(samples[: int((seconds + SEAM) * rate)], rate), rate, format)


def _samples(path: str) -> tuple[Samples, int]:
    try:
        encoding, rate, channels, data = parse_wav(Path(path).read_bytes(), name=f"sound {path}")
    except WavError as error:
        raise SettingsError(str(error)) from error
    except OSError as error:
        raise SettingsError(f"sound {path!r}: {error.strerror}; give the path of a WAV file") from error
    pcm = {"pcmu": ulaw_to_pcm, "pcma": alaw_to_pcm}.get(encoding, bytes)(data)
    samples = np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(axis=1) / 32768
    if len(samples) < rate // 50:
        raise SettingsError(f"sound {path}: {len(samples)} samples are no sound; it takes 20 ms at least")
    return samples, rate


def _looped(samples: Samples, rate: int) -> Samples:
    """Fade the end into the beginning, at equal power, and leave the end away."""
    seam = min(int(SEAM * rate), len(samples) // 4)
    phase = np.linspace(0, math.pi / 2, seam)
    body = samples[: len(samples) - seam].copy()
    body[:seam] = body[:seam] * np.sin(phase) + samples[len(samples) - seam :] * np.cos(phase)
    return body


def _encoded(samples: Samples, rate: int, format: AudioFormat) -> bytes:
    if rate != format.rate:
        # A little of either end around it, so that the filter does not hear an edge at the seam of a loop.
        edge = min(len(samples), rate // 50)
        around = np.concatenate((samples[-edge:], samples, samples[:edge]))
        pcm = np.frombuffer(resample_all(_pcm(around), rate, format.rate), "<i2") / 32768
        start = round(edge * format.rate / rate)
        samples = pcm[start : start + round(len(samples) * format.rate / rate)]
    return _bytes(_levelled(samples, LEVEL), format)


def _levelled(samples: Samples, level: float) -> Samples:
    rms, peak = math.sqrt(float(np.mean(samples**2))), float(np.abs(samples).max())
    if not peak:
        return samples
    return samples * min(10 ** (level / 20) / rms, PEAK / peak)


def _pcm(samples: Samples) -> bytes:
    return np.rint(samples * 32767).clip(-32768, 32767).astype("<i2").tobytes()


def _bytes(samples: Samples, format: AudioFormat) -> bytes:
    return convert_all(_pcm(samples), AudioFormat("l16", format.rate), format)


# --- made here: functions of the rate that give one period, and its level in dBFS ---------------


def _tones(frequencies: tuple[float, ...], on: float, off: float) -> Callable[[int], tuple[Samples, float]]:
    def make(rate: int) -> tuple[Samples, float]:
        at = np.arange(int(on * rate)) / rate
        sound = sum((np.sin(2 * math.pi * frequency * at) for frequency in frequencies), np.zeros(len(at)))
        ramp = np.minimum(1, np.minimum(at, on - at) / 0.005)  # no click
        return np.concatenate((sound * ramp, np.zeros(int(off * rate)))), -22 - 10 * math.log10((on + off) / on)

    return make


HOLD_BEAT: Final = 0.3125
"""Seconds of one note; 64 of them make the tune."""

HOLD_CHORDS: Final = (
    (48, 55, 64, 67, 71),  # C major seventh, as MIDI notes: the bass first
    (45, 52, 60, 64, 67),  # A minor seventh
    (41, 53, 57, 60, 64),  # F major seventh
    (43, 50, 59, 62, 65),  # G seventh
    (48, 55, 64, 67, 71),
    (40, 52, 59, 62, 67),  # E minor seventh
    (41, 53, 57, 60, 64),
    (43, 53, 59, 62, 65),
)

HOLD_FIGURE: Final = (1, 2, 3, 4, 3, 2, 3, 2)
"""Which notes of a chord follow each other."""


def _hold(rate: int) -> tuple[Samples, float]:
    """A slow figure of soft bells over eight chords, 20 s."""
    size = int(HOLD_BEAT * len(HOLD_CHORDS) * len(HOLD_FIGURE) * rate)
    tune = np.zeros(size)

    def strike(note: int, at: float, lasting: float, loud: float) -> None:
        time = np.arange(int(4 * lasting * rate)) / rate
        pitch = 440 * 2 ** ((note - 69) / 12)
        bell = sum(
            (
                strength * np.sin(2 * math.pi * pitch * partial * time) * np.exp(-time * partial / lasting)
                for partial, strength in ((1, 1.0), (2, 0.35), (3, 0.12))
            ),
            np.zeros(len(time)),
        )
        bell *= loud * np.minimum(1, time / 0.012)
        # What sounds on after the end belongs to the beginning.
        np.add.at(tune, (int(at * rate) + np.arange(len(bell))) % size, bell)

    for bar, chord in enumerate(HOLD_CHORDS):
        begin = bar * len(HOLD_FIGURE) * HOLD_BEAT
        strike(chord[0] + 12, begin, 1.4, 0.5)
        for beat, voice in enumerate(HOLD_FIGURE):
            strike(chord[voice] + 12, begin + beat * HOLD_BEAT, 0.5, 0.5 if beat % 4 else 0.7)
    return tune, -24


def _thinking(rate: int) -> tuple[Samples, float]:
    """Somebody types, not fast, with a look at the screen now and then; 8 s."""
    chance = np.random.default_rng(8)
    size = 8 * rate
    sound = np.zeros(size)
    time = np.arange(int(0.05 * rate)) / rate
    at = 0.1
    while at < 7.6:
        loud = chance.uniform(0.5, 1.0)
        click = chance.standard_normal(len(time)) * np.exp(-time / 0.004)
        click = np.convolve(click, (0.25, 0.5, 0.25), "same")
        thock = 0.6 * np.sin(2 * math.pi * chance.uniform(240, 320) * time) * np.exp(-time / 0.012)
        start = int(at * rate)
        sound[start : start + len(time)] += loud * (click + thock)
        at += chance.uniform(0.11, 0.24) if chance.random() > 0.15 else chance.uniform(0.5, 0.9)
    return sound, -46


def _office(rate: int) -> tuple[Samples, float]:
    """Pink noise between 80 Hz and 3 kHz that swells a little, 20 s: a room with people far off."""
    size = 20 * rate
    chance = np.random.default_rng(20)
    frequency = np.fft.rfftfreq(size, 1 / rate)
    strength = np.zeros(len(frequency))
    heard = (frequency > 80) & (frequency < 3000)
    strength[heard] = 1 / np.sqrt(frequency[heard])
    spectrum = strength * np.exp(2j * math.pi * chance.random(len(frequency)))
    noise = np.fft.irfft(spectrum, size)  # of whole periods, so it goes round
    turn = 2 * math.pi * np.arange(size) / size
    return noise * (1 + 0.25 * np.sin(3 * turn) + 0.15 * np.sin(7 * turn + 1)), -40


BUILT_IN: Final[dict[str, Callable[[int], tuple[Samples, float]]]] = {
    "hold": _hold,
    "office": _office,
    "ringback": _tones((425.0,), 1.0, 4.0),  # Europe: ITU-T E.180 supplement 2
    "ringback-us": _tones((440.0, 480.0), 2.0, 4.0),  # North America: the same
    "thinking": _thinking,
}
"""Sounds that need no file: hold music, ambience, ringback of two continents, typing."""
