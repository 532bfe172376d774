"""The recogniser, its real process, on synthetic speech as a telephone carries it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offhook.agents.speech import stt, tts
from offhook.agents.speech.grammar import Grammar, Meaning
from offhook.agents.speech.stt import Recognizer, RecognizerFailed
from offhook.codecs.audio import PCMU
from offhook.codecs.g711 import ulaw_to_pcm
from offhook.codecs.pcm import silence

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")

RULES = {"day": {"Monday": ["monday"], "Tuesday": ["tuesday"], "Friday": ["friday"]}}
GRAMMAR = Grammar({"book": ["[i would like] an appointment [on <day>]"], "hours": ["opening hours"]}, RULES)
YES_NO = Grammar({"yes": ["yes [please]", "that's right"], "no": ["no [thank you]"]})
NONSENSE = "my cat has eaten the newspaper again"


def telephone(text: str, voice: str = "slt") -> bytes:
    """The sentence after μ-law at 8 kHz, with a little silence around it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tts.ENGINES, "flite", voice)
        spoken = ulaw_to_pcm(tts.speak(text, "flite", PCMU))
    return silence(0.4, 8000) + spoken + silence(0.4, 8000)


@pytest.fixture
def recognizer() -> Iterator[Recognizer]:
    made = Recognizer()
    yield made
    made.close()


def child(recognizer: Recognizer) -> int:
    """Process id of the one child."""
    [found] = recognizer._children
    return found._process.pid


@pytest.mark.parametrize("voice", ["slt", "rms"])
async def test_sentences_of_the_grammar_are_understood(recognizer: Recognizer, voice: str) -> None:
    lines = {
        "I would like an appointment on Tuesday": Meaning("book", {"day": ("Tuesday",)}),
        "an appointment on Friday": Meaning("book", {"day": ("Friday",)}),
        "an appointment": Meaning("book"),
        "opening hours": Meaning("hours"),
    }
    for line, meaning in lines.items():
        heard = await recognizer.recognize(GRAMMAR, telephone(line, voice))
        assert heard.meaning == meaning, line
        assert heard.text == line.lower()
        assert stt.least_score(len(heard.text.split())) <= heard.score < 1


def test_long_sentences_may_fit_worse() -> None:
    assert [stt.least_score(words) for words in (1, 3, 4, 5, 6, 30)] == pytest.approx([0.55, 0.55, 0.5, 0.45, 0.4, 0.4])


async def test_each_question_has_its_own_grammar(recognizer: Recognizer) -> None:
    for grammar, line, answer in ((YES_NO, "that's right", "yes"), (GRAMMAR, "opening hours", "hours")) * 2:
        heard = await recognizer.recognize(grammar, telephone(line))
        assert heard.meaning == Meaning(answer)
    assert len(recognizer._children) == 1


@pytest.mark.parametrize("sound", ["another sentence", "silence", "noise", "a click", "nothing"])
async def test_what_is_no_sentence_of_the_grammar_is_rejected(recognizer: Recognizer, sound: str) -> None:
    noise = np.random.default_rng(1).normal(scale=1000, size=16_000).astype("<i2").tobytes()
    audio = {
        "another sentence": telephone(NONSENSE),
        "silence": silence(2, 8000),
        "noise": noise,
        "a click": silence(0.2, 8000) + b"\xff\x7f" * 20 + silence(0.2, 8000),
        "nothing": b"",
    }[sound]
    heard = await recognizer.recognize(GRAMMAR, audio)
    assert (heard.text, heard.meaning) == ("", None)


async def test_only_the_end_of_a_very_long_sentence_counts(recognizer: Recognizer) -> None:
    heard = await recognizer.recognize(GRAMMAR, silence(60, 8000) + telephone("opening hours"))
    assert heard.score < 1  # it came back, in time


async def test_calls_share_the_processes(recognizer: Recognizer) -> None:
    audio = telephone("opening hours")
    heard = await asyncio.gather(*(recognizer.recognize(GRAMMAR, audio) for _ in range(5)))
    assert {found.text for found in heard} == {"opening hours"}
    assert len(recognizer._children) == 1


