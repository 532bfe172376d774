"""Sounds: made here or out of files, looped without a seam, at one level, small enough for the link."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from offhook.agents import link
from offhook.agents import sound as subject
from offhook.agents.api import SettingsError
from offhook.agents.sound import BUILT_IN, load, prompt
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import dbfs, tone


def wav(path: Path, pcm: bytes, rate: int, channels: int = 1, tag: int = 1) -> Path:
    width = 2 if tag == 1 else 1
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * width, channels * width, 8 * width)
    path.write_bytes(
        b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", len(pcm)) + pcm
    )  # fmt: skip
    return path


def samples(loop: bytes, format: AudioFormat) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(convert_all(loop, format, AudioFormat("l16", format.rate)), "<i2").astype(int)


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_16K], ids=str)
@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_made_here_is_quiet_and_goes_round(name: str, format: AudioFormat) -> None:
    loop = load(name, format)
    found = samples(loop, format)
    assert 4 < format.duration(len(loop)) <= subject.MAX_SECONDS
    assert len(loop) <= subject.MAX_BYTES
    assert -50 < dbfs(found.astype("<i2").tobytes()) < -20
    assert np.abs(found).max() < 0.6 * 32768
    steps = np.abs(np.diff(found))
    assert abs(found[0] - found[-1]) <= steps.max(), "the seam is no click"


def test_a_sound_is_made_once() -> None:
    assert load("hold", PCMU) is load("hold", PCMU)


@pytest.mark.parametrize(("name", "on", "period"), [("ringback", 1.0, 5.0), ("ringback-us", 2.0, 6.0)])
def test_ringback_has_its_cadence(name: str, on: float, period: float) -> None:
    found = samples(load(name, L16_8K), L16_8K)
    assert len(found) == period * 8000
    assert np.abs(found[: int(on * 8000)]).reshape(-1, 400).max(axis=1).min() > 1000
    assert not found[int(on * 8000) :].any()


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_any_rate_becomes_a_loop_at_one_level(tmp_path: Path, rate: int, channels: int) -> None:
    one = np.frombuffer(tone(500, 2.0, rate, -40), "<i2")
    path = wav(tmp_path / "a.wav", np.repeat(one, channels).astype("<i2").tobytes(), rate, channels)
    found = samples(load(str(path), L16_8K), L16_8K)
    assert len(found) == pytest.approx((2.0 - subject.SEAM) * 8000, abs=2)
    assert dbfs(found.astype("<i2").tobytes()) == pytest.approx(subject.LEVEL, abs=0.3)
    assert abs(found[0] - found[-1]) <= np.abs(np.diff(found)).max()
    spectrum = np.abs(np.fft.rfft(found))
    assert np.argmax(spectrum) * 8000 / len(found) == pytest.approx(500, abs=2)


def test_a_g711_file_is_read_and_a_short_one_too(tmp_path: Path) -> None:
    ulaw = convert_all(tone(500, 0.03, 8000), L16_8K, PCMU)
    loop = load(str(wav(tmp_path / "u.wav", ulaw, 8000, tag=7)), PCMU)
    assert 100 < len(loop) < 240


def test_the_ends_of_a_file_fade_into_each_other(tmp_path: Path) -> None:
    ramp = np.linspace(-9000, 9000, 16_000).astype("<i2").tobytes()
    found = samples(load(str(wav(tmp_path / "r.wav", ramp, 8000)), L16_8K), L16_8K)
    assert abs(found[0] - found[-1]) < 200
    assert np.abs(np.diff(found)).max() < 200


def test_a_loud_peak_does_not_clip(tmp_path: Path) -> None:
    quiet = bytearray(bytes(32_000))
    quiet[16_000:16_002] = struct.pack("<h", 32_000)
    found = samples(load(str(wav(tmp_path / "p.wav", bytes(quiet), 8000)), L16_8K), L16_8K)
    assert 0.55 < np.abs(found).max() / 32768 < 0.65


def test_silence_stays_silence(tmp_path: Path) -> None:
    assert not samples(load(str(wav(tmp_path / "s.wav", bytes(32_000), 8000)), L16_8K), L16_8K).any()


@pytest.mark.parametrize("format", [PCMU, L16_8K, L16_16K, AudioFormat("l16", 48000)], ids=str)
def test_a_long_file_is_cut_to_what_the_link_carries(tmp_path: Path, format: AudioFormat) -> None:
    path = wav(tmp_path / "long.wav", tone(300, 60, 8000), 8000)
    loop = load(str(path), format)
    assert format.duration(len(loop)) == pytest.approx(
        min(subject.MAX_SECONDS, format.duration(subject.MAX_BYTES)), abs=0.2
    )
    assert len(link.encode(link.Bed("0" * 16, loop, 0.123456789))) <= link.MAX_BODY


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = wav(tmp_path / "c.wav", tone(300, 1, 8000), 8000)
    first = load(str(path), PCMU)
    assert load(str(path), PCMU) is first
    wav(path, tone(600, 1, 8000), 8000)
    os.utime(path, ns=(1, 1))
    assert load(str(path), PCMU) != first


def test_a_prompt_is_no_loop(tmp_path: Path) -> None:
    path = wav(tmp_path / "p.wav", tone(300, 1, 22_050), 22_050)
    assert len(prompt(str(path), L16_8K)) == 16_000
    assert prompt("hold", PCMU) == load("hold", PCMU)


@pytest.mark.parametrize("read", [load, prompt])
def test_what_cannot_be_read_names_the_file_and_the_remedy(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(SettingsError, match=r"'elevator'.*WAV file"):
        read("elevator", PCMU)
    with pytest.raises(SettingsError, match="WAV file"):
        read("a\0b", PCMU)
    text = tmp_path / "x.wav"
    text.write_text("no sound")
    with pytest.raises(SettingsError, match=r"x\.wav is not a WAV file"):
        read(str(text), PCMU)
    with pytest.raises(SettingsError, match="at least"):
        read(str(wav(tmp_path / "e.wav", b"", 8000)), PCMU)
    with pytest.raises(SettingsError, match=r"8 bits.*sox"):
        read(str(wav(tmp_path / "b.wav", b"\x80" * 800, 8000, tag=3)), PCMU)


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_FILE", 1000)
    with pytest.raises(SettingsError, match="Cut it to 40 s"):
        load(str(wav(tmp_path / "h.wav", bytes(2000), 8000)), PCMU)
