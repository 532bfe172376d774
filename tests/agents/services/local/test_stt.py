"""Sentences spoken by flite, heard by pocketsphinx: both real, both on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Final, Heard, HearingLost, ServiceError
from offhook.agents.services.local.stt import APART, GrammarSpeech
from offhook.agents.services.registry import make_service
from offhook.agents.speech.stt import RecognizerFailed
from offhook.agents.speech.tts import synthesize
from offhook.codecs.audio import L16_8K, PCMU

PHRASES = ["yes [please]", "no [thank you]", "[book] an appointment [on <day>]"]
RULES = {"day": {"monday": ["monday"], "friday": ["friday"]}}


def service(**settings: Any) -> GrammarSpeech:
    made = make_service("stt", {"service": "grammar", **settings})
    assert isinstance(made, GrammarSpeech)
    return made


@pytest.fixture
async def speech() -> AsyncIterator[GrammarSpeech]:
    made = service(phrases=PHRASES, rules=RULES)
    yield made
    await made.close()


class Call:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()

    async def next(self) -> Heard:
        async with asyncio.timeout(10):
            return await self.heard.get()


@pytest.mark.own_tasks("the fixture's service has its thread")
async def test_a_sentence_is_understood_at_the_pause(speech: GrammarSpeech) -> None:
    await speech.warm()
    call = Call()
    stream = await speech.open(PCMU, call.heard.put_nowait)
    silence = PCMU.silence * 25
    for words in ("book an appointment on friday", "yes please"):
        audio = silence + await synthesize(words, PCMU) + silence
        for at in range(0, len(audio), 160):
            stream.push(audio[at : at + 160])
        stream.finalize()
        final = await call.next()
        assert isinstance(final, Final)
        assert final.text == words
        assert final.answers_finalize
        assert 0.4 < final.confidence <= 1
    stream.push(silence)
    stream.finalize()
    assert await call.next() == Final("", answers_finalize=True)
    await stream.close()


@pytest.mark.own_tasks("the fixture's service has its thread")
async def test_the_halves_of_a_sentence_are_heard_together(speech: GrammarSpeech) -> None:
    call = Call()
    stream = await speech.open(L16_8K, call.heard.put_nowait)
    stream.push(L16_8K.silence * 25 + await synthesize("book an appointment on") + L16_8K.silence * 30)
    stream.finalize()
    first = await call.next()
    assert isinstance(first, Final)
    stream.push(await synthesize("friday") + L16_8K.silence * 30)
    stream.finalize()
    second = await call.next()
    assert isinstance(second, Final)
    assert f"{first.text} {second.text}".split()[-1] == "friday"
    await stream.close()


async def test_nothing_said_is_answered_at_once(speech: GrammarSpeech) -> None:
    call = Call()
    stream = await speech.open(PCMU, call.heard.put_nowait)
    stream.push(PCMU.silence * (APART + 10))
    stream.finalize()
    assert await call.next() == Final("", answers_finalize=True)
    await stream.close()


async def test_a_recogniser_that_dies_is_lost_hearing(speech: GrammarSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(*_: object) -> None:
        raise RecognizerFailed("the recogniser's process ended with -9")

    monkeypatch.setattr(speech.recognizer, "recognize", dies)
    call = Call()
    stream = await speech.open(L16_8K, call.heard.put_nowait)
    stream.push(await synthesize("yes please"))
    stream.finalize()
    lost = await call.next()
    assert isinstance(lost, HearingLost)
    assert str(lost.error) == "grammar: unavailable: the recogniser's process ended with -9"
    await stream.close()


async def test_a_recogniser_that_hangs_is_lost_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: object) -> None:
        await asyncio.sleep(100)

    speech = service(phrases=PHRASES, rules=RULES, timeout=0.05)
    monkeypatch.setattr(speech.recognizer, "recognize", hangs)
    call = Call()
    stream = await speech.open(L16_8K, call.heard.put_nowait)
    stream.push(await synthesize("yes please"))
    stream.finalize()
    lost = await call.next()
    assert isinstance(lost, HearingLost)
    assert lost.error.kind == "timeout"
    stream.finalize()
    await asyncio.sleep(0)
    await stream.close()
    assert call.heard.empty(), "closing ends what is under way"
    await speech.close()


@pytest.mark.own_tasks("the service has its thread")
async def test_words_the_recogniser_does_not_know_are_found_when_warming() -> None:
    speech = service(phrases=["offhookery"])
    with pytest.raises(SettingsError, match=r"stt.phrases: the recogniser's dictionary has no offhookery; use other"):
        await speech.warm()
    await speech.close()


async def test_a_recogniser_that_does_not_start(speech: GrammarSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> list[str]:
        raise RecognizerFailed("gone")

    monkeypatch.setattr(speech.recognizer, "prepare", fails)
    with pytest.raises(ServiceError, match="grammar: unavailable: gone"):
        await speech.warm()


def test_a_grammar_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "menu.yaml"
    file.write_text("phrases: [press <digit>]\nrules: {digit: {'1': [one]}}\n")
    meaning = service(file=str(file)).grammar.parse("press one")
    assert meaning is not None
    assert meaning.slot("digit") == "1"


@pytest.mark.parametrize(
    ("settings", "content", "message"),
    [
        ({}, "", r"stt.phrases: missing: list what may be said, such as \[yes, no\]"),
        ({"phrases": ["press 1"]}, "", "stt.phrases: phrase 'press 1': '1' is not understood there; write numbers as"),
        ({"file": "missing.yaml"}, "", "stt.file: missing.yaml cannot be read"),
        ({"file": "x", "phrases": ["yes"]}, "", "stt.file: phrases and rules are given too; leave them out, or the"),
        ({"file": "FILE"}, "phrases: [", "stt.file: .* is no YAML"),
        ({"file": "FILE"}, "phrases: 3", "stt.file: .*: phrases: must be a list: .*; it holds phrases and"),
        ({"file": "FILE"}, "", "stt.file: .*: the file: "),
        (
            {"phrases": ["yes"], "language": "hi"},
            "",
            "stt.language: no such setting; grammar has file, ",
        ),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], content: str, message: str, tmp_path: Path) -> None:
    if settings.get("file") == "FILE":
        (tmp_path / "grammar.yaml").write_text(content)
        settings = settings | {"file": str(tmp_path / "grammar.yaml")}
    with pytest.raises(SettingsError, match=message):
        service(**settings)
