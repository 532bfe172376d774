"""The caller's voice: levelled, trimmed, cached; and what it says when there is none."""

from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from offhook.qa.activity import RATE, speech_spans
from offhook.qa.voice import ENGINES, PEAK, Voice, VoiceUnavailable, read_voice


def write(path: Path, samples: np.ndarray, rate: int, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def test_a_wav_file_is_resampled_trimmed_and_levelled(tmp_path: Path) -> None:
    rate = 22050
    tone = np.sin(np.arange(rate) * 2 * np.pi * 440 / rate) * 3000
    sound = np.concatenate([np.zeros(rate // 2), tone, np.zeros(rate // 4)])
    voice = read_voice(write(tmp_path / "tone.wav", sound, rate))
    assert voice.dtype == np.int16
    assert len(voice) / RATE == pytest.approx(1.0, abs=0.02)
    assert np.abs(voice).max() == pytest.approx(PEAK * 32767, rel=0.02)
    assert abs(int(voice[0])) < 500
    [span] = speech_spans(voice)
    assert (span.start, span.end) == pytest.approx((0, 1.0), abs=0.02)


def test_of_several_channels_the_first_counts(tmp_path: Path) -> None:
    left = np.sin(np.arange(8000) * 2 * np.pi * 300 / 8000) * 9000
    both = np.stack([left, np.random.default_rng(0).normal(0, 9000, 8000)], axis=1)
    voice = read_voice(write(tmp_path / "both.wav", both.reshape(-1), 8000, 2)).astype(float)
    spectrum = np.abs(np.fft.rfft(voice))
    assert spectrum[int(300 * len(voice) / RATE)] > 0.2 * spectrum.sum()


def test_a_file_without_sound_or_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoiceUnavailable, match="no sound"):
        read_voice(write(tmp_path / "empty.wav", np.zeros(100), 8000))
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(VoiceUnavailable, match=r"text\.wav"):
        read_voice(tmp_path / "text.wav")
    with pytest.raises(VoiceUnavailable, match="cannot read"):
        read_voice(tmp_path / "missing.wav")


@pytest.mark.parametrize("engine", list(ENGINES))
async def test_a_sentence_is_spoken_and_kept(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    voice = Voice(engine)
    said = await voice.speak("-Hello there; how are you?")
    assert 0.8 < len(said) / RATE < 4
    assert speech_spans(said)[0].start < 0.05
    assert len(said) / RATE - speech_spans(said)[-1].end < 0.1

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("synthesised twice")

    monkeypatch.setattr(subprocess, "run", never)
    assert await voice.speak("-Hello there; how are you?") is said


def test_without_a_synthesiser_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VoiceUnavailable, match="apt install flite"):
        Voice()
    with pytest.raises(VoiceUnavailable, match="there is no engine 'nobody'"):
        Voice("nobody")


async def test_a_synthesiser_that_fails_is_reported_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "flite"
    broken.write_text("#!/bin/sh\necho 'no such voice' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(VoiceUnavailable, match="exit code 3: no such voice"):
        await Voice("flite").speak("hello")