async def test_two_processes_understand_two_at_once() -> None:
    recognizer = Recognizer(2)
    try:
        audio = telephone("opening hours")
        await asyncio.gather(*(recognizer.recognize(GRAMMAR, audio) for _ in range(6)))
        assert len(recognizer._children) == 2
    finally:
        recognizer.close()


def test_unknown_words_are_reported_and_the_rest_is_understood(recognizer: Recognizer) -> None:
    odd = Grammar({"odd": ["frobnicate the (quux | line)"], "hours": ["opening hours"]})
    assert recognizer.prepare([GRAMMAR, odd]) == ["frobnicate", "quux"]
    assert recognizer.prepare([GRAMMAR]) == []
    heard = asyncio.run(recognizer.recognize(odd, telephone("opening hours")))
    assert heard.meaning == Meaning("hours")


def test_what_is_prepared_outlives_the_thread_that_asked(recognizer: Recognizer) -> None:
    thread = threading.Thread(target=recognizer.prepare, args=([GRAMMAR],))
    thread.start()
    thread.join()
    pid = child(recognizer)
    heard = asyncio.run(recognizer.recognize(GRAMMAR, telephone("opening hours")))
    assert heard.meaning == Meaning("hours")
    assert child(recognizer) == pid


def test_a_grammar_of_unknown_words_only_understands_nothing(recognizer: Recognizer) -> None:
    odd = Grammar({"odd": ["frobnicate"]})
    assert recognizer.prepare([odd]) == ["frobnicate"]
    heard = asyncio.run(recognizer.recognize(odd, telephone("opening hours")))
    assert heard.meaning is None


async def test_after_a_killed_process_the_next_sentence_is_understood(recognizer: Recognizer) -> None:
    audio = telephone("opening hours")
    await recognizer.recognize(GRAMMAR, audio)
    dead = child(recognizer)
    os.kill(dead, signal.SIGKILL)
    with pytest.raises(RecognizerFailed, match=r"process ended with -9|process is gone"):
        await recognizer.recognize(GRAMMAR, audio)
    await asyncio.wrap_future(recognizer._threads.submit(lambda: None))  # behind what was asked for meanwhile
    new = child(recognizer)
    assert new != dead
    heard = await recognizer.recognize(GRAMMAR, audio)
    assert heard.meaning == Meaning("hours")
    assert child(recognizer) == new


async def test_a_process_killed_in_the_middle_of_a_sentence(recognizer: Recognizer) -> None:
    await recognizer.recognize(GRAMMAR, telephone("opening hours"))
    pid = child(recognizer)
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.create_task(recognizer.recognize(GRAMMAR, silence(14, 8000)))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RecognizerFailed):
        await waiting


async def test_a_process_that_hangs_is_replaced(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = telephone("opening hours")
    await recognizer.recognize(GRAMMAR, audio)
    hung = child(recognizer)
    os.kill(hung, signal.SIGSTOP)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(stt, "TIMEOUT", 0.2)
        with pytest.raises(RecognizerFailed):
            await recognizer.recognize(GRAMMAR, audio)
    assert 0.2 <= time.monotonic() - began < 1
    assert not Path(f"/proc/{hung}").exists()
    assert (await recognizer.recognize(GRAMMAR, audio)).meaning == Meaning("hours")


@pytest.mark.timing
async def test_the_loop_goes_on_meanwhile(recognizer: Recognizer) -> None:
    audio = telephone("I would like an appointment on Tuesday")
    task = asyncio.create_task(_some(recognizer, audio))
    gaps, last = [], time.monotonic()
    while not task.done():
        await asyncio.sleep(0.002)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    await task
    assert len(gaps) > 50
    assert max(gaps) < 0.05


async def _some(recognizer: Recognizer, audio: bytes) -> None:
    for _ in range(5):
        await recognizer.recognize(GRAMMAR, audio)


async def test_close_ends_the_processes() -> None:
    recognizer = Recognizer(2)
    await asyncio.gather(*(recognizer.recognize(YES_NO, telephone("no")) for _ in range(4)))
    pids = [found._process.pid for found in recognizer._children]
    assert pids
    recognizer.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    recognizer.close()
