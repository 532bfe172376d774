"""What a caller says is made beforehand: trimmed to the sample, levelled, kept on disk, and the same every time."""

from __future__ import annotations

import os
import pickle
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offhook.qa.activity import RATE
from offhook.qa.caller import script as script_module
from offhook.qa.caller.script import FRAME, Script, ScriptError, bed_key, prepare, sound_key
from offhook.qa.match import AUDIBLE
from offhook.qa.scenario.model import Background, CallerSettings, Scenario, Speech
from offhook.qa.voice import Voice, VoiceUnavailable

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


def scenario(*steps: dict[str, Any], **caller: Any) -> Scenario:
    return Scenario.model_validate({"name": "test", "caller": caller, "steps": list(steps)})


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def tone(seconds: float, peak: float = 3000, hertz: float = 440) -> np.ndarray:
    return peak * np.sin(np.arange(round(seconds * RATE)) * 2 * np.pi * hertz / RATE)


def level(samples: np.ndarray) -> float:
    """dBov of the louder half of the frames."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160) / 32768.0
    power = np.sort((frames**2).mean(axis=1))
    return float(10 * np.log10(power[len(power) // 2 :].mean()))


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A synthesiser that takes no time; gives what it was asked to say."""
    asked: list[str] = []

    async def speak(self: Voice, text: str) -> np.ndarray:
        asked.append(text)
        return np.rint(tone(0.05 * len(text), 9000, 300)).astype(np.int16)

    def new(self: Voice, engine: str = "", name: str = "") -> None:
        self.engine, self.name = "flite", name or "rms"

    monkeypatch.setattr(Voice, "__init__", new)
    monkeypatch.setattr(Voice, "speak", speak)
    return asked


