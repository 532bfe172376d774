"""Voice activity for many calls at once: same opinions as alone, whatever the batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from offhook.agents import vad as subject
from offhook.agents.vad import VadService, VadStream
from offhook.codecs.audio import PCMU
from offhook.codecs.g711 import ulaw_to_pcm
from offhook.codecs.pcm import silence
from offhook.codecs.wav import read_wav

FRAME = 320


def voice() -> bytes:
    """A spoken sentence, int16 at 8 kHz."""
    format, channels, pcm = read_wav(Path(__file__).parents[1] / "codecs" / "speech.wav")
    assert (format, channels) == (PCMU, 1)
    return ulaw_to_pcm(pcm)


@pytest.fixture
async def service() -> AsyncIterator[VadService]:
    made = VadService()
    yield made
    made.close()


def frames(pcm: bytes) -> list[bytes]:
    return [pcm[i : i + FRAME] for i in range(0, len(pcm), FRAME)]


async def all_judged(streams: list[VadStream]) -> None:
    async with asyncio.timeout(5):
        while any(getattr(stream, "waiting", 0) for stream in streams):
            await asyncio.sleep(0.001)


async def listen(service: VadService, kind: str, pcm: bytes, calls: int = 1) -> list[list[tuple[str, float]]]:
    """Feed the same audio to a number of calls, 20 ms apart by its own clock; gives each call's events."""
    heard: list[list[tuple[str, float]]] = [[] for _ in range(calls)]

    def ear(events: list[tuple[str, float]], word: str) -> subject.Heard:
        return lambda at: events.append((word, round(at, 3)))

    streams = [service.open(kind, ear(e, "started"), ear(e, "stopped")) for e in heard]  # type: ignore[arg-type]
    for i, frame in enumerate(frames(pcm)):
        for stream in streams:
            stream.feed(frame, 0.02 * (i + 1))
        if i % 10 == 9:
            await all_judged(streams)
    await all_judged(streams)
    for stream in streams:
        assert stream.dropped == 0
        stream.close()
    return heard


SPEECH = silence(1.0, 8000) + voice() + silence(1.0, 8000)
VOICED = 1.23
"""Seconds at which its first voiced sound begins."""


@pytest.mark.parametrize("kind", ["silero", "webrtc"])
async def test_speech_starts_and_stops_once(service: VadService, kind: str) -> None:
    [events] = await listen(service, kind, SPEECH)
    assert [word for word, _ in events] == ["started", "stopped"]
    assert events[0][1] == pytest.approx(VOICED, abs=0.1)
    assert events[1][1] == pytest.approx(len(SPEECH) / 16_000 - 1.0, abs=0.3)


async def test_twenty_calls_hear_what_one_hears(service: VadService) -> None:
    [alone] = await listen(service, "silero", SPEECH)
    together = await listen(service, "silero", SPEECH, calls=20)
    assert together == [alone] * 20


async def test_silence_says_nothing(service: VadService) -> None:
    assert await listen(service, "silero", silence(2.0, 8000)) == [[]]


async def test_a_closed_stream_is_not_heard_any_more(service: VadService) -> None:
    events: list[float] = []
    stream = service.open("silero", events.append, events.append)
    for i, frame in enumerate(frames(voice())):
        stream.feed(frame, 0.02 * i)
    stream.close()
    stream.close()
    await asyncio.sleep(0.1)
    assert events == []
    assert service._streams == 0


async def test_a_host_that_cannot_keep_up_drops_and_counts(service: VadService) -> None:
    stream = service.open("silero", lambda at: None, lambda at: None)
    for i in range(subject.MAX_WAITING * 4):
        stream.feed(b"\0" * FRAME, 0.02 * i)  # no turn of the loop: nothing comes back meanwhile
    assert stream.dropped > 0
    stream.close()


def test_the_model_file_is_there() -> None:
    path: Path = subject.SileroModel.path()
    assert path.is_file()
