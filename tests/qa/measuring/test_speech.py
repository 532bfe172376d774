"""What an agent said: flite speaks, the offline recogniser hears, each in a process of its own; services are fakes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.deepgram import FakeDeepgram
from fakes.openai import FakeOpenAi, Refusal

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.measuring import speech
from offhook.qa.measuring.recogniser import NICE
from offhook.qa.measuring.speech import Recogniser, SpeechFailed, Transcript, TurnText, transcribe
from offhook.qa.scenario.model import Heard
from offhook.qa.voice import Voice

NOISE = np.asarray(np.random.default_rng(1).normal(0, 2000, RATE // 2), np.int16)


@pytest.fixture(scope="module")
def said() -> dict[str, Samples]:
    voice = Voice("flite", "rms")
    sentences = ("Could you tell me your date of birth, please?", "Your order number is four seven one two.")
    return {sentence.split()[0]: asyncio.run(voice.speak(sentence)) for sentence in sentences}


@pytest.fixture
async def recogniser() -> AsyncIterator[Recogniser]:
    async with Recogniser() as made:
        yield made


def turns(*samples: Samples) -> list[tuple[Span, Samples]]:
    found, at = [], 1.0
    for one in samples:
        found.append((Span(at, at + len(one) / RATE), one))
        at += len(one) / RATE + 1
    return found


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


# --- what a transcript says


def test_a_transcript_is_asked_about_a_time() -> None:
    transcript = Transcript(
        (
            TurnText(Span(0, 2), "hello they had reached the", frozenset({"clinic"})),
            TurnText(Span(3, 5), ""),
            TurnText(Span(6, 9), "how can i help you"),
        ),
        "offline",
    )
    assert transcript.text == "hello they had reached the how can i help you"
    assert transcript.said(5.5) == "how can i help you"
    assert transcript.said(2, 6) == ""
    assert transcript.heard(Heard(any=["clinic"]))
    assert transcript.heard(Heard(any=["clinic"]), 1.9, 2.5)
    assert not transcript.heard(Heard(any=["clinic"]), 2.0)
    assert transcript.heard(Heard(all=["the how can", "help"])), "a pause may have parted them"
    assert not transcript.heard(Heard(all=["hello", "help"]), 5)


# --- the offline recogniser


async def test_a_call_is_understood(said: dict[str, Samples]) -> None:
    expected = [Heard(any=["birthday", "date of birth"]), Heard(all=["4712"]), Heard(any=["4713", "offhookery"])]
    transcript = await transcribe(turns(said["Could"], said["Your"]), {}, expected)
    assert [turn.text for turn in transcript.turns] == [
        "could you tell me your date of birth please",
        "your order number is four seven one two",
    ]
    assert [turn.sounded for turn in transcript.turns] == [{"date of birth"}, {"4712"}]
    assert transcript.recogniser == "offline"
    assert transcript.unknown == ("offhookery",)
    assert not transcript.heard(expected[2])


async def test_the_process_is_kept_runs_at_low_priority_and_ends(said: dict[str, Samples]) -> None:
    before = set(children())
    async with Recogniser() as recogniser:
        first = await recogniser.hear(said["Your"], ["order"])
        (child,) = set(children()) - before
        assert os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0) + NICE
        assert await recogniser.hear(said["Your"], ["order"]) == first, "the same audio gives the same"
        assert await recogniser.hear(NOISE[:0]) == ("", [], [])
        assert set(children()) - before == {child}
    assert not set(children()) - before
    with pytest.raises(SpeechFailed, match="was closed"):
        await recogniser.hear(said["Your"])


async def test_nothing_to_hear() -> None:
    transcript = await transcribe([], {}, [Heard(any=["hello"])])
    assert transcript == Transcript((), "offline")
    assert not transcript.heard(Heard(any=["hello"]))


async def test_too_much_to_hear() -> None:
    endless = np.zeros(int(speech.MAX_SECONDS * RATE) + 1, np.int16)
    with pytest.raises(SpeechFailed, match="spoke for 1800 s, and 1800 s are understood at most"):
        await transcribe(turns(endless), {}, [])


async def test_a_process_that_takes_too_long_is_ended(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "START_S", 0.05)
    monkeypatch.setattr(speech, "PACE", 0.0)
    before = set(children())
    with pytest.raises(SpeechFailed, match="took more than 0 s for 0 s of speech: is the machine overloaded"):
        await recogniser.hear(NOISE)
    assert not set(children()) - before


async def test_a_process_that_dies_is_replaced(recogniser: Recogniser, said: dict[str, Samples]) -> None:
    before = set(children())
    hearing = asyncio.ensure_future(recogniser.hear(said["Your"]))
    while not (started := set(children()) - before):
        await asyncio.sleep(0.01)
    os.kill(started.pop(), 9)
    with pytest.raises(SpeechFailed, match="process ended"):
        await hearing
    assert (await recogniser.hear(said["Your"]))[0] == "your order number is four seven one two"


async def test_no_process_at_all(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SpeechFailed, match="does not start"):
        await recogniser.hear(NOISE)


async def test_giving_up_ends_the_process(recogniser: Recogniser) -> None:
    before = set(children())
    hearing = asyncio.ensure_future(recogniser.hear(NOISE))
    while not set(children()) - before:
        await asyncio.sleep(0.01)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert not set(children()) - before


# --- services


async def test_a_service_hears_each_turn_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "FASTER", 50.0)
    async with FakeDeepgram([("Good morning.", 100, 600)]) as fake:
        settings = {"service": "deepgram", "api_key": "k", "base_url": fake.url}
        transcript = await transcribe(turns(NOISE, NOISE), settings, [Heard(any=["good morning"])])
        streams = fake.connections
    assert [turn.text for turn in transcript.turns] == ["Good morning.", "Good morning."]
    assert transcript.recogniser == "deepgram"
    assert transcript.heard(Heard(any=["good morning"]))
    lead = int(RATE * speech.LEAD_MS / 1000)
    assert all(stream.audio.strip(b"\xff") for stream in streams)
    assert all(len(stream.audio) >= len(NOISE) + 2 * lead for stream in streams)


async def test_a_service_that_ends_turns_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "FASTER", 50.0)
    script = [("Good morning.", 100, 600), ("How are you?", 1500, 2000)]
    async with FakeDeepgram(script, end_after=0.3) as fake:
        settings = {"service": "deepgram-flux", "api_key": "k", "base_url": fake.url}
        transcript = await transcribe(turns(np.tile(NOISE, 4)), settings, [])
    assert transcript.text == "Good morning. How are you?"


async def test_a_service_that_takes_files() -> None:
    async with FakeOpenAi(transcripts=["Good morning."]) as fake:
        settings = {"service": "openai", "api_key": "k", "base_url": f"{fake.url}/v1", "model": "whisper-1"}
        transcript = await transcribe(turns(NOISE), settings, [])
    assert transcript.text == "Good morning."


async def test_a_service_that_refuses() -> None:
    async with FakeOpenAi(transcripts=[Refusal(401, "wrong key")]) as fake:
        settings: dict[str, Any] = {"service": "openai", "api_key": "k", "base_url": f"{fake.url}/v1", "model": "w"}
        with pytest.raises(SpeechFailed, match="openai: rejected"):
            await transcribe(turns(NOISE, NOISE), settings, [])


async def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "FASTER", 100.0)
    monkeypatch.setattr(speech, "ANSWER_S", 0.1)
    async with FakeDeepgram([("Hello.", 100, 200)], final_after=30.0) as fake:
        settings = {"service": "deepgram", "api_key": "k", "base_url": fake.url, "timeout": 0.1}
        with pytest.raises(SpeechFailed, match="deepgram: timeout"):
            await transcribe(turns(NOISE), settings, [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"service": "earhorn"}, "no service 'earhorn' is installed"), ({"model": "x"}, "stt.service: missing")],
)
async def test_wrong_settings(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpeechFailed, match=problem):
        await transcribe(turns(NOISE), settings, [])
