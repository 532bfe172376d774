"""The end-of-turn model itself, on sentences that a synthesiser speaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.speech.tts import synthesize
from offhook.agents.turns import smart_turn
from offhook.agents.turns.smart_turn import SmartTurn
from offhook.codecs.audio import L16_8K

needs_model = pytest.mark.skipif(not SmartTurn.installed(), reason="no end-of-turn model: pip install pipecat-ai")

PAUSE = bytes(2 * 8 * 130)
"""The silence in which the model is asked."""


@pytest.fixture(scope="module")
def loaded() -> Iterator[SmartTurn]:
    model = SmartTurn()
    model.load()
    yield model
    model.close()


@needs_model
@pytest.mark.leaves("the model's thread serves the other tests of this module, and the fixture ends it")
async def test_a_finished_sentence_is_finished_and_an_unfinished_one_is_not(loaded: SmartTurn) -> None:
    finished = await synthesize("I would like to book a table for two.", L16_8K)
    thinking = await synthesize("And then I want to, um,", L16_8K)
    assert await loaded.probability(finished + PAUSE) > 0.5
    assert await loaded.probability(thinking + PAUSE) < 0.2


@needs_model
@pytest.mark.leaves("the model's thread serves the other tests of this module, and the fixture ends it")
async def test_only_the_last_eight_seconds_count_and_nothing_is_no_error(loaded: SmartTurn) -> None:
    sentence = await synthesize("I would like to book a table for two.", L16_8K)
    eight = (bytes(2 * 8000 * 8) + sentence)[-2 * 8000 * 8 :]
    assert await loaded.probability(eight) == await loaded.probability(bytes(100_000) + eight)
    assert 0 <= await loaded.probability(b"") <= 1


@needs_model
async def test_the_loop_is_not_held_up_and_the_thread_ends() -> None:
    before = set(threading.enumerate())
    model = SmartTurn()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    heart = asyncio.create_task(beat())
    await model.probability(bytes(16_000))
    heart.cancel()
    assert beats >= 3, "loading and judging take 100 ms and more"
    model.close()
    assert set(threading.enumerate()) <= before


@needs_model
def test_a_host_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmartTurn, "_shared", {})
    model = SmartTurn.shared()
    assert SmartTurn.shared() is model
    model.close()
    assert SmartTurn.shared() is not model
    SmartTurn.shared().close()


@needs_model
def test_a_path_of_ones_own_will_do() -> None:
    model = SmartTurn(str(smart_turn.model_file()))
    model.load()
    model.close()


def test_a_missing_file_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"turns\.model_path: there is no file .*pip install --no-deps pipecat-ai"):
        SmartTurn(str(tmp_path / "none.onnx"))
    assert not SmartTurn.installed(str(tmp_path / "none.onnx"))
    monkeypatch.setattr(smart_turn.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install --no-deps pipecat-ai.* turns\.model_path"):
        SmartTurn()


def test_another_file_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no model")
    model = SmartTurn(str(wrong))
    with pytest.raises(SettingsError, match=r"turns\.model_path: .*wrong\.onnx is no ONNX model"):
        model.load()
    model.close()
    from offhook.codecs.vad import SileroModel

    model = SmartTurn(str(SileroModel.path()))
    with pytest.raises(SettingsError, match="not Smart Turn v3"):
        model.load()
    model.close()