async def test_a_wav_file_is_trimmed_to_its_first_and_last_audible_sample(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", np.concatenate([np.zeros(4000), tone(0.5), np.zeros(3000)]))
    made = await prepare(scenario({"say": {"wav": "a.wav"}}), tmp_path, cache=tmp_path / "cache")
    [(key, sound)] = made.sounds.items()
    assert key == "wav a.wav @-22"
    assert abs(int(sound[0])) > AUDIBLE
    assert abs(int(sound[-1])) > AUDIBLE
    assert len(sound) / RATE == pytest.approx(0.5, abs=0.01)
    assert sound.dtype == np.int16


@pytest.mark.parametrize("gain", ["-30dBov", "-22dBov", "-12dBov"])
async def test_the_louder_half_has_the_level_asked_for(tmp_path: Path, gain: str) -> None:
    write(tmp_path / "a.wav", tone(0.5))
    made = await prepare(scenario({"say": {"wav": "a.wav"}}, gain=gain), tmp_path)
    [sound] = made.sounds.values()
    assert level(sound) == pytest.approx(float(gain[:3]), abs=0.3)


async def test_a_step_may_be_louder_than_the_caller_is(spoken: list[str], tmp_path: Path) -> None:
    plan = scenario(
        {"say": "Hello there."}, {"say": {"text": "Hello there.", "gain": "-10dBov"}}, {"say": "Hello there."}
    )
    made = await prepare(plan, tmp_path, cache=tmp_path / "cache")
    quiet, loud = made.sounds["say Hello there. @-22"], made.sounds["say Hello there. @-10"]
    assert level(loud) - level(quiet) == pytest.approx(12, abs=0.2)
    assert spoken == ["Hello there."]
    assert made.voice == "flite rms"


async def test_a_sentence_is_synthesised_once_and_kept_on_disk(spoken: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    first = await prepare(scenario({"say": "Hello."}), tmp_path, cache=cache)
    again = await prepare(scenario({"say": "Hello."}), tmp_path, cache=cache)
    assert spoken == ["Hello."]
    assert np.array_equal(first.sounds["say Hello. @-22"], again.sounds["say Hello. @-22"])
    [kept] = cache.iterdir()
    assert kept.suffix == ".wav"
    other = scenario({"say": "Hello."}, voice={"engine": "flite", "name": "slt"})
    await prepare(other, tmp_path, cache=cache)
    assert spoken == ["Hello.", "Hello."]
    assert len(list(cache.iterdir())) == 2


async def test_a_damaged_file_in_the_cache_is_made_anew(spoken: list[str], tmp_path: Path) -> None:
    await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")
    [kept] = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:20], whole[:-100], b"no wav at all"):
        kept.write_bytes(damaged)
        made = await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")
        assert len(made.sounds) == 1
        assert kept.read_bytes() == whole
    assert spoken == ["Hello."] * 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_cache_that_cannot_be_written_costs_time_only(spoken: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    made = await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")
    assert made.sounds


async def test_where_the_cache_should_be_is_a_file(spoken: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    made = await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")
    assert made.sounds
    assert (tmp_path / "cache").read_text() == "in the way"


@pytest.mark.parametrize("sound", ["cough", "knock", "hum"])
async def test_sounds_are_made_by_the_seed(tmp_path: Path, sound: str) -> None:
    plan = scenario({"backchannel": {"sound": sound}})
    one, same, other = [await prepare(plan, tmp_path, seed=seed) for seed in (1, 1, 2)]
    key = f"sound {sound} @-22"
    assert np.array_equal(one.sounds[key], same.sounds[key])
    assert not np.array_equal(one.sounds[key], other.sounds[key])
    assert 0.03 < len(one.sounds[key]) / RATE < 2


@pytest.mark.parametrize("kind", ["white", "street", "babble"])
async def test_a_made_background_lies_below_the_speech_by_the_ratio_asked_for(
    spoken: list[str], tmp_path: Path, kind: str
) -> None:
    noise = {"kind": kind, "snr": "15dB"}
    made = await prepare(scenario({"wait": "1s"}, noise=noise), tmp_path, cache=tmp_path / "cache")
    bed = made.beds[bed_key(Background.model_validate(noise))]
    assert level(bed) == pytest.approx(-37, abs=0.5)
    assert len(bed) % FRAME == 0
    assert len(bed) / RATE > 15


async def test_a_background_from_a_file_is_repeated_without_a_jump(tmp_path: Path) -> None:
    write(tmp_path / "cafe.wav", tone(0.503, 9000, 137))
    plan = scenario({"noise": {"file": "cafe.wav", "snr": "6dB"}}, {"noise": "off"})
    made = await prepare(plan, tmp_path)
    bed = made.beds["cafe.wav 6"]
    inside = np.abs(np.diff(bed.astype(int))).max()
    assert abs(int(bed[0]) - int(bed[-1])) <= 1.5 * inside


async def test_a_background_shorter_than_a_frame_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "tick.wav", np.tile(tone(0.04, 9000), 1))
    made = await prepare(scenario({"noise": {"file": "tick.wav"}}), tmp_path)
    assert len(made.beds["tick.wav 15"]) >= FRAME


async def test_what_is_missing_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"cannot read .*none\.wav: No such file") as found:
        await prepare(scenario({"wait": "1s"}, {"barge_in": {"wav": "none.wav"}}), tmp_path)
    assert found.value.path == ("steps", 1, "barge_in", "wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ScriptError, match="not a WAV file") as found:
        await prepare(scenario({"wait": "1s"}, noise={"file": "text.wav"}), tmp_path)
    assert found.value.path == ("caller", "noise", "file")


async def test_what_is_too_long_or_too_quiet_is_refused(
    spoken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ScriptError, match="split it after 2000"):
        await prepare(scenario({"say": "a" * 2001}), tmp_path)
    write(tmp_path / "a.wav", tone(0.5))
    with pytest.raises(ScriptError, match="raise `gain`"):
        await prepare(scenario({"say": {"wav": "a.wav", "gain": "-80dBov"}}), tmp_path)
    monkeypatch.setattr(script_module, "MAX_WAV", 1000)
    with pytest.raises(ScriptError, match="1000 are allowed"):
        await prepare(scenario({"say": {"wav": "a.wav"}}), tmp_path)


async def test_without_a_synthesiser_only_files_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "a.wav", tone(0.5))
    assert (await prepare(scenario({"say": {"wav": "a.wav"}}), tmp_path)).sounds
    with pytest.raises(VoiceUnavailable, match="apt install flite"):
        await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")


async def test_a_script_is_carried_to_another_process(spoken: list[str], tmp_path: Path) -> None:
    made = await prepare(scenario({"say": "Hello."}), tmp_path, cache=tmp_path / "cache")
    copy: Script = pickle.loads(pickle.dumps(made))  # our own bytes
    assert np.array_equal(copy.sounds["say Hello. @-22"], made.sounds["say Hello. @-22"])


def test_a_key_tells_what_and_how_loud() -> None:
    settings = CallerSettings()
    assert sound_key(Speech(text="Yes."), settings) == "say Yes. @-22"
    assert sound_key(Speech(sound="cough", gain=-30.0), settings) == "sound cough @-30"


@needs_flite
async def test_a_real_sentence_begins_and_ends_with_sound(tmp_path: Path) -> None:
    plan = scenario({"say": "What are your opening hours?"}, {"backchannel": "mm-hm"}, voice={"engine": "flite"})
    made = await prepare(plan, tmp_path, cache=tmp_path)
    sentence, hum = made.sounds["say What are your opening hours? @-22"], made.sounds["say mm-hm @-22"]
    assert 1.0 < len(sentence) / RATE < 3.0
    assert abs(int(sentence[0])) > AUDIBLE
    assert abs(int(sentence[-1])) > AUDIBLE
    assert level(sentence) == pytest.approx(-22, abs=0.5)
    assert 0.2 < len(hum) / RATE < 0.6
