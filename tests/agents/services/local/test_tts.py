from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, TextToSpeech
from offhook.agents.services.local.tts import EspeakVoice, FliteVoice
from offhook.agents.services.registry import make_service
from offhook.agents.speech import tts
from offhook.codecs.audio import L16_8K, L16_24K, PCMU

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(engine) is None, reason=f"{engine} is not installed"))
    for name, engine in (("flite", "flite"), ("espeak", "espeak-ng"))
]


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    tts._cache.clear()
    yield
    tts._cache.clear()


def voice(name: str, **settings: object) -> TextToSpeech:
    made = make_service("tts", {"service": name, **settings})
    assert isinstance(made, FliteVoice | EspeakVoice)
    return made


@pytest.mark.own_tasks("speech is shared by the calls that want it")
@pytest.mark.parametrize("name", ENGINES)
async def test_a_sentence_is_spoken_in_the_format_of_the_call(name: str) -> None:
    service = voice(name)
    lengths = []
    for format in (PCMU, L16_24K):
        call = await service.open(format)
        [spoken] = [item async for item in call.synthesize("How can I help you?")]
        assert isinstance(spoken, Audio)
        lengths.append(format.duration(len(spoken.data)))
        await call.close()
    assert 0.8 < lengths[0] < 3
    assert lengths[0] == pytest.approx(lengths[1], abs=0.1)


@pytest.mark.own_tasks("speech is shared by the calls that want it")
@pytest.mark.parametrize("name", ENGINES)
async def test_voices_differ_and_are_kept_apart(name: str) -> None:
    other = {"flite": "rms", "espeak": "de"}[name]
    heard = []
    for service in (voice(name), voice(name, voice=other), voice(name)):
        call = await service.open(L16_8K)
        heard.append([item async for item in call.synthesize("Hello")])
    assert heard[0] == heard[2] != heard[1]


async def test_a_blank_text_is_silent() -> None:
    call = await voice("flite").open(L16_8K)
    assert [item async for item in call.synthesize(" ")] == []


async def test_a_text_that_is_too_long_is_refused() -> None:
    call = await voice("flite").open(L16_8K)
    with pytest.raises(ServiceError, match="flite: rejected: text of 3000 characters"):
        await anext(call.synthesize("x" * 3000))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_a_voice_that_does_not_exist_is_an_error() -> None:
    call = await voice("espeak", voice="klingon-xx").open(L16_8K)
    with pytest.raises(ServiceError, match="espeak: unavailable: espeak-ng failed"):
        await anext(call.synthesize("Hello"))


async def test_a_synthesiser_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()

    async def hangs(*_: object, **__: object) -> bytes:
        await released.wait()
        return b""

    monkeypatch.setattr("offhook.agents.services.local.tts.synthesize", hangs)
    call = await voice("flite", timeout=0.02).open(L16_8K)
    with pytest.raises(ServiceError, match=r"flite: timeout: no speech in 0.02 s"):
        await anext(call.synthesize("Hello"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"service": "flite", "voice": "hal"}, "tts.voice: must be 'slt', "),
        ({"service": "espeak", "voice": "-x"}, "tts.voice: not of the right form: A language"),
        ({"service": "espeak", "speed": 3}, "tts.speed: .*; espeak has retries, service, stall, timeout, voice"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_service("tts", settings)


def test_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SettingsError, match=r"tts.service: espeak-ng is not installed: `apt-get install espeak-ng`"):
        voice("espeak")
