"""Google's own SDK against a real gRPC server that serves its methods."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from fakes.google import FakeGoogle, Fault

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, Voice
from offhook.agents.services.google.tts import GoogleVoice
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_16K, PCMA, PCMU, AudioFormat

WHOLE = {"voice": "en-GB-Neural2-A"}


class Call:
    def __init__(self, fake: FakeGoogle, **settings: Any) -> None:
        made = make_service("tts", {"service": "google", "base_url": fake.url, "timeout": 2, **settings})
        assert isinstance(made, GoogleVoice)
        self.tts = made

    async def open(self, format: AudioFormat = PCMU) -> Voice:
        return await self.tts.open(format)


async def test_speech_is_streamed_in_the_telephones_own_format() -> None:
    async with FakeGoogle(speech=[b"a" * 160, b"", b"b" * 160]) as fake:
        call = Call(fake, speed=1.2)
        await call.tts.warm()
        voice = await call.open()
        assert [item async for item in voice.synthesize("Hello.")] == [Audio(b"a" * 160), Audio(b"b" * 160)]
        [(config, text)] = fake.sentences
        assert text == "Hello."
        assert (config.voice.name, config.voice.language_code) == ("en-US-Chirp3-HD-Aoede", "en-US")
        audio = config.streaming_audio_config
        assert (audio.audio_encoding.name, audio.sample_rate_hertz, audio.speaking_rate) == ("MULAW", 8000, 1.2)
        assert [item async for item in voice.synthesize(" ")] == []
        await voice.close()
        await call.tts.close()


@pytest.mark.parametrize(("format", "encoding"), [(PCMA, "ALAW"), (L16_16K, "PCM")])
async def test_other_formats(format: AudioFormat, encoding: str) -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        voice = await call.open(format)
        assert await anext(voice.synthesize("Hello.")) == Audio(b"\x11" * 800)
        audio = fake.sentences[0][0].streaming_audio_config
        assert (audio.audio_encoding.name, audio.sample_rate_hertz) == (encoding, format.rate)
        await call.tts.close()


@pytest.mark.parametrize(
    ("format", "wav", "encoding"),
    [(PCMU, (7, 8000), "MULAW"), (PCMA, (6, 8000), "ALAW"), (L16_16K, (1, 16000), "LINEAR16")],
)
async def test_voices_that_do_not_stream_give_a_sentence_at_a_time(
    format: AudioFormat, wav: tuple[int, int], encoding: str
) -> None:
    async with FakeGoogle(wav=wav) as fake:
        call = Call(fake, **WHOLE)
        voice = await call.open(format)
        assert [item async for item in voice.synthesize("Hello.")] == [Audio(b"\x11" * 800)]
        request, text = fake.sentences[0]
        assert text == "Hello."
        assert (request.voice.name, request.voice.language_code) == ("en-GB-Neural2-A", "en-GB")
        assert request.audio_config.audio_encoding.name == encoding
        await call.tts.close()


async def test_an_answer_in_another_format_is_no_answer() -> None:
    async with FakeGoogle(wav=(1, 24000)) as fake:
        call = Call(fake, **WHOLE)
        voice = await call.open()
        with pytest.raises(ServiceError, match="bad reply: 1 channels of l16/24000, where pcmu/8000 was asked for"):
            await anext(voice.synthesize("Hello."))
        fake.wav = (99, 8000)
        with pytest.raises(ServiceError, match="google: bad reply: the answer"):
            await anext(voice.synthesize("Hello."))
        await call.tts.close()


@pytest.mark.parametrize("settings", [{}, WHOLE])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "rejected"),
        (grpc.StatusCode.INVALID_ARGUMENT, "rejected"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited"),
        (grpc.StatusCode.UNAVAILABLE, "unavailable"),
    ],
)
async def test_refusals(code: grpc.StatusCode, kind: str, settings: dict[str, Any]) -> None:
    async with FakeGoogle(refuse=Fault(code, retry_after=3)) as fake:
        call = Call(fake, **settings)
        voice = await call.open()
        with pytest.raises(ServiceError, match=f"{code.name} as the script has it") as caught:
            await anext(voice.synthesize("Hello."))
        assert (caught.value.kind, caught.value.retry_after) == (kind, 3)
        assert len(fake.sentences) == 1, "whether to try again is decided elsewhere"
        await call.tts.close()


async def test_a_stream_that_breaks_in_mid_sentence() -> None:
    async with FakeGoogle(speech=[b"a", Fault(grpc.StatusCode.INTERNAL)]) as fake:
        call = Call(fake)
        voice = await call.open()
        spoken = voice.synthesize("Hello.")
        assert await anext(spoken) == Audio(b"a")
        with pytest.raises(ServiceError, match="google: unavailable: INTERNAL"):
            await anext(spoken)
        await call.tts.close()


@pytest.mark.parametrize("settings", [{}, WHOLE])
async def test_no_speech_in_time(settings: dict[str, Any]) -> None:
    async with FakeGoogle(speech=[5.0]) as fake:
        call = Call(fake, **settings, timeout=0.2)
        voice = await call.open()
        with pytest.raises(ServiceError, match=r"google: timeout: no speech for 0.2 s"):
            await anext(voice.synthesize("Hello."))
        await call.tts.close()


async def test_a_stall_in_mid_sentence() -> None:
    async with FakeGoogle(speech=[b"a", 5.0]) as fake:
        call = Call(fake, stall=0.05)
        voice = await call.open()
        spoken = voice.synthesize("Hello.")
        assert await anext(spoken) == Audio(b"a")
        with pytest.raises(ServiceError, match=r"google: timeout: no speech for 0.05 s"):
            await anext(spoken)
        await call.tts.close()


async def test_an_interruption_is_told_to_google() -> None:
    async with FakeGoogle(speech=[b"a", 5.0, b"b"]) as fake:
        call = Call(fake)
        voice = await call.open()
        async with aclosing(voice.synthesize("Hello.")) as spoken:
            assert await anext(spoken) == Audio(b"a")
        async with asyncio.timeout(2):
            while not fake.cancelled:
                await asyncio.sleep(0.002)
        await call.tts.close()


async def test_nobody_listens() -> None:
    async with FakeGoogle() as fake:
        pass
    call = Call(fake)
    with pytest.raises(ServiceError, match="google: unavailable: no connection"):
        await call.open()
    await call.tts.close()


async def test_a_text_that_is_too_long_is_refused() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        voice = await call.open()
        with pytest.raises(ServiceError, match="google: rejected: text of 6000 bytes; at most 5000"):
            await anext(voice.synthesize("x" * 6000))
        await call.tts.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voice": "Aoede"}, "tts.voice: not of the right form: Name of the voice"),
        ({"speed": 3}, "tts.speed: must be less than or equal to 2"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_service("tts", {"service": "google", **settings})
