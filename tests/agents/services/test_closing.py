"""Whatever is given up, cancelled or closed twice leaves nothing behind; the leak checks of all tests look for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
from fakes.assemblyai import FakeAssemblyAi
from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.elevenlabs import FakeElevenLabs
from fakes.google import FakeGoogle
from fakes.sockets import FakeVendor, Fault

from offhook.agents.services.base import LanguageModel, Service, ServiceError, SpeechToText, TextToSpeech, Voice
from offhook.agents.services.cartesia.tts import CartesiaVoice
from offhook.agents.services.google.tts import GoogleVoice
from offhook.agents.services.registry import Role, make_service
from offhook.agents.services.speaking import Line, StreamingVoice
from offhook.codecs.audio import PCMU

WEB: list[tuple[Role, dict[str, Any]]] = [
    ("llm", {"service": "anthropic", "base_url": "http://{}"}),
    ("llm", {"service": "gemini", "base_url": "http://{}"}),
    ("llm", {"service": "openai", "base_url": "http://{}/v1", "model": "m"}),
    ("stt", {"service": "assemblyai", "base_url": "ws://{}"}),
    ("stt", {"service": "deepgram", "base_url": "ws://{}"}),
    ("stt", {"service": "deepgram-flux", "base_url": "ws://{}"}),
    ("stt", {"service": "openai", "base_url": "http://{}/v1", "model": "m"}),
    ("tts", {"service": "cartesia", "base_url": "ws://{}", "voice": "v"}),
    ("tts", {"service": "deepgram", "base_url": "ws://{}"}),
    ("tts", {"service": "elevenlabs", "base_url": "ws://{}", "voice": "v"}),
    ("tts", {"service": "openai", "base_url": "http://{}/v1", "model": "m", "voice": "v"}),
]
NAMES = [f"{role}-{section['service']}" for role, section in WEB]
EVERY = pytest.mark.parametrize(("role", "section"), WEB, ids=NAMES)


class Silent:
    """A server that takes all and says nothing; its handshakes do not end."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        "A request has come."

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.place = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                self.asked.set()
        writer.close()


@contextlib.asynccontextmanager
async def made(role: Role, section: dict[str, Any]) -> AsyncIterator[tuple[Service, Silent]]:
    async with Silent() as server:
        place = {"base_url": section["base_url"].format(server.place)}
        service = make_service(role, section | place | {"api_key": "k", "timeout": 5, "stall": 5, "retries": 0})
        try:
            yield service, server
        finally:
            await service.close()
            await service.close()


async def used(service: Service) -> None:
    """Do with it what a call does first, and wait for what comes."""
    if isinstance(service, LanguageModel):
        async with contextlib.aclosing(service.reply([{"role": "user", "content": "hi"}])) as reply:
            async for _ in reply:
                pass
    elif isinstance(service, TextToSpeech):
        voice = await service.open(service.formats[0])
        try:
            async with contextlib.aclosing(voice.synthesize("Hello.")) as speech:
                async for _ in speech:
                    pass
        finally:
            await voice.close()
            await voice.close()
    else:
        assert isinstance(service, SpeechToText)
        stream = await service.open(service.formats[0], lambda heard: None)
        try:
            stream.push(b"\x10\x20" * 8000)
            stream.finalize()
            await asyncio.Event().wait()
        finally:
            await stream.close()
            await stream.close()


@EVERY
async def test_cancelling_at_any_moment_leaves_nothing(role: Role, section: dict[str, Any]) -> None:
    """After each number of turns of the loop that it takes to get to the silent server, and a while after that."""
    async with made(role, section) as (service, server):
        for turns in (0, 1, 3, 8):
            task = asyncio.create_task(used(service))
            for _ in range(turns):
                await asyncio.sleep(0)
            await gone(task)
        task = asyncio.create_task(used(service))
        await asyncio.wait_for(server.asked.wait(), 2)
        await asyncio.sleep(0.01)
        await gone(task)


async def gone(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)


@EVERY
async def test_closing_the_service_in_the_middle_ends_what_waits_for_it(role: Role, section: dict[str, Any]) -> None:
    async with made(role, section) as (service, server):
        task = asyncio.create_task(used(service))
        await asyncio.wait_for(server.asked.wait(), 2)
        await asyncio.wait_for(service.close(), 2)
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServiceError):
            await asyncio.wait_for(task, 2)


@EVERY
async def test_closing_what_was_never_used(role: Role, section: dict[str, Any]) -> None:
    async with made(role, section):
        pass


@EVERY
async def test_cancelling_the_warming(role: Role, section: dict[str, Any]) -> None:
    async with made(role, section) as (service, _):
        for turns in (0, 1, 3):
            task = asyncio.create_task(service.warm())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# --- in the middle of what a vendor answers


