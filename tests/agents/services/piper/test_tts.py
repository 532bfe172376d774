"""Piper's own library and onnxruntime; only the voice is a toy (fakes.piper)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import piper as tiny_voice

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, Voice
from offhook.agents.services.piper.tts import OrtErrors, PiperVoice
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all


def service(file: Path, **settings: Any) -> PiperVoice:
    made = make_service("tts", {"service": "piper", "file": str(file), **settings})
    assert isinstance(made, PiperVoice)
    return made


@pytest.fixture
async def piper(tmp_path: Path) -> AsyncIterator[PiperVoice]:
    made = service(tiny_voice.write_voice(tmp_path))
    yield made
    await made.close()


async def pieces(voice: Voice, text: str) -> list[bytes]:
    return [item.data async for item in voice.synthesize(text) if isinstance(item, Audio)]


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_8K, L16_16K, L16_24K])
async def test_sentences_come_one_by_one_in_the_format_of_the_call(piper: PiperVoice, format: AudioFormat) -> None:
    await piper.warm()
    voice = await piper.open(format)
    first, second = await pieces(voice, "Hello there. How can I help you today?")
    assert 0.2 < format.duration(len(first)) < format.duration(len(second)) < 3
    pcm = np.frombuffer(convert_all(first, format, AudioFormat("l16", format.rate)), "<i2").astype(float)
    assert 15_000 < np.abs(pcm).max() <= 32_768
    assert await pieces(voice, "  ") == []
    await voice.close()


async def test_a_voice_at_the_rate_of_the_call_is_not_resampled(tmp_path: Path) -> None:
    made = service(tiny_voice.write_voice(tmp_path, audio={"sample_rate": 16000}))
    [audio] = await pieces(await made.open(L16_16K), "Hello")
    assert len(audio) % (2 * tiny_voice.SAMPLES) == 0
    await made.close()


async def test_calls_share_one_voice_and_one_thread(piper: PiperVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = piper._load
    monkeypatch.setattr(piper, "_load", lambda: loaded.append(threading.current_thread().name) or load())
    one, two = await asyncio.gather(piper.open(PCMU), piper.open(PCMU))
    assert await asyncio.gather(pieces(one, "Hello"), pieces(two, "Hello"))
    assert loaded == ["piper_0"]


async def test_speed_goes_to_the_model(tmp_path: Path) -> None:
    made = service(tiny_voice.write_voice(tmp_path, inference={"length_scale": 1.2}), speed=1.5)
    _, how = await made.load()
    assert how.length_scale == pytest.approx(0.8)
    await made.close()


async def test_speakers_by_name_and_number(tmp_path: Path) -> None:
    file = tiny_voice.write_voice(tmp_path, num_speakers=2, speaker_id_map={"ann": 0, "bob": 1})
    for speaker, number in (("bob", 1), (0, 0)):
        made = service(file, speaker=speaker)
        assert (await made.load())[1].speaker_id == number
        await made.close()
    for unknown in ("carl", 2):
        made = service(file, speaker=unknown)
        with pytest.raises(SettingsError, match=f"tts.speaker: the voice has no {unknown!r}; there are ann, bob"):
            await made.warm()
        await made.close()


async def test_a_busy_machine_is_an_error(piper: PiperVoice) -> None:
    voice = await piper.open(PCMU)
    release = threading.Event()
    busy = asyncio.get_running_loop().run_in_executor(piper.thread, release.wait)
    object.__setattr__(piper.limits, "timeout", 0.05)
    with pytest.raises(ServiceError, match=r"piper: timeout: no speech for 0.05 s; the machine is busy"):
        await pieces(voice, "Hello")
    release.set()
    await busy
    object.__setattr__(piper.limits, "timeout", 5.0)
    assert await pieces(voice, "Hello")


async def test_a_model_that_fails_is_an_error(piper: PiperVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = await piper.open(PCMU)

    def fails(*_: object) -> None:
        raise OrtErrors[1]("out of range")

    loaded, _ = await piper.load()
    monkeypatch.setattr(loaded, "synthesize", fails)
    with pytest.raises(ServiceError, match="piper: bad reply: the voice failed: out of range"):
        await pieces(voice, "Hello")


async def test_a_text_that_is_too_long_is_refused(piper: PiperVoice) -> None:
    voice = await piper.open(PCMU)
    with pytest.raises(ServiceError, match="piper: rejected: text of 3000 characters; at most 2000"):
        await pieces(voice, "x" * 3000)


@pytest.mark.parametrize("broken", ["tiny.onnx", "tiny.onnx.json"])
async def test_files_that_are_no_voice(tmp_path: Path, broken: str) -> None:
    file = tiny_voice.write_voice(tmp_path)
    (tmp_path / broken).write_text('{"audio": {}}')
    made = service(file)
    place = "config" if broken.endswith("json") else "file"
    for _ in range(2):
        with pytest.raises(SettingsError, match=rf"tts.{place}: .*{broken}"):
            await made.warm()
    await made.close()


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tts.file: .*x.onnx is no file; a Piper voice is two files, an .onnx"):
        service(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(SettingsError, match=r"tts.config: .*x.onnx.json is no file"):
        service(tmp_path / "x.onnx")
    with pytest.raises(SettingsError, match=r"tts.file: missing: The voice"):
        make_service("tts", {"service": "piper"})
