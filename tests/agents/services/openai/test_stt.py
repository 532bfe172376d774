from __future__ import annotations

import asyncio
import io
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.openai import Drop, FakeOpenAi, Refusal, Silence, form_of
from fakes.web import Request

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Final, Heard, HearingLost, Partial
from offhook.agents.services.openai.stt import OpenAiSpeech, _Transcription, speech_in
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_8K, L16_16K, AudioFormat
from offhook.codecs.pcm import silence, tone

SPEECH = tone(200, 0.5, 16000)


class Ear:
    """Keeps what is heard, and lets a test wait for it."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._more = asyncio.Event()

    def __call__(self, heard: Heard) -> None:
        self.heard.append(heard)
        self._more.set()

    async def first(self, count: int) -> list[Heard]:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self._more.clear()
                await self._more.wait()
        return self.heard[:count]


@asynccontextmanager
async def listening(
    fake: FakeOpenAi, format: AudioFormat = L16_16K, **settings: Any
) -> AsyncIterator[tuple[_Transcription, Ear]]:
    async with fake:
        service = OpenAiSpeech(
            OpenAiSpeech.Settings(service="openai", base_url=f"{fake.url}/v1", model="whisper", **settings)
        )
        ear = Ear()
        transcription = await service.open(format, ear)
        assert isinstance(transcription, _Transcription)
        try:
            yield transcription, ear
        finally:
            await transcription.close()
            await service.close()


def uploads(fake: FakeOpenAi) -> list[Request]:
    return [request for request in fake.requests if request.path == "/v1/audio/transcriptions"]


def audio_of(request: Request) -> tuple[int, bytes]:
    with wave.open(io.BytesIO(form_of(request)["file"])) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), file.readframes(file.getnframes())


async def test_what_was_said_is_sent_at_the_pause_and_answers_it() -> None:
    fake = FakeOpenAi(transcripts=["Good morning."])
    async with listening(fake, language="en", prompt="Rossi", options={"vad_filter": "false"}) as (stream, ear):
        for at in range(0, len(SPEECH), 640):
            stream.push(SPEECH[at : at + 640])
        assert not uploads(fake)
        stream.finalize()
        assert await ear.first(1) == [Final("Good morning.", answers_finalize=True)]
        (request,) = uploads(fake)
        assert audio_of(request) == (16000, SPEECH)
        form = form_of(request)
        del form["file"]
        assert form == {
            "model": b"whisper",
            "language": b"en",
            "prompt": b"Rossi",
            "response_format": b"json",
            "vad_filter": b"false",
        }


async def test_each_pause_sends_what_is_new() -> None:
    fake = FakeOpenAi(transcripts=["One.", "Two."])
    async with listening(fake, L16_8K, wideband=False) as (stream, ear):
        for count, frequency in ((1, 200), (2, 300)):
            stream.push(tone(frequency, 0.3, 8000))
            stream.finalize()
            await ear.first(count)
        assert ear.heard == [Final("One.", answers_finalize=True), Final("Two.", answers_finalize=True)]
        assert [audio_of(request) for request in uploads(fake)] == [
            (8000, tone(frequency, 0.3, 8000)) for frequency in (200, 300)
        ]


async def test_a_pause_while_the_last_is_understood_is_answered_by_its_own_text() -> None:
    fake = FakeOpenAi(transcripts=["One.", "Two."], stt_delay=0.05)
    async with listening(fake) as (stream, ear):
        stream.push(SPEECH)
        stream.finalize()
        while not uploads(fake):
            await asyncio.sleep(0.005)
        stream.push(SPEECH)
        stream.finalize()
        assert await ear.first(2) == [Final("One."), Final("Two.", answers_finalize=True)]


async def test_a_pause_with_nothing_before_it_is_answered_at_once() -> None:
    fake = FakeOpenAi()
    async with listening(fake) as (stream, ear):
        stream.finalize()
        assert await ear.first(1) == [Final("", answers_finalize=True)]
        assert not uploads(fake)


async def test_no_more_is_kept_than_was_set() -> None:
    fake = FakeOpenAi()
    async with listening(fake, longest=5) as (stream, ear):
        for _ in range(20):
            stream.push(SPEECH)
        stream.finalize()
        await ear.first(1)
        rate, audio = audio_of(uploads(fake)[0])
        assert 5 <= len(audio) / 2 / rate <= 6.5


async def test_partial_texts_come_where_the_server_streams() -> None:
    async with listening(FakeOpenAi(transcripts=["Good morning to you."]), stream=True) as (stream, ear):
        stream.push(SPEECH)
        stream.finalize()
        assert await ear.first(5) == [
            Partial("Good"),
            Partial("Good morning"),
            Partial("Good morning to"),
            Partial("Good morning to you."),
            Final("Good morning to you.", answers_finalize=True),
        ]


async def test_a_fault_that_may_pass_is_tried_again_with_the_same_audio() -> None:
    fake = FakeOpenAi(transcripts=[Refusal(503), "Good morning."])
    async with listening(fake, retries=1) as (stream, ear):
        stream.push(SPEECH)
        stream.finalize()
        assert await ear.first(1) == [Final("Good morning.", answers_finalize=True)]
        assert audio_of(uploads(fake)[0]) == audio_of(uploads(fake)[1])


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (Refusal(401), "rejected", 1),
        (Refusal(500), "unavailable", 2),
        (Refusal(429), "rate_limited", 2),
        (Drop(), "unavailable", 2),
        (Silence(), "timeout", 2),
    ],
)
async def test_hearing_is_lost_when_it_does_not_pass(answer: Any, kind: str, tries: int) -> None:
    fake = FakeOpenAi(transcripts=[answer])
    async with listening(fake, retries=1, timeout=0.1) as (stream, ear):
        stream.push(SPEECH)
        stream.finalize()
        (lost,) = await ear.first(1)
        assert isinstance(lost, HearingLost)
        assert lost.error.kind == kind
        assert len(uploads(fake)) == tries
        stream.push(SPEECH)
        stream.finalize()


async def test_nothing_is_reported_once_closed() -> None:
    fake = FakeOpenAi(stt_delay=5)
    async with listening(fake) as (stream, ear):
        stream.push(SPEECH)
        stream.finalize()
        while not uploads(fake):
            await asyncio.sleep(0.005)
        started = time.monotonic()
        await stream.close()
        await uploads(fake)[0].gone.wait()
        assert time.monotonic() - started < 0.2
        assert not ear.heard


async def test_the_connection_is_warm_before_the_caller_speaks() -> None:
    fake = FakeOpenAi()
    async with listening(fake) as (stream, ear):
        await stream._tasks[0]
        stream.push(SPEECH)
        stream.finalize()
        await ear.first(1)
        assert fake.connections == 1


def test_silence_before_the_first_word_stays_out() -> None:
    hum = tone(50, 8, 8000, level=-50)
    spoken = speech_in(hum + tone(200, 1, 8000), 8000)
    assert len(spoken) / 16000 == pytest.approx(1.5, abs=0.05)
    assert speech_in(silence(3, 8000) + tone(200, 1, 8000), 8000)[-16000:] == tone(200, 1, 8000)


def test_an_even_sound_is_sent_whole() -> None:
    for audio in (b"", b"\0\0", tone(200, 1, 8000), silence(1, 8000)):
        assert speech_in(audio, 8000) == audio


def test_what_cannot_work_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"stt\.api_key: missing"):
        make_service("stt", {"service": "openai"})
    with pytest.raises(SettingsError, match=r"stt\.model: missing"):
        make_service("stt", {"service": "openai", "base_url": "http://localhost:8000/v1"})
