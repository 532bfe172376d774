"""Speech from text, by the synthesisers that are installed."""

from __future__ import annotations

import asyncio
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offhook.agents.speech import tts
from offhook.agents.speech.tts import MAX_TEXT, SpeechUnavailable, engine, prerender, speak, synthesize
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import dbfs

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in tts.ENGINES
]
LINE = "Thank you for calling. How can I help you?"


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    tts._cache.clear()
    yield
    tts._cache.clear()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were really synthesised."""
    texts: list[str] = []

    def counted(text: str, engine: str, format: AudioFormat, voice: str) -> bytes:
        texts.append(text)
        return speak(text, engine, format, voice)

    monkeypatch.setattr(tts, "speak", counted)
    return texts


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("format", [L16_8K, L16_16K, PCMU, PCMA])
def test_speech_has_the_format_asked_for_and_begins_with_the_voice(name: str, format: AudioFormat) -> None:
    audio = speak(LINE, name, format)
    assert 1.5 < len(audio) / format.size(1.0) < 5
    pcm = convert_all(audio, format, AudioFormat("l16", format.rate))
    assert dbfs(pcm) > -35
    samples = np.abs(np.frombuffer(pcm, "<i2").astype(int))
    assert np.flatnonzero(samples > tts.QUIET)[0] < 0.03 * format.rate
    assert samples[: format.rate // 200].max() < 3000, "begins with a click"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "text", ["-v", "--help", "'; touch owned; '", '"$(touch owned)"', "; rm x", "<speak>hi</speak>"]
)
def test_a_text_is_only_ever_spoken(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(speak(text, name, L16_8K)) > L16_8K.size(0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("text", ["☎️", "…", "Grüße, 你好", "a\x00b", "\ud800 one", "...", "!"])
def test_odd_texts_are_spoken_or_left_out(name: str, text: str) -> None:
    assert len(speak(text, name, L16_8K)) % 2 == 0


async def test_only_spaces_are_silence(runs: list[str]) -> None:
    assert await synthesize(" \n\t") == b""
    assert runs == []


async def test_a_text_too_long_is_refused(runs: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"text of {MAX_TEXT + 1} characters; at most {MAX_TEXT}"):
        await synthesize("a" * (MAX_TEXT + 1))
    assert runs == []


async def test_what_was_said_before_is_there_at_once(runs: list[str]) -> None:
    first = await synthesize(LINE, PCMU)
    began = time.perf_counter()
    assert await synthesize(LINE, PCMU) is first
    assert time.perf_counter() - began < 0.002
    assert runs == [LINE]
    await synthesize(LINE, PCMA)
    assert runs == [LINE, LINE]


async def test_calls_that_want_the_same_wait_for_one_child(runs: list[str]) -> None:
    spoken = await asyncio.gather(*(synthesize(LINE) for _ in range(20)))
    assert len(set(map(id, spoken))) == 1
    assert runs == [LINE]
    assert tts._running == {}


async def test_a_caller_who_hangs_up_does_not_take_it_from_the_others(runs: list[str]) -> None:
    leaving, staying = asyncio.create_task(synthesize(LINE)), asyncio.create_task(synthesize(LINE))
    await asyncio.sleep(0)
    leaving.cancel()
    assert len(await staying) > 0
    assert leaving.cancelled()
    assert runs == [LINE]


async def test_the_cache_is_bounded(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts, "MAX_CACHED", 2)
    for text in ("one", "two", "one", "three", "one", "two"):
        await synthesize(text)
    assert runs == ["one", "two", "three", "two"], "the one used longest ago goes first"


async def test_prerendered_sentences_are_there_at_once(runs: list[str]) -> None:
    await asyncio.to_thread(prerender, ["one", "two"])
    await synthesize("two")
    assert sorted(runs) == ["one", "two"]


async def test_the_loop_goes_on_meanwhile() -> None:
    task = asyncio.create_task(synthesize(LINE))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks >= 3


async def test_with_nothing_installed_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechUnavailable, match=r"no synthesiser is installed; install flite .*apt-get install flite"):
        await synthesize(LINE)
    with pytest.raises(SpeechUnavailable, match="no synthesiser is installed"):
        prerender([LINE])


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_espeak_speaks_where_flite_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "espeak-ng", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine() == "espeak-ng"
    program(tmp_path, "flite", "exit 0")
    assert engine() == "flite"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo no such voice >&2; exit 3", "flite failed with 3: no such voice"),
        ("exit 1", "flite failed with 1: no message"),
        ("exit 0", "flite gave no speech: .*; install flite"),
        ("echo nonsense > $6", "flite gave no speech: "),
        ("exec sleep 60", "flite did not finish within 0.1 s"),
    ],
)
async def test_a_synthesiser_that_fails_says_how(
    script: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "flite", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if "sleep" in script:
        monkeypatch.setattr(tts, "TIMEOUT", 0.1)
    with pytest.raises(SpeechUnavailable, match=complaint):
        await synthesize(LINE)
    assert tts._cache == {}