def speaking(service: str, fake: FakeVendor) -> TextToSpeech:
    made = make_service("tts", {"service": service, "api_key": "k", "base_url": fake.url} | SPEAKING[service])
    assert isinstance(made, TextToSpeech)
    return made


SPEAKING: dict[str, dict[str, Any]] = {"cartesia": {"voice": "v"}, "deepgram": {}, "elevenlabs": {"voice": "v"}}
FAKES: dict[str, type[FakeVendor]] = {"cartesia": FakeCartesia, "deepgram": FakeDeepgram, "elevenlabs": FakeElevenLabs}


async def heard(voice: Voice) -> None:
    async with contextlib.aclosing(voice.synthesize("A sentence that takes a while to be said.")) as speech:
        async for _ in speech:
            await asyncio.sleep(0)


@pytest.mark.parametrize("service", SPEAKING)
@pytest.mark.parametrize("turns", [0, 1, 3, 8, 20])
async def test_a_voice_closed_twice_at_once_in_the_middle_of_a_sentence(service: str, turns: int) -> None:
    async with FAKES[service](faults=[Fault(after=0.2, mute=True)]) as fake:
        vendor = speaking(service, fake)
        voice = await vendor.open(vendor.formats[0])
        task = asyncio.create_task(heard(voice))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(voice.close(), voice.close()), 3)
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 1)
        await vendor.close()


@pytest.mark.parametrize("service", SPEAKING)
async def test_a_voice_closed_while_it_connects_anew(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FAKES[service](faults=[Fault(drop=True)]) as fake:
        vendor = speaking(service, fake)
        voice = await vendor.open(vendor.formats[0])
        assert isinstance(voice, StreamingVoice)
        with pytest.raises(ServiceError):
            await heard(voice)
        connect, arrived, go = voice._connect, asyncio.Event(), asyncio.Event()

        async def slowly() -> Line:
            line = await connect()
            arrived.set()
            await go.wait()
            return line

        monkeypatch.setattr(voice, "_connect", slowly)
        task = asyncio.create_task(heard(voice))
        await asyncio.wait_for(arrived.wait(), 2)
        await voice.close()
        go.set()
        with pytest.raises(ServiceError, match="the call is over"):
            await asyncio.wait_for(task, 2)
        await vendor.close()


@pytest.mark.parametrize("service", ["deepgram", "deepgram-flux"])
@pytest.mark.parametrize("turns", [0, 1, 3, 8])
async def test_a_stream_closed_twice_one_after_the_other_has_begun(service: str, turns: int) -> None:
    async with FakeDeepgram([("hello there", 0, 400)]) as fake:
        vendor = make_service("stt", {"service": service, "api_key": "k", "base_url": fake.url})
        assert isinstance(vendor, SpeechToText)
        stream = await vendor.open(PCMU, lambda heard: None)
        stream.push(b"\xff" * 1600)
        first = asyncio.create_task(stream.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(first, stream.close()), 3)


async def test_a_stream_whose_closing_is_cancelled() -> None:
    async with FakeAssemblyAi() as fake:
        vendor = make_service("stt", {"service": "assemblyai", "api_key": "k", "base_url": fake.url})
        assert isinstance(vendor, SpeechToText)
        stream = await vendor.open(PCMU, lambda heard: None)
        fake.sessions[0].connection.transport.pause_reading()
        task = asyncio.create_task(stream.close())
        await asyncio.sleep(0.01)
        await gone(task)
        fake.sessions[0].drop()


@pytest.mark.parametrize(("role", "section"), [("stt", {"project": "p"}), ("tts", {})])
async def test_google_cancelled_at_any_moment(role: Role, section: dict[str, Any]) -> None:
    async with FakeGoogle() as fake:
        service = make_service(role, {"service": "google", "base_url": fake.url, "timeout": 2} | section)
        for turns in (0, 1, 2, 4, 8, 16):
            task = asyncio.create_task(used(service))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 2)
        await service.close()
        await service.close()


async def test_two_calls_at_once_make_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = GoogleVoice.Settings(service="google", api_key="k")
    google = GoogleVoice(settings)
    assert len({id(client) for client in await asyncio.gather(google.client(), google.client())}) == 1
    await google.close()
    made = []
    cartesia = make_service("tts", {"service": "cartesia", "api_key": "k", "voice": "v"})
    assert isinstance(cartesia, CartesiaVoice)
    make = cartesia._make_client
    monkeypatch.setattr(cartesia, "_make_client", lambda: made.append(make()) or made[-1])
    await asyncio.gather(cartesia.warm(), cartesia.warm())
    assert len(made) == 1
    await cartesia.close()
