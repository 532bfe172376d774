"""Aura voices against a fake Speak v1."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from fakes.deepgram import FakeDeepgram
from fakes.sockets import PLAIN, Fault, Manner, speech

from offhook.agents.services.base import Audio, ServiceError, Voice
from offhook.agents.services.deepgram.tts import AuraSettings, DeepgramVoice
from offhook.codecs.audio import L16_16K, PCMA, PCMU


def aura(fake: FakeDeepgram, **settings: Any) -> DeepgramVoice:
    return DeepgramVoice(AuraSettings(service="deepgram", api_key="secret", base_url=fake.url, **settings))


async def say(voice: Voice, text: str, items: list[bytes]) -> None:
    """Add each piece of audio to `items` as it comes."""
    async for item in voice.synthesize(text):
        assert isinstance(item, Audio)
        items.append(item.data)


async def spoken(voice: Voice, text: str) -> bytes:
    items: list[bytes] = []
    await say(voice, text, items)
    return b"".join(items)


async def test_speaks_sentences_over_one_connection() -> None:
    async with FakeDeepgram() as fake:
        voice = await aura(fake, voice="aura-2-viktoria-de", speed=0.9).open(PCMA)
        first, second = await spoken(voice, " Good morning. "), await spoken(voice, "Bye.")
        await voice.close()
    assert first == speech("Good morning.", PCMA, PLAIN)
    assert second == speech("Bye.", PCMA, PLAIN)
    (sent,) = fake.connections
    assert sent.path == "/v1/speak"
    assert sent.headers["Authorization"] == "Token secret"
    assert sent.query == {
        "model": ["aura-2-viktoria-de"],
        "encoding": ["alaw"],
        "sample_rate": ["8000"],
        "speed": ["0.9"],
    }
    assert sent.json == [
        {"type": "Speak", "text": "Good morning."},
        {"type": "Flush"},
        {"type": "Speak", "text": "Bye."},
        {"type": "Flush"},
    ]


async def test_nothing_to_say_is_not_sent() -> None:
    async with FakeDeepgram() as fake:
        voice = await aura(fake).open(PCMU)
        assert await spoken(voice, "  ") == b""
        await voice.close()
    assert fake.connections[0].messages == []


async def test_a_long_text_goes_in_pieces() -> None:
    async with FakeDeepgram(manner=Manner(per_letter=0.001)) as fake:
        voice = await aura(fake).open(PCMU)
        await spoken(voice, "x" * 4100)
        await voice.close()
    assert [len(message.get("text", "")) for message in fake.connections[0].json] == [2000, 2000, 100, 0]


async def test_an_interrupted_sentence_is_cleared_and_its_late_audio_dropped() -> None:
    async with FakeDeepgram(manner=Manner(pace=0.2), late=0.2) as fake:
        voice = await aura(fake).open(PCMU)
        async with aclosing(voice.synthesize("This one is interrupted.")) as first:
            await anext(first)
        second = await spoken(voice, "This one is not.")
        await voice.close()
    assert second == speech("This one is not.", PCMU, PLAIN)
    assert [message["type"] for message in fake.connections[0].json] == ["Speak", "Flush", "Clear", "Speak", "Flush"]


async def test_a_sentence_that_is_all_there_needs_no_clear() -> None:
    async with FakeDeepgram() as fake:
        voice = await aura(fake).open(PCMU)
        async with aclosing(voice.synthesize("Yes.")) as first:
            await anext(first)
            await asyncio.sleep(0.05)  # the rest has come meanwhile
        assert await spoken(voice, "No.")
        await voice.close()
    assert {"type": "Clear"} not in fake.connections[0].json


async def test_samples_cut_in_two_are_joined() -> None:
    said = (b"\x01", b"\x02\x03", b"\x04\x05", b"\x06")
    async with FakeDeepgram(faults=[Fault(say=said, mute=True, after=0.1)]) as fake:
        voice = await aura(fake, stall=0.15).open(L16_16K)
        items: list[bytes] = []
        with pytest.raises(ServiceError):
            await say(voice, "Yes.", items)
        await voice.close()
    assert items[1:] == [b"\1\2", b"\3\4", b"\5\6"]


async def test_no_audio_in_time() -> None:
    async with FakeDeepgram(manner=Manner(first_audio=9)) as fake:
        voice = await aura(fake, timeout=0.2).open(PCMU)
        with pytest.raises(ServiceError, match=r"no audio in 0\.2 s") as caught:
            await spoken(voice, "Hello.")
        fake.manner = PLAIN
        assert await spoken(voice, "Hello.")  # over a connection of its own: the old one still owes a sentence
        await voice.close()
    assert caught.value.kind == "timeout"
    assert len(fake.connections) == 2


async def test_a_stall_in_the_middle_of_a_word() -> None:
    async with FakeDeepgram(faults=[Fault(mute=True, after=0.2)]) as fake:
        voice = await aura(fake, stall=0.15).open(PCMU)
        items: list[bytes] = []
        with pytest.raises(ServiceError, match=r"no more for 0\.15 s") as caught:
            await say(voice, "Hello there.", items)
        await voice.close()
    assert caught.value.kind == "timeout"
    assert len(items) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(drop=True, after=0.2), "unavailable"),
        (Fault(close=(1011, "NET-0000"), after=0.2), "unavailable"),
        (Fault(close=(1008, "DATA-0001"), after=0.2), "rejected"),
    ],
)
async def test_a_break_in_the_middle_fails_the_sentence_and_no_other(fault: Fault, kind: str) -> None:
    async with FakeDeepgram(faults=[fault]) as fake:
        voice = await aura(fake).open(PCMU)
        with pytest.raises(ServiceError) as caught:
            await spoken(voice, "Hello there.")
        assert await spoken(voice, "Hello again.") == speech("Hello again.", PCMU, PLAIN)
        await voice.close()
    assert caught.value.kind == kind


async def test_more_flushes_than_allowed() -> None:
    async with FakeDeepgram(max_flushes=1) as fake:
        voice = await aura(fake).open(PCMU)
        await spoken(voice, "One.")
        with pytest.raises(ServiceError, match="too many Flush") as caught:
            await spoken(voice, "Two.")
        assert await spoken(voice, "Three.")
        await voice.close()
    assert caught.value.kind == "rate_limited"
    assert len(fake.connections) == 2


@pytest.mark.parametrize(("status", "kind"), [(401, "rejected"), (429, "rate_limited"), (500, "unavailable")])
async def test_a_refusal_is_told(status: int, kind: str) -> None:
    async with FakeDeepgram(faults=[Fault(status, {"Retry-After": "2"})]) as fake:
        with pytest.raises(ServiceError, match=f"HTTP {status}") as caught:
            await aura(fake).open(PCMU)
    assert (caught.value.kind, caught.value.retry_after) == (kind, 2)
