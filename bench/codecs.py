"""What each signal operation costs for one 20 ms frame, next to the C libraries doing the same in this run.

Every figure is the best of several rounds, all operations taking turns, so that a machine whose speed drifts
slows them alike. The ratio compares with the yardstick named in the row.

    python bench/codecs.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMU, AudioFormat
from offhook.codecs.convert import Converter
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import dbfs, gain, mix, tone
from offhook.codecs.resample import Resampler
from offhook.codecs.vad import SileroModel, SpeechGate, WebRtcVad
from offhook.codecs.wav import StereoWavWriter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

REPEAT = 500
"""Calls a round: long enough to time, short enough that a round is one speed of the machine."""

Operation = Callable[[], object]


def soxr_stream(source: int, target: int, quality: str) -> Operation:
    stream = soxr.ResampleStream(source, target, 1, dtype="int16", quality=quality)
    pcm = tone(1000, 0.02, source)
    return lambda: stream.resample_chunk(np.frombuffer(pcm, "<i2")).tobytes()


def audioop_ratecv(source: int, target: int) -> Operation:
    pcm = tone(1000, 0.02, source)
    state = None

    def run() -> None:
        nonlocal state
        _, state = audioop.ratecv(pcm, 2, 1, source, target, state)

    return run


def converter(src: AudioFormat, dst: AudioFormat) -> Operation:
    convert = Converter(src, dst).convert
    frame = np.random.default_rng(1).bytes(src.frame_bytes)
    return lambda: convert(frame)


def resampler(source: int, target: int) -> Operation:
    process = Resampler(source, target).process
    pcm = tone(1000, 0.02, source)
    return lambda: process(pcm)


def wav_append(folder: str) -> Operation:
    writer = StereoWavWriter(Path(folder) / "bench.wav")
    half_second = bytes(8000)
    return lambda: writer.append(half_second, half_second)


def silero(batch: int) -> Operation:
    model = SileroModel()
    windows = (np.random.default_rng(1).normal(size=(batch, model.WINDOW)) / 10).astype(np.float32)
    contexts = np.zeros((batch, model.CONTEXT), np.float32)
    states = np.zeros((2, batch, model.STATE), np.float32)
    return lambda: model.probabilities(windows, contexts, states)


def operations(folder: str) -> list[tuple[str, Operation, float, str]]:
    """Name, operation, frames that one call handles, and the name of the yardstick it is compared with."""
    ulaw, pcm = np.random.default_rng(1).bytes(160), tone(1000, 0.02, 8000)
    detector, gate = WebRtcVad(), SpeechGate()
    rows: list[tuple[str, Operation, float, str]] = [
        ("audioop mu-law decode", lambda: audioop.ulaw2lin(ulaw, 2), 1, ""),
        ("audioop mu-law encode", lambda: audioop.lin2ulaw(pcm, 2), 1, ""),
        ("g711 mu-law decode", lambda: ulaw_to_pcm(ulaw), 1, "audioop mu-law decode"),
        ("g711 mu-law encode", lambda: pcm_to_ulaw(pcm), 1, "audioop mu-law encode"),
        ("g711 A-law decode", lambda: alaw_to_pcm(ulaw), 1, ""),
        ("g711 A-law encode", lambda: pcm_to_alaw(pcm), 1, ""),
    ]
    for source, target in ((8000, 16000), (16000, 8000), (8000, 24000), (24000, 8000), (8000, 48000), (48000, 8000)):
        way = f"{source // 1000} to {target // 1000} kHz"
        rows += [
            (f"soxr HQ stream {way}", soxr_stream(source, target, "HQ"), 1, ""),
            (f"soxr QQ stream {way}", soxr_stream(source, target, "QQ"), 1, f"soxr HQ stream {way}"),
            (f"audioop ratecv {way}", audioop_ratecv(source, target), 1, f"soxr HQ stream {way}"),
            (f"resample {way}", resampler(source, target), 1, f"soxr HQ stream {way}"),
        ]
    rows += [
        ("resample 16 to 24 kHz", resampler(16000, 24000), 1, ""),
        ("resample 24 to 16 kHz", resampler(24000, 16000), 1, ""),
        ("convert pcmu/8000 to itself", converter(PCMU, PCMU), 1, ""),
        ("convert pcmu/8000 to l16/8000", converter(PCMU, L16_8K), 1, "audioop mu-law decode"),
        ("convert pcmu/8000 to l16/16000", converter(PCMU, L16_16K), 1, "resample 8 to 16 kHz"),
        ("convert l16/16000 to pcmu/8000", converter(L16_16K, PCMU), 1, "resample 16 to 8 kHz"),
        ("convert pcmu/8000 to l16/24000", converter(PCMU, L16_24K), 1, "resample 8 to 24 kHz"),
        ("convert l16/24000 to pcmu/8000", converter(L16_24K, PCMU), 1, "resample 24 to 8 kHz"),
        ("pcm level", lambda: dbfs(pcm), 1, ""),
        ("pcm gain", lambda: gain(pcm, -6), 1, ""),
        ("pcm mix", lambda: mix(pcm, pcm), 1, ""),
        ("wav append, 0.5 s at once", wav_append(folder), 25, ""),
        ("vad gate, one window", lambda: gate.push(0.1, 1.0), 1.6, ""),
        ("vad webrtc", lambda: detector.probability(pcm), 1, ""),
        ("vad Silero, batch of 1", silero(1), 1.6, ""),
        ("vad Silero, batch of 8", silero(8), 1.6 * 8, "vad Silero, batch of 1"),
    ]
    return rows


def streams() -> dict[str, Callable[[bytes], bytes]]:
    """Ways to turn 8 kHz frames into 16 kHz."""
    state = None

    def ratecv(pcm: bytes) -> bytes:
        nonlocal state
        out, state = audioop.ratecv(pcm, 2, 1, 8000, 16000, state)
        return out

    def soxr_of(quality: str) -> Callable[[bytes], bytes]:
        stream = soxr.ResampleStream(8000, 16000, 1, dtype="int16", quality=quality)

        def convert(pcm: bytes) -> bytes:
            out: bytes = stream.resample_chunk(np.frombuffer(pcm, "<i2")).tobytes()
            return out

        return convert

    ways = {f"soxr {quality}": soxr_of(quality) for quality in ("QQ", "LQ", "HQ", "VHQ")}
    return {"offhook": Resampler(8000, 16000).process, "audioop ratecv": ratecv, **ways}


def level(samples: NDArray[np.float64], frequency: float) -> float:
    """Level in dB of one frequency in a second and more of 16 kHz."""
    samples = samples * np.kaiser(len(samples), 20)
    turns = np.exp(-2j * np.pi * frequency * np.arange(len(samples)) / 16000)
    return float(20 * np.log10(abs(samples @ turns) + 1e-9))


def quality() -> None:
    print("| 8 to 16 kHz by | image of 1 kHz | of 3 kHz | 3.4 kHz against 1 kHz | most audio withheld |")
    print("|---|---:|---:|---:|---:|")
    for name in streams():
        images, tones, withheld = [], [], 0.0
        # Off the whole hertz, so that rounding spreads over all bins.
        for frequency in (1000.618, 3000.618, 3400.618):
            convert, pcm = streams()[name], tone(frequency, 3, 8000, -4)
            out = b""
            for at in range(0, len(pcm), 320):
                out += convert(pcm[at : at + 320])
                withheld = max(withheld, (at + 320) / 16 - len(out) / 32)
            samples = np.frombuffer(out, "<i2").astype(np.float64)[8000:40000]
            tones.append(level(samples, frequency))
            images.append(level(samples, 8000 - frequency) - tones[-1])
        print(
            f"| {name} | {images[0]:.0f} dB | {images[1]:.0f} dB | {tones[2] - tones[0]:+.3f} dB | {withheld:.0f} ms |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the signal code in microseconds a 20 ms frame")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        rows = operations(folder)
        best = {name: float("inf") for name, _, _, _ in rows}
        for _ in range(rounds):
            for name, operation, frames, _ in rows:
                begin = time.perf_counter()
                for _ in range(REPEAT):
                    operation()
                best[name] = min(best[name], (time.perf_counter() - begin) / REPEAT / frames * 1e6)
    print("| operation | us a frame | ratio |")
    print("|---|---:|---|")
    for name, _, _, yardstick in rows:
        ratio = f"{best[name] / best[yardstick]:.2f} x {yardstick}" if yardstick else ""
        print(f"| {name} | {best[name]:.2f} | {ratio} |")
    print()
    quality()


if __name__ == "__main__":
    main()
