"""Cartesia's voices against a fake of its socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from fakes.cartesia import FakeCartesia
from fakes.sockets import PLAIN, Fault, Manner, speech

from offhook.agents.services import speaking
from offhook.agents.services.base import Audio, ServiceError, Spoken, Voice, Word
from offhook.agents.services.cartesia.tts import CartesiaSettings, CartesiaVoice
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_16K, PCMA, PCMU


def cartesia(fake: FakeCartesia, **settings: Any) -> CartesiaVoice:
    given = {"service": "cartesia", "api_key": "secret", "voice": "ada", "base_url": fake.url} | settings
    return CartesiaVoice(CartesiaSettings.model_validate(given))


async def say(voice: Voice, text: str) -> list[Spoken]:
    return [item async for item in voice.synthesize(text)]


def audio(items: list[Spoken]) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, Audio))


async def test_a_sentence_is_a_context_of_its_own() -> None:
    async with FakeCartesia() as fake:
        service = cartesia(fake, language="de", speed=1.2, emotion="calm", pronunciation_dict_id="d")
        await service.warm()
        voice = await service.open(PCMU)
        first, second = await say(voice, "Guten Morgen."), await say(voice, "Bis bald.")
        await voice.close()
        await service.close()
    assert audio(first) == speech("Guten Morgen.", PCMU, PLAIN)
    assert audio(second) == speech("Bis bald.", PCMU, PLAIN)
    (sent,) = fake.connections
    assert sent.path == "/tts/websocket"
    assert sent.headers["Authorization"] == "Bearer secret"
    assert sent.headers["cartesia-version"]
    one, two = sent.json
    assert one["context_id"] != two["context_id"]
    assert one | {"context_id": ""} == {
        "context_id": "",
        "model_id": "sonic-3",
        "transcript": "Guten Morgen.",
        "voice": {"mode": "id", "id": "ada"},
        "language": "de",
        "output_format": {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000},
        "add_timestamps": True,
        "continue": False,
        "generation_config": {"speed": 1.2, "emotion": "calm"},
        "pronunciation_dict_id": "d",
    }


async def test_words_are_timed() -> None:
    async with FakeCartesia() as fake:
        voice = await cartesia(fake).open(L16_16K)
        items = await say(voice, "One more word.")
        await voice.close()
    words = [item for item in items if isinstance(item, Word)]
    assert words == [Word("One", 0, 180), Word("more", 240, 480), Word("word.", 540, 840)]
    assert audio(items) == speech("One more word.", L16_16K, PLAIN)


async def test_an_interrupted_sentence_is_cancelled_and_its_late_audio_dropped() -> None:
    async with FakeCartesia(manner=Manner(pace=0.05), late=3) as fake:
        voice = await cartesia(fake).open(PCMA)
        async with aclosing(voice.synthesize("This sentence is interrupted by a caller.")) as first:
            await anext(first)
        items = await say(voice, "This one is not.")
        await voice.close()
    assert audio(items) == speech("This one is not.", PCMA, PLAIN)
    name = fake.connections[0].json[0]["context_id"]
    assert fake.connections[0].json[1] == {"context_id": name, "cancel": True}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            {"status_code": 400, "title": "Bad voice", "message": "no such voice"},
            "rejected",
            "Bad voice: no such voice",
        ),
        ({"status_code": 402, "error_code": "quota_exceeded"}, "rejected", "quota_exceeded"),
        ({"status_code": 429, "title": "Too many"}, "rate_limited", "Too many"),
        ({"status_code": 500, "message": "oh"}, "unavailable", "oh"),
        ({"status_code": None}, "unavailable", "no reason"),
    ],
)
async def test_an_error_is_of_one_sentence(error: dict[str, Any], kind: str, text: str) -> None:
    async with FakeCartesia(errors={"Bad.": error}) as fake:
        voice = await cartesia(fake).open(PCMU)
        with pytest.raises(ServiceError, match=text) as caught:
            await say(voice, "Bad.")
        assert await say(voice, "Good.")
        await voice.close()
    assert caught.value.kind == kind
    assert len(fake.connections) == 1


async def test_a_sentence_without_audio_is_over_without_any() -> None:
    async with FakeCartesia(manner=Manner(per_letter=0)) as fake:
        voice = await cartesia(fake).open(PCMU)
        assert await say(voice, "...") == []
        await voice.close()


@pytest.mark.parametrize("said", ["{not json", b"\xff\xfe", '{"type": "chunk", "context_id": "%s", "data": "abc"}'])
async def test_what_is_not_understood_fails_the_sentence(said: str | bytes) -> None:
    async with FakeCartesia(manner=Manner(first_audio=0.05)) as fake:
        voice = await cartesia(fake).open(PCMU)
        talk = asyncio.ensure_future(say(voice, "Hello."))
        while not fake.connections[0].messages:
            await asyncio.sleep(0.001)
        name = fake.connections[0].json[0]["context_id"]
        await fake.connections[0].send(said.replace("%s", name) if isinstance(said, str) else said)
        with pytest.raises(ServiceError, match="not understood") as caught:
            await talk
        assert audio(await say(voice, "Again.")) == speech("Again.", PCMU, PLAIN)
        await voice.close()
    assert caught.value.kind == "bad_reply"


async def test_messages_of_other_kinds_are_passed_over() -> None:
    flushed = {"type": "flush_done", "context_id": "x", "done": False, "flush_done": True, "flush_id": 1}
    said = (json.dumps(flushed | {"status_code": 200}), json.dumps({"type": "news", "context_id": "x"}))
    async with FakeCartesia(faults=[Fault(say=said, after=0.1)]) as fake:
        voice = await cartesia(fake).open(PCMU)
        items = await say(voice, "Hello.")
        await voice.close()
    assert audio(items) == speech("Hello.", PCMU, PLAIN)


async def test_no_audio_in_time() -> None:
    async with FakeCartesia(faults=[Fault(mute=True)]) as fake:
        voice = await cartesia(fake, timeout=0.2).open(PCMU)
        with pytest.raises(ServiceError, match=r"no audio in 0\.2 s") as caught:
            await say(voice, "Hello.")
        assert await say(voice, "Hello again.")
        await voice.close()
    assert caught.value.kind == "timeout"
    assert len(fake.connections) == 2


async def test_a_stall_in_the_middle_of_a_word() -> None:
    async with FakeCartesia(faults=[Fault(mute=True, after=0.2)]) as fake:
        voice = await cartesia(fake, stall=0.15).open(PCMU)
        with pytest.raises(ServiceError, match=r"no more for 0\.15 s") as caught:
            await say(voice, "Hello there.")
        await voice.close()
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(drop=True, after=0.2), "unavailable"),
        (Fault(close=(1012, "restart"), after=0.2), "unavailable"),
        (Fault(close=(4429, "slower"), after=0.2), "rate_limited"),
        (Fault(close=(1008, "no"), after=0.2), "rejected"),
    ],
)
async def test_a_break_in_the_middle_fails_the_sentence_and_no_other(fault: Fault, kind: str) -> None:
    async with FakeCartesia(faults=[fault]) as fake:
        voice = await cartesia(fake).open(PCMU)
        with pytest.raises(ServiceError) as caught:
            await say(voice, "Hello there.")
        assert audio(await say(voice, "Hello again.")) == speech("Hello again.", PCMU, PLAIN)
        await voice.close()
    assert caught.value.kind == kind


async def test_a_connection_that_ends_between_sentences_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaking, "SHORTEST_LIFE", 0.0)
    async with FakeCartesia() as fake:
        voice = await cartesia(fake).open(PCMU)
        await say(voice, "Hello.")
        socket = fake.connections[0].socket
        assert socket is not None
        await socket.close(1000, "idle")
        async with asyncio.timeout(2):
            while len(fake.connections) < 2:
                await asyncio.sleep(0.002)
        assert await say(voice, "Again.")
        await voice.close()
    assert len(fake.connections) == 2


@pytest.mark.parametrize(("status", "kind"), [(401, "rejected"), (429, "rate_limited"), (500, "unavailable")])
async def test_a_refusal_is_told(status: int, kind: str) -> None:
    async with FakeCartesia(faults=[Fault(status, {"Retry-After": "2"}, "no")]) as fake:
        with pytest.raises(ServiceError, match=f"HTTP {status} no") as caught:
            await cartesia(fake).open(PCMU)
    assert (caught.value.kind, caught.value.retry_after) == (kind, 2)
    assert "secret" not in repr(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"voice": "v"}, "tts.api_key: missing: make one at https://play.cartesia.ai/keys"),
        ({"api_key": "k"}, "tts.voice: missing: choose one at https://play.cartesia.ai/voices"),
        ({"api_key": "k", "voice": "v", "base_url": "ftp://x"}, "tts.base_url: .*write one like wss://"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_service("tts", {"service": "cartesia"} | settings)
