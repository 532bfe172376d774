"""What a telephone line carries besides clean speech: noise, coughs, knocks, keys, and the line itself.

Signals are float64 at 8 kHz, full scale 1. Whatever is random takes the generator it is random by, so the same
seed gives the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.activity import RATE, Samples

Signal = NDArray[np.float64]
"""Mono at 8 kHz, full scale 1."""

Noise = Literal["white", "babble", "street"]
NOISES: Final[tuple[Noise, ...]] = ("white", "babble", "street")

TALKERS: Final = 8
"""Voices in a babble: with fewer one begins to understand them, and so does a detector."""

LINE_NOISE: Final = 3e-4
"""What a quiet line carries, -70 dBFS: no line is digitally silent."""

DTMF: Final = {
    "1": (697, 1209),
    "2": (697, 1336),
    "3": (697, 1477),
    "4": (770, 1209),
    "5": (770, 1336),
    "6": (770, 1477),
    "7": (852, 1209),
    "8": (852, 1336),
    "9": (852, 1477),
    "0": (941, 1336),
}
"""Frequencies of the keys in Hz (ITU-T Q.23)."""


def telephone(signal: Signal) -> Signal:
    """300 to 3400 Hz, as the network passes it."""
    spectrum = np.fft.rfft(signal)
    frequency = np.fft.rfftfreq(len(signal), 1 / RATE)
    gain = 1 / np.sqrt(1 + (300 / np.maximum(frequency, 1)) ** 8) / np.sqrt(1 + (frequency / 3400) ** 24)
    return np.fft.irfft(spectrum * gain, len(signal))


def at_level(signal: Signal, dbfs: float) -> Signal:
    """Scale so that the louder half of the 20 ms frames has this level."""
    power = np.sort((signal[: len(signal) // 160 * 160].reshape(-1, 160) ** 2).mean(axis=1))
    return signal * float(10 ** (dbfs / 20) / np.sqrt(power[len(power) // 2 :].mean()))


def carried(signal: Signal) -> Samples:
    """What arrives after μ-law."""
    pcm = (np.clip(signal, -1, 32767 / 32768) * 32768).astype("<i2").tobytes()
    return np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(pcm)), "<i2")


# --- behind the caller -----------------------------------------------------------------


def noise(kind: Noise, size: int, dbfs: float, rng: np.random.Generator, lines: Sequence[Signal] = ()) -> Signal:
    """Background of `size` samples at a level; `lines` is what the people of a babble say."""
    if kind == "white":
        wave = rng.normal(size=size)
    elif kind == "babble":
        wave = sum((_talk(size, rng, lines) for _ in range(TALKERS)), np.zeros(size))
    else:
        wave = _street(size, rng)
    return at_level(telephone(wave), dbfs)


def _talk(size: int, rng: np.random.Generator, lines: Sequence[Signal]) -> Signal:
    """One person who talks on and on, and had begun before."""
    pieces: list[Signal] = []
    late = int(rng.uniform(0, 2) * RATE)
    while sum(map(len, pieces)) < size + late:
        pieces += [lines[int(rng.integers(len(lines)))], np.zeros(int(rng.uniform(0.1, 0.5) * RATE))]
    return np.concatenate(pieces)[late : late + size]


def _street(size: int, rng: np.random.Generator) -> Signal:
    """Engines and tyres: pink noise, over which every few seconds a car swells for a second or two and is gone."""
    spectrum = np.fft.rfft(rng.normal(size=size)) / np.sqrt(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20))
    wave = np.fft.irfft(spectrum, size)
    time = np.arange(size) / RATE
    swell = np.ones(size)
    for _ in range(1 + size // (4 * RATE)):
        swell += rng.uniform(0.5, 1.5) * np.exp(-(((time - rng.uniform(0, size / RATE)) / rng.uniform(0.4, 0.9)) ** 2))
    return wave * swell


# --- sounds a caller makes without speaking --------------------------------------------


def cough(rng: np.random.Generator) -> Signal:
    """One to three bursts: a hard onset, 60 ms of noise through an open mouth, a voiced tail in every second one."""
    bursts: list[Signal] = []
    for _ in range(rng.integers(1, 4)):
        size = int(rng.uniform(0.16, 0.30) * RATE)
        wave = _through_mouth(rng.normal(size=size), rng) * _envelope(size, 0.008, rng.uniform(0.05, 0.09))
        if rng.random() < 0.5:
            tail = _growl(int(0.6 * size), rng.uniform(110, 190), rng)
            wave[-len(tail) :] += 0.25 * tail * _envelope(len(tail), 0.03, 0.06)
        bursts += [wave, np.zeros(int(rng.uniform(0.08, 0.2) * RATE))]
    return telephone(np.concatenate(bursts[:-1]))


def throat(rng: np.random.Generator) -> Signal:
    """Clearing the throat: 0.3 to 0.5 s of creak, the voice at 60 to 90 Hz under noise."""
    size = int(rng.uniform(0.3, 0.5) * RATE)
    creak = _growl(size, rng.uniform(60, 90), rng) + 0.7 * _through_mouth(rng.normal(size=size), rng)
    return telephone(creak * np.hanning(size))


def sneeze(rng: np.random.Generator) -> Signal:
    """A drawn breath, then 0.3 s of hiss above 1 kHz that starts at once."""
    breathing = 0.06 * breath(rng)
    size = int(rng.uniform(0.25, 0.4) * RATE)
    hiss = np.diff(rng.normal(size=size + 1)) * _envelope(size, 0.01, rng.uniform(0.08, 0.12))
    return telephone(np.concatenate([breathing, hiss]))


def breath(rng: np.random.Generator) -> Signal:
    """Breathing into the telephone, 0.4 to 0.8 s."""
    size = int(rng.uniform(0.4, 0.8) * RATE)
    return telephone(_through_mouth(rng.normal(size=size), rng) * np.hanning(size))


def knock(rng: np.random.Generator) -> Signal:
    """Something is put down: one to three decaying resonances of 5 to 40 ms."""
    wave = np.zeros(int(0.7 * RATE))
    for at in np.cumsum(rng.uniform(0.05, 0.2, rng.integers(1, 4)) * RATE).astype(int):
        time = np.arange(len(wave) - at) / RATE
        ring = np.sin(2 * np.pi * rng.uniform(300, 2500) * time) + 0.5 * rng.normal(size=len(time))
        wave[at:] += ring * np.exp(-time / rng.uniform(0.005, 0.04))
    return telephone(wave)


def hum(rng: np.random.Generator) -> Signal:
    """Humming to oneself with the mouth closed, 0.5 to 0.9 s: a voice of which little above 500 Hz is left."""
    size = int(rng.uniform(0.5, 0.9) * RATE)
    time = np.arange(size) / RATE
    phase = 2 * np.pi * rng.uniform(140, 220) * time + 0.3 * np.sin(2 * np.pi * 5 * time)
    wave = sum((np.sin(n * phase) / n**2 for n in range(1, 8)), np.zeros(size))
    return telephone(wave * np.minimum(1, np.minimum(time, time[::-1]) / 0.04))


def keys(digits: str) -> Signal:
    """Keys pressed for 100 ms each, 80 ms apart."""
    time = np.arange(RATE // 10) / RATE
    pieces: list[Signal] = []
    for digit in digits:
        low, high = DTMF[digit]
        pieces += [np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time), np.zeros(RATE * 8 // 100)]
    return np.concatenate(pieces)


def _envelope(size: int, rise: float, decay: float) -> Signal:
    """Up within `rise` seconds, then down by e every `decay` seconds."""
    time = np.arange(size) / RATE
    return np.asarray(np.minimum(time / rise, 1) * np.exp(-np.maximum(time - rise, 0) / decay))


def _growl(size: int, hertz: float, rng: np.random.Generator) -> Signal:
    """A voice without control: pulses whose distance and strength jitter by a tenth."""
    wave = np.zeros(size)
    at = 0.0
    while at < size:
        wave[int(at)] = rng.uniform(0.8, 1.2)
        at += RATE / hertz * rng.uniform(0.9, 1.1)
    return _through_mouth(wave, rng) * 4


def _through_mouth(source: Signal, rng: np.random.Generator) -> Signal:
    """Two resonances of an open mouth, as a neutral vowel has them, near 600 and 1400 Hz."""
    frequency = np.fft.rfftfreq(len(source), 1 / RATE)
    gain = 0.15 * np.ones(len(frequency))
    for centre, width in ((rng.uniform(500, 750), 250), (rng.uniform(1200, 1700), 400)):
        gain += np.exp(-(((frequency - centre) / width) ** 2))
    return np.fft.irfft(np.fft.rfft(source) * gain, len(source))


# --- a voice that hesitates ------------------------------------------------------------


def drawn_out(speech: Signal, seconds: float, factor: float) -> Signal:
    """Draw out the end of a piece of speech at its own pitch, as people do before they stop to think.

    Waveform-similarity overlap-add (Verhelst and Roelands, ICASSP 1993), windows of 30 ms.

    Args:
        speech: ends with a word.
        seconds: of its end that are drawn out.
        factor: how much longer that becomes, at least 1.
    """
    size, step, reach = 240, 120, 80
    begin = max(0, len(speech) - int(seconds * RATE))
    part = speech[begin:]
    if len(part) < 2 * size:
        return speech
    window = np.hanning(size + 1)[:-1]
    long = int(len(part) * factor)
    out, weight = np.zeros(long + size), np.full(long + size, 1e-6)
    at, end = 0, 0
    for to in range(0, long - size, step):
        if to:
            low, high = max(0, int(to / factor) - reach), min(len(part) - size, int(to / factor) + reach)
            follows = part[at + step : at + step + size]
            if high <= low or len(follows) < size:
                break
            at = low + int(np.argmax([np.dot(follows, part[i : i + size]) for i in range(low, high)]))
        out[to : to + size] += part[at : at + size] * window
        weight[to : to + size] += window
        end = to + size
    return np.concatenate([speech[:begin], (out / weight)[:end]])
