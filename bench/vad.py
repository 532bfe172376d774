"""How often each detector takes noise for speech, and how soon it notices speech, on telephone audio.

Speech is synthesised by flite and espeak-ng (both must be installed), cut to the telephone band, encoded as
8 kHz mu-law and laid on hum, pink noise, clicks, knocks and babble. Seeded: the same table every time.

    python bench/vad.py [--minutes 2]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from offhook.codecs.convert import resample_all
from offhook.codecs.vad import RATE, SileroModel, SpeechGate, SpeechStarted, WebRtcVad
from offhook.codecs.wav import parse_wav
from offhook.qa.sounds import Signal, at_level, carried, telephone

LINES = (
    "yes",
    "no",
    "stop",
    "okay",
    "hold on a second",
    "sorry, can I ask something",
    "I would like to speak to sales",
    "what are your opening hours",
    "wait, that is wrong",
    "actually, Tuesday at ten",
    "five five five, zero one nine nine",
    "thank you, goodbye",
)
VOICES = (
    ("flite", "slt"),
    ("flite", "rms"),
    ("flite", "awb"),
    ("flite", "kal16"),
    ("espeak-ng", "en-us"),
    ("espeak-ng", "en-gb+f3"),
)
LEAD, GAP = 1.5, 1.0
"Seconds of background before a line and after it."


def synthesise(engine: str, voice: str, line: str) -> Signal:
    if engine == "flite":
        command = ["flite", "-voice", voice, "-t", line, "-o", "/dev/stdout"]
    else:
        command = ["espeak-ng", "-v", voice, "--stdout", line]
    _, rate, _, pcm = parse_wav(subprocess.run(command, check=True, capture_output=True).stdout)
    if rate != RATE:
        pcm = resample_all(pcm, rate, RATE)
    return at_level(telephone(np.frombuffer(pcm, "<i2") / 32768), -20)


def hum(size: int, rng: np.random.Generator) -> Signal:
    time = np.arange(size) / RATE
    wave = sum(np.sin(2 * np.pi * 50 * k * time + rng.uniform(0, 6)) / k for k in range(1, 21))
    return at_level(telephone(np.asarray(wave)), -35)


def pink(size: int, rng: np.random.Generator) -> Signal:
    spectrum = np.fft.rfft(rng.normal(size=size)) / np.sqrt(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20))
    return at_level(telephone(np.fft.irfft(spectrum, size)), -38)


def clicks(size: int, rng: np.random.Generator) -> Signal:
    """Two a second, 0.3 to 5 ms, peaks from -20 to -3 dBFS."""
    wave = rng.normal(size=size) * 1e-3
    for at in rng.integers(0, size - 100, size * 2 // RATE):
        length = int(rng.uniform(3, 40))
        wave[at : at + length] += rng.choice([-1, 1]) * 10 ** (rng.uniform(-20, -3) / 20) * np.hanning(length + 2)[1:-1]
    return wave


def knocks(size: int, rng: np.random.Generator) -> Signal:
    """Keyboard, cup and door: two a second, ringing for 5 to 40 ms."""
    wave = rng.normal(size=size) * 1e-3
    for at in rng.integers(0, size - 3000, size * 2 // RATE):
        time = np.arange(2400) / RATE
        ring = np.sin(2 * np.pi * rng.uniform(300, 2500) * time) + 0.5 * rng.normal(size=2400)
        wave[at : at + 2400] += 10 ** (rng.uniform(-26, -8) / 20) * ring * np.exp(-time / rng.uniform(0.005, 0.04))
    return wave


def coughs(size: int, rng: np.random.Generator) -> Signal:
    """Breath and coughs, one every two seconds: noise of 80 to 400 ms through a moving vocal tract, no voice."""
    wave = rng.normal(size=size) * 1e-3
    for at in rng.integers(0, size - 4000, size // (2 * RATE)):
        length = int(rng.uniform(640, 3200))
        rise = min(length, int(rng.uniform(40, 800)))
        shape = np.concatenate([np.linspace(0, 1, rise), np.exp(-np.arange(length - rise) / (length / 3))])
        burst = telephone(np.cumsum(rng.normal(size=length)) - np.linspace(0, 1, length)) + 0.02 * rng.normal(
            size=length
        )
        wave[at : at + length] += at_level(burst, rng.uniform(-38, -22)) * shape
    return wave


def tones(size: int, rng: np.random.Generator) -> Signal:
    """Keys pressed and ringback heard: pairs of sines of 80 ms to 1 s, one every two seconds."""
    wave = rng.normal(size=size) * 3e-4
    for at in rng.integers(0, size - RATE, size // (2 * RATE)):
        low, high, length = 440, 480, RATE
        if rng.random() < 0.7:
            low, high, length = rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477]), 800
        time = np.arange(length) / RATE
        wave[at : at + length] += 0.1 * (np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time))
    return wave


def talk(size: int, rng: np.random.Generator, said: list[Signal]) -> Signal:
    """One person who talks on and on."""
    wave = np.zeros(0)
    while len(wave) < size:
        wave = np.concatenate([wave, said[rng.integers(len(said))], np.zeros(int(rng.uniform(0.1, 0.6) * RATE))])
    return wave[:size]


def babble(size: int, rng: np.random.Generator, said: list[Signal]) -> Signal:
    """Twelve people at once, behind the caller."""
    return at_level(sum((talk(size, rng, said) for _ in range(12)), np.zeros(size)), -38)


def voiced_onset(signal: Signal) -> int:
    """First sample of the first 30 ms that is periodic between 70 and 400 Hz and within 25 dB of the loudest."""
    starts = range(0, len(signal) - 400, 40)
    power = np.array([np.mean(signal[at : at + 240] ** 2) for at in starts])
    for at, level in zip(starts, power, strict=True):
        if level > power.max() / 316:
            piece = signal[at : at + 400]
            ahead = [np.dot(piece[:240], piece[lag : lag + 240]) for lag in range(20, 115)]
            norms = [np.linalg.norm(piece[:240]) * np.linalg.norm(piece[lag : lag + 240]) for lag in range(20, 115)]
            if np.max(np.array(ahead) / (np.array(norms) + 1e-9)) > 0.6:
                return at
    raise SystemExit("a line has no voiced sound")


def silero(signals: list[NDArray[np.int16]]) -> list[list[float]]:
    """Probabilities of every window of signals of equal length."""
    model = SileroModel()
    audio: NDArray[np.float32] = np.array(signals, np.float32) * np.float32(1 / 32768)
    contexts = np.zeros((len(signals), SileroModel.CONTEXT), np.float32)
    states = np.zeros((2, len(signals), SileroModel.STATE), np.float32)
    found: list[NDArray[np.float32]] = []
    for at in range(0, audio.shape[1] - SileroModel.WINDOW + 1, SileroModel.WINDOW):
        window = audio[:, at : at + SileroModel.WINDOW]
        given, states = model.probabilities(window, contexts, states)
        contexts = window[:, -SileroModel.CONTEXT :]
        found.append(given)
    return [list(map(float, of_one)) for of_one in np.stack(found, axis=1)]


def webrtc(mode: int) -> Callable[[list[NDArray[np.int16]]], list[list[float]]]:
    def run(signals: list[NDArray[np.int16]]) -> list[list[float]]:
        found = []
        for signal in signals:
            detector, pcm = WebRtcVad(mode), signal.tobytes()
            found.append([detector.probability(pcm[at : at + 320]) for at in range(0, len(pcm) - 319, 320)])
        return found

    return run


def starts(gate: SpeechGate, probabilities: list[float], window: float) -> Iterator[float]:
    """Seconds at which the gate says that speech has started."""
    for number, probability in enumerate(probabilities, 1):
        if isinstance(gate.push(probability, number * window), SpeechStarted):
            yield number * window


def speech_over(
    background: Signal, said: list[Signal], rng: np.random.Generator
) -> tuple[list[NDArray[np.int16]], list[float]]:
    """Each line after a random lead over its own piece of background; and the voiced onset of each, in seconds."""
    longest = max(map(len, said)) + int((LEAD + GAP + 0.1) * RATE)
    signals, onsets = [], []
    for line in said:
        lead = int((LEAD + rng.uniform(0, 0.1)) * RATE)
        at = rng.integers(0, len(background) - longest)
        whole = background[at : at + longest].copy()
        whole[lead : lead + len(line)] += line
        signals.append(carried(whole))
        onsets.append((lead + voiced_onset(line)) / RATE)
    return signals, onsets


def fixtures(minutes: float) -> tuple[dict[str, Signal], list[Signal]]:
    rng = np.random.default_rng(7)
    said = [synthesise(engine, voice, line) for engine, voice in VOICES for line in LINES]
    size = int(minutes * 60 * RATE)
    noises = {
        "line noise": rng.normal(size=size) * 3e-4,
        "hum": hum(size, rng),
        "pink noise": pink(size, rng),
        "clicks": clicks(size, rng),
        "knocks": knocks(size, rng),
        "coughs": coughs(size, rng),
        "tones": tones(size, rng),
        "babble": babble(size, rng, said),
    }
    return noises, said


Detect = Callable[[list[NDArray[np.int16]]], list[list[float]]]
DETECTORS: dict[str, tuple[Detect, Callable[[], SpeechGate], float]] = {
    "Silero (default)": (silero, SpeechGate, 0.032),
    "Silero, 2 windows at 0.5": (silero, lambda: SpeechGate(onset=0.5, min_speech_ms=64), 0.032),
    "Silero, 1 window at 0.7": (silero, lambda: SpeechGate(onset=0.7), 0.032),
    "WebRTC (default)": (webrtc(3), WebRtcVad.gate, 0.020),
}
"Detector, its gate, and its window in seconds."


def main() -> None:
    parser = argparse.ArgumentParser(description="False starts and onset delay of the voice activity detectors")
    parser.add_argument("--minutes", type=float, default=2, help="of each background alone (default 2)")
    minutes = parser.parse_args().minutes
    noises, said = fixtures(minutes)
    print(f"{len(said)} lines at -20 dBFS over each background; {minutes:g} minutes of each background alone.")
    print("Delay: from the first voiced sound to the end of the window that decided.\n")
    print("| detector | background | false starts a minute | on before the caller | missed | delay p50 | p95 |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for label, (detect, gate, window) in DETECTORS.items():
        rng = np.random.default_rng(3)
        everything: list[float] = []
        for name, background in noises.items():
            alone = len(list(starts(gate(), detect([carried(background)])[0], window))) / minutes
            signals, onsets = speech_over(background, said, rng)
            delays, early, missed = [], 0, 0
            for probabilities, onset in zip(detect(signals), onsets, strict=True):
                # A line may begin with up to 0.25 s of sound that has no voice (s, th, wh).
                heard = [at - onset for at in starts(gate(), probabilities, window) if at < onset + 0.6]
                if heard and heard[0] < -0.25:
                    early += 1
                elif heard:
                    delays.append(1000 * heard[0])
                else:
                    missed += 1
            everything += delays
            p50, p95 = np.percentile(delays, [50, 95]) if delays else (np.nan, np.nan)
            print(f"| {label} | {name} | {alone:.1f} | {early} | {missed} | {p50:.0f} ms | {p95:.0f} ms |")
        p50, p95 = np.percentile(everything, [50, 95])
        print(f"| {label} | all | | | | {p50:.0f} ms | {p95:.0f} ms |")
    model = SileroModel()
    for batch in (1, 4, 8, 16):
        windows, contexts = np.zeros((batch, 256), np.float32), np.zeros((batch, 32), np.float32)
        states = np.zeros((2, batch, 128), np.float32)
        took = []
        for _ in range(300):
            begin = time.perf_counter()
            model.probabilities(windows, contexts, states)
            took.append(time.perf_counter() - begin)
        print(f"\nSilero, batch of {batch}: {1e6 * np.median(took) / batch:.0f} us a window", end="")
    print()


if __name__ == "__main__":
    main()
