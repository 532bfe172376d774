"""What is heard where a packet is missing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat
from offhook.codecs.conceal import Concealer
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import dbfs, tone
from offhook.codecs.wav import parse_wav

FORMATS = [PCMU, PCMA, L16_8K, L16_16K, L16_24K]


def linear(audio_format: AudioFormat) -> AudioFormat:
    return AudioFormat("l16", audio_format.rate)


def played(audio_format: AudioFormat, pcm: bytes, lost: set[int]) -> bytes:
    """What a listener gets of the int16 audio when these frames are lost; int16 again."""
    audio = convert_all(pcm, linear(audio_format), audio_format)
    concealer = Concealer(audio_format)
    size = audio_format.frame_bytes
    out = b""
    for number in range(len(audio) // size):
        if number in lost:
            out += concealer.lost(size)
        else:
            out += concealer.good(audio[number * size : (number + 1) * size])
    return convert_all(out, audio_format, linear(audio_format))


def frame(pcm: bytes, number: int, rate: int) -> bytes:
    size = rate // 50 * 2
    return pcm[number * size : (number + 1) * size]


def samples(pcm: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def test_a_stream_without_loss_passes_untouched() -> None:
    concealer = Concealer(PCMU)
    for number in range(20):
        piece = bytes([number]) * 160
        assert concealer.good(piece) is piece


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
@pytest.mark.parametrize("frequency", [80, 125, 200, 333, 1000])
def test_a_lost_frame_of_a_steady_tone_is_hardly_noticed(audio_format: AudioFormat, frequency: int) -> None:
    rate = audio_format.rate
    pcm = tone(frequency, 0.5, rate)
    out = played(audio_format, pcm, {10, 15, 16})
    assert len(out) == len(pcm)
    assert dbfs(frame(out, 10, rate)) == pytest.approx(-15, abs=1)
    assert dbfs(frame(out, 11, rate)) == pytest.approx(-15, abs=1)
    assert dbfs(frame(out, 15, rate)) == pytest.approx(-15, abs=1)
    assert dbfs(frame(out, 16, rate)) == pytest.approx(-16.5, abs=1.5)
    # No click: nowhere a step much steeper than the tone's own.
    assert np.abs(np.diff(samples(out))).max() <= 1.6 * np.abs(np.diff(samples(pcm))).max() + 150


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_the_pitch_is_kept(audio_format: AudioFormat) -> None:
    rate = audio_format.rate
    time = np.arange(rate) / rate
    vowel = np.zeros(rate)
    for harmonic in range(1, 8):
        vowel += np.sin(2 * np.pi * 130 * harmonic * time) * 4000 / harmonic
    out = played(audio_format, np.rint(vowel).astype("<i2").tobytes(), {20, 21, 22})
    piece = samples(out)[20 * rate // 50 : 23 * rate // 50]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), rate))
    assert abs(int(np.argmax(spectrum[80:200])) + 80 - 130) <= 4


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_a_long_loss_fades_to_silence_and_the_stream_comes_back(audio_format: AudioFormat) -> None:
    rate = audio_format.rate
    out = played(audio_format, tone(200, 1.0, rate), set(range(10, 30)))
    levels = [dbfs(frame(out, number, rate)) for number in range(50)]
    assert levels[10] > levels[11] > levels[12] > levels[13] > -33
    assert max(levels[14:30]) < -60
    assert levels[30] == pytest.approx(-16.5, abs=1.5)
    assert levels[31] == pytest.approx(-15, abs=0.3)
    assert np.abs(np.diff(samples(out))).max() <= 1.6 * np.abs(np.diff(samples(tone(200, 1.0, rate)))).max() + 150


def test_speech_with_5_percent_lost_is_far_nearer_than_with_holes() -> None:
    _, rate, _, speech = parse_wav(Path(__file__).with_name("speech.wav").read_bytes())
    assert rate == 8000
    count = len(speech) // 320
    rng = random.Random(3)
    lost = {number for number in range(5, count) if rng.random() < 0.1}
    out = played(L16_8K, speech, lost)
    loud = [number for number in lost if dbfs(frame(speech, number, rate)) > -45]
    assert len(loud) >= 2

    def distance(number: int, heard: bytes) -> float:
        """Mean difference of the spectra in dB."""
        window = np.hanning(160)
        one, other = (20 * np.log10(1 + np.abs(np.fft.rfft(samples(p) * window))) for p in (heard, speech_of(number)))
        return float(np.abs(one - other).mean())

    def speech_of(number: int) -> bytes:
        return frame(speech, number, rate)

    assert np.mean([distance(number, frame(out, number, rate)) for number in loud]) < 12
    assert np.mean([distance(number, bytes(320)) for number in loud]) > 50


def test_noise_stays_noise() -> None:
    noise = np.rint(np.random.default_rng(1).normal(scale=1000, size=8000)).astype("<i2").tobytes()
    out = samples(frame(played(L16_8K, noise, {20}), 20, 8000))
    assert dbfs(out.astype("<i2").tobytes()) == pytest.approx(dbfs(noise), abs=2)
    spectrum = np.abs(np.fft.rfft(out * np.hanning(160))) ** 2
    assert spectrum.max() / spectrum.mean() < 10


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_a_loss_at_the_very_beginning_is_silence(audio_format: AudioFormat) -> None:
    concealer = Concealer(audio_format)
    assert dbfs(convert_all(concealer.lost(audio_format.frame_bytes), audio_format, linear(audio_format))) < -70
    assert len(concealer.good(audio_format.silence)) == audio_format.frame_bytes


def test_pieces_of_any_length_are_taken() -> None:
    concealer = Concealer(PCMU)
    lengths = [1, 7, 80, 0, 480, 160]
    for length in lengths:
        assert len(concealer.good(b"\x90" * length)) == length
        assert len(concealer.lost(length)) == length
        assert len(concealer.lost(3 * length)) == 3 * length


def test_cutting_a_loss_in_pieces_changes_nothing() -> None:
    pcm = tone(150, 0.2, 8000)
    whole, pieces = Concealer(L16_8K), Concealer(L16_8K)
    whole.good(pcm)
    pieces.good(pcm)
    assert whole.lost(1280) == b"".join(pieces.lost(size) for size in (20, 300, 320, 640))
    assert whole.good(pcm) == pieces.good(pcm)


def test_the_loudest_audio_does_not_wrap() -> None:
    square = (np.sign(np.sin(np.arange(4000) * 2 * np.pi / 53)) * 32767).astype("<i2").tobytes()
    out = samples(played(L16_8K, square, {6, 9}))
    assert np.abs(out).max() <= 32768
    assert dbfs(frame(out.astype("<i2").tobytes(), 6, 8000)) > -1.5
