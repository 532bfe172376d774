from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.openai import SECONDS_PER_CHARACTER, Drop, FakeOpenAi, Raw, Refusal, Silence, tone, wav_header

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError
from offhook.agents.services.openai.tts import OpenAiVoice, _Voice
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_24K, AudioFormat


@asynccontextmanager
async def speaking(fake: FakeOpenAi, **settings: Any) -> AsyncIterator[_Voice]:
    async with fake:
        service = OpenAiVoice(
            OpenAiVoice.Settings(
                service="openai", base_url=f"{fake.url}/v1", **{"model": "fake", "voice": "anna", **settings}
            )
        )
        voice = await service.open(service.formats[0])
        assert isinstance(voice, _Voice)
        try:
            yield voice
        finally:
            await voice.close()
            await service.close()


async def spoken(fake: FakeOpenAi, text: str = "Good morning.", **settings: Any) -> bytes:
    async with speaking(fake, **settings) as voice:
        pieces = [piece async for piece in voice.synthesize(text)]
    assert all(isinstance(piece, Audio) and piece.data and not len(piece.data) % 2 for piece in pieces)
    return b"".join(piece.data for piece in pieces if isinstance(piece, Audio))


def asked(fake: FakeOpenAi) -> list[Any]:
    return [request.json for request in fake.requests if request.path == "/v1/audio/speech"]


async def test_a_sentence_is_spoken() -> None:
    fake = FakeOpenAi()
    audio = await spoken(fake, instructions="Calm.", speed=1.1, options={"lang_code": "en"})
    assert audio == tone(len("Good morning.") * SECONDS_PER_CHARACTER, 24000)
    assert asked(fake) == [
        {
            "input": "Good morning.",
            "model": "fake",
            "voice": "anna",
            "response_format": "pcm",
            "instructions": "Calm.",
            "speed": 1.1,
            "lang_code": "en",
        }
    ]


async def test_audio_is_given_as_it_comes() -> None:
    async with speaking(FakeOpenAi(speech=[Raw(b"\1\0" * 100), Silence()])) as voice:
        speech = voice.synthesize("Good morning.")
        async with asyncio.timeout(1):
            assert await anext(speech) == Audio(b"\1\0" * 100)
        await speech.aclose()


async def test_samples_cut_in_two_are_put_together() -> None:
    audio = tone(0.01, 24000)
    assert await spoken(FakeOpenAi(speech=[Raw(audio[:101]), Raw(audio[101:102]), Raw(audio[102:])])) == audio


@pytest.mark.parametrize("step", [1, 7, 44, 1000])
async def test_a_wav_header_is_never_heard(step: int) -> None:
    file = wav_header(24000) + tone(0.01, 24000)
    pieces = [Raw(file[at : at + step]) for at in range(0, len(file), step)]
    assert await spoken(FakeOpenAi(speech=pieces)) == file[44:]


async def test_another_rate_is_told_with_the_remedy() -> None:
    with pytest.raises(ServiceError, match="l16 at 16000 Hz with 1 channels, not l16 mono at 24000: set sample_rate"):
        await spoken(FakeOpenAi(wav=True, rate=16000))
    assert await spoken(FakeOpenAi(wav=True, rate=16000), sample_rate=16000)


async def test_nothing_to_say_asks_for_nothing() -> None:
    fake = FakeOpenAi()
    assert await spoken(fake, "  ") == b""
    assert not asked(fake)


async def test_json_in_place_of_audio_is_not_played() -> None:
    class Confused(FakeOpenAi):
        async def _speak(self, request: Any, answer: Any) -> None:
            answer.json(200, {"error": "no such voice"})

    with pytest.raises(ServiceError, match="no such voice") as caught:
        await spoken(Confused())
    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([Refusal(401)], "rejected"),
        ([Refusal(429)], "rate_limited"),
        ([Refusal(500)], "unavailable"),
        ([Drop()], "unavailable"),
        ([Raw(b"\0\0"), Drop()], "unavailable"),
        ([Silence()], "timeout"),
        ([Raw(b"\0\0" * 99), Silence()], "timeout"),
        ([Raw(b"RIFF\0\0\0\0WAVE"), Raw(b"x" * 5000)], "bad_reply"),
        ([Raw(b"")], "bad_reply"),
    ],
)
async def test_a_fault_is_named(parts: list[Any], kind: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await spoken(FakeOpenAi(speech=parts), timeout=0.05, stall=0.05)
    assert caught.value.kind == kind


async def test_closing_the_speech_closes_the_request() -> None:
    fake = FakeOpenAi(speech=[Raw(b"\0\0" * 99), Silence()])
    async with speaking(fake) as voice:
        speech = voice.synthesize("Good morning.")
        await anext(speech)
        started = time.monotonic()
        await speech.aclose()
        async with asyncio.timeout(1):
            (request,) = [one for one in fake.requests if one.path == "/v1/audio/speech"]
            await request.gone.wait()
        assert time.monotonic() - started < 0.1


async def test_sentences_go_over_one_warm_connection() -> None:
    fake = FakeOpenAi()
    async with speaking(fake) as voice:
        await voice._warming
        for _ in range(3):
            assert [piece async for piece in voice.synthesize("Hello.")]
        assert fake.connections == 1


def test_the_rate_may_be_set() -> None:
    server = {"service": "openai", "base_url": "http://localhost:8880/v1", "model": "kokoro", "voice": "bella"}
    for settings, format in ((server, L16_24K), ({**server, "sample_rate": 8000}, AudioFormat("l16", 8000))):
        service = make_service("tts", settings)
        assert isinstance(service, OpenAiVoice)
        assert service.formats == (format,)


def test_what_cannot_work_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"tts\.voice: missing: name one of the voices"):
        make_service("tts", {"service": "openai", "base_url": "http://localhost:8880/v1", "model": "kokoro"})
    with pytest.raises(SettingsError, match=r"tts\.sample_rate"):
        make_service("tts", {"service": "openai", "api_key": "sk-1", "sample_rate": 22050})
