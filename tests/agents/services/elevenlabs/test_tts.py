"""ElevenLabs voices against a fake multi-context socket."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import aclosing
from typing import Any

import pytest
from elevenlabs.types import NormalizedAlignment
from fakes.elevenlabs import FakeElevenLabs
from fakes.sockets import PLAIN, Fault, Manner, speech

from offhook.agents.services import speaking
from offhook.agents.services.base import Audio, ServiceError, Spoken, Voice, Word
from offhook.agents.services.elevenlabs.tts import ElevenLabsSettings, ElevenLabsVoice, _Timing
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_8K, PCMA, PCMU


def eleven(fake: FakeElevenLabs, **settings: Any) -> ElevenLabsVoice:
    given = {"service": "elevenlabs", "api_key": "secret", "voice": "ada", "base_url": fake.url} | settings
    return ElevenLabsVoice(ElevenLabsSettings.model_validate(given))


async def say(voice: Voice, text: str) -> list[Spoken]:
    return [item async for item in voice.synthesize(text)]


def audio(items: list[Spoken]) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, Audio))


async def test_a_sentence_is_a_context_of_its_own() -> None:
    async with FakeElevenLabs() as fake:
        service = eleven(fake, language="de", stability=0.4, speed=1.1, zero_retention=True)
        voice = await service.open(PCMU)
        first = await say(voice, "Guten Morgen.")
        second = await say(voice, "Bis bald.")
        await voice.close()
    assert audio(first) == speech("Guten Morgen.", PCMU, PLAIN)
    assert audio(second) == speech("Bis bald.", PCMU, PLAIN)
    (sent,) = fake.connections
    assert sent.path == "/v1/text-to-speech/ada/multi-stream-input"
    assert sent.headers["xi-api-key"] == "secret"
    assert sent.query == {
        "model_id": ["eleven_flash_v2_5"],
        "output_format": ["ulaw_8000"],
        "inactivity_timeout": ["180"],
        "auto_mode": ["true"],
        "sync_alignment": ["true"],
        "apply_text_normalization": ["auto"],
        "language_code": ["de"],
        "enable_logging": ["false"],
    }
    one, two = sent.json[0]["context_id"], sent.json[3]["context_id"]
    assert one != two
    assert sent.json[:3] == [
        {"text": " ", "voice_settings": {"stability": 0.4, "speed": 1.1}, "context_id": one},
        {"text": "Guten Morgen. ", "context_id": one, "flush": True},
        {"context_id": one, "close_context": True},
    ]


async def test_words_are_timed_across_the_pieces() -> None:
    async with FakeElevenLabs(manner=Manner(per_letter=0.06, piece=0.2)) as fake:
        voice = await eleven(fake).open(L16_8K)
        items = await say(voice, "One more word.")
        await voice.close()
    words = [item for item in items if isinstance(item, Word)]
    assert words == [Word("One", 0, 180), Word("more", 240, 480), Word("word.", 540, 840)]
    assert len(audio(items)) == L16_8K.size(14 * 0.06)


def test_the_space_before_a_stretch_is_no_end_of_a_word() -> None:
    timing = _Timing()

    def push(chars: str, step: int) -> list[Word]:
        places = range(len(chars))
        return timing.push(
            NormalizedAlignment(
                chars=list(chars),
                char_start_times_ms=[place * step for place in places],
                char_durations_ms=[step for _ in places],
            )
        )

    assert push(" Hel", 10) == []
    assert push(" lo", 10) == []
    assert push("  you ", 10) == [Word("Hello", 10, 70), Word("you", 90, 120)]
    assert timing.rest() == []
    assert timing.push(NormalizedAlignment()) == []


async def test_late_audio_of_an_interrupted_sentence_is_dropped() -> None:
    async with FakeElevenLabs(manner=Manner(pace=0.05)) as fake:
        voice = await eleven(fake).open(PCMA)
        async with aclosing(voice.synthesize("This sentence is interrupted by a caller.")) as first:
            await anext(first)
        items = await say(voice, "This one is not.")
        await voice.close()
    assert audio(items) == speech("This one is not.", PCMA, PLAIN)
    first_id = fake.connections[0].json[0]["context_id"]
    assert {"context_id": first_id, "close_context": True} in fake.connections[0].json


async def test_a_wrong_key() -> None:
    async with FakeElevenLabs(key="right") as fake:
        voice = await eleven(fake).open(PCMU)
        with pytest.raises(ServiceError, match="invalid_api_key: Invalid API key") as caught:
            await say(voice, "Hello.")
        await voice.close()
    assert caught.value.kind == "rejected"
    assert len(fake.connections) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("quota_exceeded", "rejected"),
        ("too_many_concurrent_requests", "rate_limited"),
        ("system_busy", "unavailable"),
        ("input_timeout_exceeded", "unavailable"),
    ],
)
async def test_errors_that_it_names(error: str, kind: str) -> None:
    said = json.dumps({"error": error, "message": "so it is", "code": 1008})
    async with FakeElevenLabs(faults=[Fault(say=(said,), after=0.1)]) as fake:
        voice = await eleven(fake).open(PCMU)
        with pytest.raises(ServiceError, match=f"{error}: so it is") as caught:
            await say(voice, "Hello.")
        assert await say(voice, "Hello again.")
        await voice.close()
    assert caught.value.kind == kind
    assert len(fake.connections) == 2


@pytest.mark.parametrize("said", ["{not json", "[]", '{"contextId": "%s", "audio": "=?="}', '{"audio": 5}'])
async def test_what_is_not_understood_fails_the_sentence_and_no_other(said: str) -> None:
    async with FakeElevenLabs(manner=Manner(first_audio=0.05)) as fake:
        voice = await eleven(fake).open(PCMU)
        talk = asyncio.ensure_future(say(voice, "Hello."))
        while not fake.connections[0].messages:
            await asyncio.sleep(0.001)
        name = fake.connections[0].json[0]["context_id"]
        await fake.connections[0].send(said.replace("%s", name))
        with pytest.raises(ServiceError, match="not understood") as caught:
            await talk
        assert audio(await say(voice, "Again.")) == speech("Again.", PCMU, PLAIN)
        await voice.close()
    assert caught.value.kind == "bad_reply"
    assert len(fake.connections) == 1


async def test_messages_without_audio_or_of_nobody_are_passed_over() -> None:
    stray = base64.b64encode(b"\0" * 80).decode()
    said = (json.dumps({"audio": None}), json.dumps({"audio": stray, "contextId": "other"}), json.dumps({"new": 1}))
    async with FakeElevenLabs(faults=[Fault(say=said, after=0.1)]) as fake:
        voice = await eleven(fake).open(PCMU)
        items = await say(voice, "Hello.")
        await voice.close()
    assert audio(items) == speech("Hello.", PCMU, PLAIN)


@pytest.mark.parametrize("reason", ["drop", "idle"])
async def test_a_connection_that_ends_between_sentences_is_opened_again(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaking, "SHORTEST_LIFE", 0.0)
    async with FakeElevenLabs() as fake:
        voice = await eleven(fake).open(PCMU)
        await say(voice, "Hello.")
        socket = fake.connections[0].socket
        assert socket is not None
        if reason == "drop":
            socket.transport.abort()
        else:
            await socket.close(1008, "input_timeout_exceeded")
        async with asyncio.timeout(2):
            while len(fake.connections) < 2:
                await asyncio.sleep(0.002)
        assert audio(await say(voice, "Again.")) == speech("Again.", PCMU, PLAIN)
        await voice.close()
    assert len(fake.connections) == 2


async def test_a_connection_that_never_holds_is_not_opened_over_and_over() -> None:
    async with FakeElevenLabs(faults=[Fault(drop=True)]) as fake:
        voice = await eleven(fake).open(PCMU)
        await asyncio.sleep(0.03)
        assert len(fake.connections) == 1
        assert await say(voice, "Hello.")
        await voice.close()
    assert len(fake.connections) == 2


async def test_one_sentence_at_a_time() -> None:
    async with FakeElevenLabs(manner=Manner(pace=1)) as fake:
        voice = await eleven(fake).open(PCMU)
        async with aclosing(voice.synthesize("Hello there.")) as first:
            await anext(first)
            with pytest.raises(RuntimeError, match="one sentence at a time"):
                await say(voice, "And you.")
        await voice.close()
        with pytest.raises(ServiceError, match="the call is over"):
            await say(voice, "Hello.")


async def test_closing_in_the_middle_of_a_sentence() -> None:
    async with FakeElevenLabs(manner=Manner(pace=1)) as fake:
        voice = await eleven(fake).open(PCMU)
        talk = asyncio.ensure_future(say(voice, "Hello there."))
        while not fake.connections[0].messages:
            await asyncio.sleep(0.001)
        await voice.close()
        with pytest.raises(ServiceError, match="the call is over"):
            await talk


async def test_more_audio_than_any_sentence_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaking, "MAX_SENTENCE", 0.2)
    async with FakeElevenLabs() as fake:
        voice = await eleven(fake).open(PCMU)
        with pytest.raises(ServiceError, match=r"more than 0\.2 s for one sentence") as caught:
            await say(voice, "Hello there.")
        await voice.close()
    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(("status", "kind"), [(401, "rejected"), (429, "rate_limited"), (503, "unavailable")])
async def test_a_refusal_is_told(status: int, kind: str) -> None:
    async with FakeElevenLabs(faults=[Fault(status, {"Retry-After": "2"})]) as fake:
        with pytest.raises(ServiceError, match=f"HTTP {status}") as caught:
            await eleven(fake).open(PCMU)
    assert (caught.value.kind, caught.value.retry_after) == (kind, 2)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "https://api.elevenlabs.io"),
        ({"region": "eu"}, "https://api.eu.residency.elevenlabs.io"),
        ({"region": "in"}, "https://api.in.residency.elevenlabs.io"),
        ({"region": "in", "base_url": "http://localhost:1/"}, "ws://localhost:1"),
    ],
)
def test_the_region_has_an_address(settings: dict[str, Any], address: str) -> None:
    assert ElevenLabsSettings(service="elevenlabs", api_key="k", voice="v", **settings).address == address


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"voice": "v"}, "tts.api_key: missing: make one at https://elevenlabs.io"),
        ({"api_key": "k"}, "tts.voice: missing: choose one at https://elevenlabs.io"),
        ({"api_key": "k", "voice": "v", "speed": 3}, "tts.speed"),
        ({"api_key": "k", "voice": "v", "region": "mars"}, "tts.region"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_service("tts", {"service": "elevenlabs"} | settings)
