"""What the codecs of an RTP call cost for one 20 ms packet, in microseconds: the best of several rounds.

A packet on a clean line costs the jitter buffer and `Concealer.good`; the rest is for those calls that need it.

    python bench/rtp_codecs.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat
from offhook.codecs.comfort import ComfortNoise
from offhook.codecs.conceal import Concealer
from offhook.codecs.convert import convert_all
from offhook.codecs.dtmf import DtmfDetector
from offhook.codecs.g722 import G722Codec
from offhook.codecs.jitter import JitterBuffer
from offhook.codecs.opus import OpusDecoder, OpusEncoder
from offhook.codecs.wav import parse_wav

REPEAT = 500
"""Packets a round."""

SPEECH = Path(__file__).parents[1] / "tests" / "codecs" / "speech.wav"

Operation = Callable[[], object]


def frames(audio_format: AudioFormat) -> list[bytes]:
    """A second and a half of speech in the format, by frames."""
    encoding, rate, _, samples = parse_wav(SPEECH.read_bytes())
    audio = convert_all(samples, AudioFormat(encoding, rate), audio_format)
    size = audio_format.frame_bytes
    return [audio[i : i + size] for i in range(0, len(audio) - size + 1, size)]


def jitter(late: tuple[float, ...]) -> Operation:
    """Packets in order, each late by the next of these seconds."""
    buffer = JitterBuffer(8000)
    payload = bytes(160)
    delays = cycle(late)
    number = 0

    def run() -> None:
        nonlocal number
        now = number * 0.02 + next(delays)
        buffer.push(number & 0xFFFF, number * 160 & 0xFFFFFFFF, payload, 160, now)
        buffer.pop(now)
        number += 1

    return run


def each(operation: Callable[[bytes], object], pieces: list[bytes]) -> Operation:
    """The operation on one piece after the other."""
    following = cycle(pieces)
    return lambda: operation(next(following))


def one_lost(audio_format: AudioFormat) -> Operation:
    """A frame that is concealed and the one after it, which is faded in."""
    concealer = Concealer(audio_format)
    following = cycle(frames(audio_format))
    size = audio_format.frame_bytes

    def run() -> None:
        concealer.lost(size)
        concealer.good(next(following))

    return run


def operations() -> dict[str, Operation]:
    wide = frames(L16_16K)
    g722, encoder, decoder = G722Codec(), OpusEncoder(), OpusDecoder()
    noise = ComfortNoise(PCMU)
    return {
        "jitter buffer, clean line": jitter((0.0,)),
        "jitter buffer, 30 ms of jitter": jitter((0.0, 0.01, 0.03, 0.02, 0.015)),
        "concealer, nothing lost": each(Concealer(PCMU).good, frames(PCMU)),
        "concealer, a lost frame and the next, pcmu/8000": one_lost(PCMU),
        "concealer, a lost frame and the next, l16/16000": one_lost(L16_16K),
        "comfort noise, pcmu/8000": lambda: noise.frame(-60, 160),
        "DTMF detector, pcmu/8000": each(DtmfDetector(PCMU).feed, frames(PCMU)),
        "DTMF detector, l16/8000, silence": each(DtmfDetector(L16_8K).feed, [L16_8K.silence]),
        "DTMF detector, l16/16000": each(DtmfDetector(L16_16K).feed, wide),
        "G.722 encoder": each(g722.encode, wide),
        "G.722 decoder": each(g722.decode, [G722Codec().encode(frame) for frame in wide]),
        "Opus encoder": each(encoder.encode, wide),
        "Opus decoder": each(decoder.decode, [encoder.encode(frame) for frame in wide]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    best: dict[str, float] = {}
    table = operations()
    for _ in range(rounds):
        for name, operation in table.items():
            begin = time.perf_counter()
            for _ in range(REPEAT):
                operation()
            taken = (time.perf_counter() - begin) / REPEAT
            best[name] = min(taken, best.get(name, taken))
    for name, seconds in best.items():
        print(f"{name:<50}{seconds * 1e6:8.1f}")


if __name__ == "__main__":
    main()
