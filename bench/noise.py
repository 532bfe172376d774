"""What a noise filter does to telephone audio: noise and speech levels, false starts, understanding, and its cost.

Speech is synthesised by flite (which must be installed), cut to the telephone band, laid on noise and encoded as
8 kHz mu-law. Its voices are cut out of recordings; espeak-ng's are made of formants, which RNNoise takes for noise.
Seeded: the same table every time, but for the cost.

    python bench/noise.py [--filter rnnoise] [--snr 10] [--minutes 2]
"""

from __future__ import annotations

import argparse
import asyncio
import time

import numpy as np
from numpy.typing import NDArray
from vad import LINES, silero, starts, synthesise

from offhook.agents.speech.grammar import Grammar
from offhook.agents.speech.stt import Recognizer
from offhook.codecs.noise import NoiseFilter, noise_filter
from offhook.codecs.vad import RATE, SpeechGate
from offhook.qa.sounds import NOISES, Signal, carried, noise

Samples = NDArray[np.int16]
LEVEL = -20.0
"dBFS of the caller's voice, as bench/vad.py makes it."
VOICES = ("slt", "rms", "awb")
LEAD = GAP = 1.5
"Seconds of noise before a line and after it."


def clean(signal: Samples, name: str) -> Samples:
    """The whole signal through a fresh filter, aligned with its input."""
    cleaner: NoiseFilter = noise_filter(name)
    pcm = signal.tobytes() + bytes(320 * 4)
    out = b"".join(cleaner.process(pcm[at : at + 320]) for at in range(0, len(pcm) - 319, 320))
    cleaner.close()
    lag = round(cleaner.delay * RATE)
    return np.frombuffer(out, "<i2")[lag : lag + len(signal)]


def si_sdr(reference: Signal, signal: Samples) -> float:
    """Scale-invariant ratio of the line to everything else, in dB (Le Roux 2019)."""
    signal = signal[: len(reference)].astype(np.float64)
    reference = reference[: len(signal)]
    target = np.dot(signal, reference) / np.dot(reference, reference) * reference
    return float(10 * np.log10(np.sum(target**2) / np.sum((signal - target) ** 2)))


def level(signal: Samples) -> float:
    return float(10 * np.log10(np.mean((signal / 32768) ** 2) + 1e-12))


def cost(name: str) -> None:
    rng = np.random.default_rng(1)
    frames = [carried(rng.normal(size=160) * 0.02).tobytes() for _ in range(500)]
    cleaner = noise_filter(name)
    took = []
    for frame in frames:
        begin = time.perf_counter()
        cleaner.process(frame)
        took.append(1e6 * (time.perf_counter() - begin))
    p50, p95 = np.percentile(took, [50, 95])
    print(
        f"\n{name}: {min(took):.0f} us a frame at best, p50 {p50:.0f}, p95 {p95:.0f}; delay {cleaner.delay * 1e3:g} ms"
    )


async def understood(recognizer: Recognizer, grammar: Grammar, signals: list[tuple[str, Samples]]) -> int:
    right = 0
    for line, signal in signals:
        heard = await recognizer.recognize(grammar, signal.tobytes())
        right += heard.meaning is not None and heard.meaning.answer == line
    return right


async def main() -> None:
    parser = argparse.ArgumentParser(description="What a noise filter does to telephone audio")
    parser.add_argument("--filter", default="rnnoise")
    parser.add_argument("--snr", type=float, default=10, help="dB between the voice and the noise (default 10)")
    parser.add_argument("--minutes", type=float, default=2, help="of each noise alone (default 2)")
    options = parser.parse_args()
    lines = [line.replace(",", "") for line in LINES]
    said: list[tuple[str, Signal]] = [(line, synthesise("flite", voice, line)) for voice in VOICES for line in lines]
    grammar = Grammar({line: [line] for line in lines})
    recognizer = Recognizer()
    print(f"{len(said)} lines at {LEVEL:g} dBFS, {options.snr:g} dB over each noise, before | after {options.filter}\n")
    print("| noise | in the pauses, dBFS | SI-SDR, dB | false starts a minute | starts missed | early | understood |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in ("none", *NOISES):
        rng = np.random.default_rng(7)
        size = int(options.minutes * 60 * RATE)
        if kind == "none":
            background = rng.normal(size=size) * 3e-4
        else:
            background = noise(kind, size, LEVEL - options.snr, rng, [signal for _, signal in said])
        rows: list[list[str]] = [[], [], [], [], [], []]
        for cleaned in (False, True):
            rng = np.random.default_rng(3)
            alone = carried(background)
            alone = clean(alone, options.filter) if cleaned else alone
            rows[2].append(f"{len(list(starts(SpeechGate(), silero([alone])[0], 0.032))) / options.minutes:.1f}")
            pauses, ratios, missed, early, signals = [], [], 0, 0, []
            for line, voice in said:
                lead = int(LEAD * RATE)
                whole = len(voice) + 2 * lead
                at = int(rng.integers(0, len(background) - whole))
                mixed = background[at : at + whole].copy()
                mixed[lead : lead + len(voice)] += voice
                signal = carried(mixed)
                signal = clean(signal, options.filter) if cleaned else signal
                pauses.append(level(signal[lead // 2 : lead - 400]))
                spoken = signal[lead : lead + len(voice)]
                ratios.append(si_sdr(voice, spoken))
                heard = list(starts(SpeechGate(), silero([signal])[0], 0.032))
                early += any(when < LEAD - 0.1 for when in heard)
                missed += not any(LEAD - 0.1 <= when < LEAD + 0.7 for when in heard)
                signals.append((line, signal[lead - 1600 : lead + len(voice) + 1600]))
            rows[0].append(f"{np.mean(pauses):.0f}")
            rows[1].append(f"{np.mean(ratios):.1f}")
            rows[3].append(str(missed))
            rows[4].append(str(early))
            rows[5].append(str(await understood(recognizer, grammar, signals)))
        print(f"| {kind} | " + " | ".join(f"{before} → {after}" for before, after in rows) + " |")
    recognizer.close()
    cost(options.filter)


if __name__ == "__main__":
    asyncio.run(main())
