"""Keys are heard, whatever the line does to them; nothing else is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat
from offhook.codecs.conceal import Concealer
from offhook.codecs.convert import convert_all
from offhook.codecs.dtmf import DIGITS, DtmfDetector, tones
from offhook.codecs.pcm import dbfs, tone
from offhook.codecs.wav import parse_wav
from offhook.qa.sounds import breath, cough, knock, sneeze, telephone, throat

# Written down again from Q.23, so that a slip in the module's table is found.
FREQUENCIES = {
    digit: (low, high)
    for row, low in {"123A": 697, "456B": 770, "789C": 852, "*0#D": 941}.items()
    for digit, high in zip(row, (1209, 1336, 1477, 1633), strict=True)
}

Signal = NDArray[np.float64]


def key(
    digit: str,
    seconds: float,
    *,
    rate: int = 8000,
    level: float = -15,
    twist: float = 0,
    off: tuple[float, float] = (0, 0),
    phase: tuple[float, float] = (0, 0),
) -> Signal:
    """The louder tone at `level` dBFS, the high one `twist` dB above the low one, each `off` its frequency."""
    time = np.arange(round(seconds * rate)) / rate
    levels = (level + min(0, -twist), level + min(0, twist))
    waves = [
        10 ** (decibels / 20) * np.sin(2 * np.pi * hertz * (1 + beside) * time + start)
        for decibels, hertz, beside, start in zip(levels, FREQUENCIES[digit], off, phase, strict=True)
    ]
    return np.asarray(32768 * np.sqrt(2) * sum(waves))


def pcm_of(*pieces: Signal) -> bytes:
    return np.rint(np.concatenate(pieces)).clip(-32768, 32767).astype("<i2").tobytes()


def quiet(seconds: float, rate: int = 8000) -> Signal:
    return np.zeros(round(seconds * rate))


def heard(audio: bytes, audio_format: AudioFormat = L16_8K, size: int = 0) -> str:
    detector = DtmfDetector(audio_format)
    size = size or audio_format.frame_bytes
    return "".join(digit for i in range(0, len(audio), size) for digit in detector.feed(audio[i : i + size]))


def dialled(rng: np.random.Generator, count: int, shortest: float, snr: float | None, rate: int) -> tuple[str, bytes]:
    """Keys of mixed level, twist, frequency and length, with noise that many dB below each."""
    digits, pieces = "", []
    for _ in range(count):
        digit = DIGITS[rng.integers(16)]
        wave = key(
            digit,
            shortest + rng.choice([0, 0.01, 0.06]),
            rate=rate,
            level=rng.uniform(-33, -9),
            twist=rng.uniform(-8, 4),
            off=(rng.uniform(-0.015, 0.015), rng.uniform(-0.015, 0.015)),
            phase=(rng.uniform(0, 7), rng.uniform(0, 7)),
        )
        power = float(np.mean(wave**2))
        piece = np.concatenate([quiet(rng.uniform(0.02, 0.06), rate), wave, quiet(0.021, rate)])
        if snr is not None:
            piece += rng.normal(scale=np.sqrt(power * 10 ** (-snr / 10)), size=len(piece))
        digits += digit
        pieces.append(piece)
    return digits, pcm_of(*pieces, quiet(0.1, rate))


@pytest.mark.parametrize("audio_format", [PCMU, PCMA, L16_8K, L16_16K, L16_24K], ids=str)
def test_what_is_sent_is_heard(audio_format: AudioFormat) -> None:
    gap = convert_all(bytes(800), L16_8K, audio_format)
    audio = gap.join([b"", *(tones(digit, 0.08, audio_format) for digit in DIGITS), b""])
    assert heard(audio, audio_format) == DIGITS


@pytest.mark.parametrize("digit", FREQUENCIES)
def test_a_key_has_its_two_frequencies_and_levels(digit: str) -> None:
    wave = np.frombuffer(tones(digit, 1.0, L16_8K), "<i2") / 32768
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    low, high = FREQUENCIES[digit]
    assert int(np.argmax(spectrum[:1000])) == low
    assert 1000 + int(np.argmax(spectrum[1000:])) == high
    # -9 and -7 dBm0; a full-scale sine is 3.14 dBm0 and -3.01 dBFS.
    assert dbfs(tones(digit, 1.0, L16_8K)) == pytest.approx(-11.1, abs=0.2)
    assert 20 * np.log10(spectrum[high] / spectrum[low]) == pytest.approx(2, abs=0.1)


def test_lower_case_is_sent_too() -> None:
    assert tones("b", 0.1, PCMU) == tones("B", 0.1, PCMU)
    assert len(tones("b", 0.1, PCMU)) == 800


@pytest.mark.parametrize("digit", ["", "E", "12", "é"])
def test_what_is_no_key_is_refused(digit: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        tones(digit, 0.1, PCMU)


@pytest.mark.parametrize(("audio_format", "seed"), [(PCMU, 1), (PCMA, 2), (L16_16K, 3)])
def test_500_short_keys_in_noise_are_all_right(audio_format: AudioFormat, seed: int) -> None:
    rate = audio_format.rate
    digits, pcm = dialled(np.random.default_rng(seed), 500, 0.04, 15, rate)
    assert heard(convert_all(pcm, AudioFormat("l16", rate), audio_format), audio_format) == digits


def test_500_short_keys_on_a_clean_line_are_all_right() -> None:
    digits, pcm = dialled(np.random.default_rng(4), 500, 0.04, None, 8000)
    assert heard(pcm) == digits


@pytest.mark.parametrize("size", [2, 14, 160, 322, 5000, 1 << 20])
def test_however_the_audio_is_cut(size: int) -> None:
    digits, pcm = dialled(np.random.default_rng(5), 8, 0.06, 25, 8000)
    assert heard(pcm, size=size) == digits


def test_a_key_held_for_seconds_is_one() -> None:
    assert heard(pcm_of(quiet(0.1), key("7", 5), quiet(0.1))) == "7"


def test_a_press_interrupted_for_10_ms_is_one_and_for_40_ms_two() -> None:
    press = key("7", 0.1)
    assert heard(pcm_of(press, quiet(0.01), press)) == "7"
    assert heard(pcm_of(press, quiet(0.04), press)) == "77"


def test_a_lost_packet_in_a_long_press_does_not_split_it() -> None:
    audio = tones("4", 0.3, PCMU) + PCMU.silence * 5
    for lost in range(3, 13):
        concealer = Concealer(PCMU)
        pieces = [audio[i : i + 160] for i in range(0, len(audio), 160)]
        line = [concealer.lost(160) if n == lost else concealer.good(piece) for n, piece in enumerate(pieces)]
        assert heard(b"".join(line), PCMU) == "4"


def test_keys_without_a_gap_are_told_apart() -> None:
    assert heard(pcm_of(key("1", 0.06), key("2", 0.06), key("1", 0.06))) == "121"


@pytest.mark.parametrize("seconds", [0.010, 0.020, 0.023])
def test_a_tone_too_short_is_none(seconds: float) -> None:
    assert heard(pcm_of(*(piece for d in DIGITS for piece in (quiet(0.0513), key(d, seconds))), quiet(0.1))) == ""


@pytest.mark.parametrize("off", [(0.03, 0), (-0.03, 0), (0, 0.03), (0, -0.03), (0.035, 0.035), (-0.035, 0.035)])
def test_a_tone_off_its_frequency_is_none(off: tuple[float, float]) -> None:
    assert heard(pcm_of(*(piece for d in DIGITS for piece in (quiet(0.05), key(d, 0.1, off=off))))) == ""


@pytest.mark.parametrize("twist", [-15, 12])
def test_one_tone_far_above_the_other_is_none(twist: float) -> None:
    assert heard(pcm_of(quiet(0.05), key("5", 0.2, twist=twist), quiet(0.05))) == ""


def test_too_quiet_is_none() -> None:
    assert heard(pcm_of(quiet(0.05), key("5", 0.2, level=-46), quiet(0.05))) == ""
    assert heard(pcm_of(quiet(0.05), key("5", 0.2, level=-40), quiet(0.05))) == "5"


@pytest.mark.parametrize("pair", [(350, 440), (440, 480), (480, 620), (697, 770), (1209, 1336), (941, 0), (0, 1477)])
def test_other_tones_are_none(pair: tuple[int, int]) -> None:
    waves = [np.frombuffer(tone(hertz, 1.0, 8000), "<i2").astype(np.float64) for hertz in pair if hertz]
    assert heard(pcm_of(np.sum(waves, axis=0))) == ""


def test_noise_and_what_else_callers_do_is_none() -> None:
    rng = np.random.default_rng(6)
    sounds = [make(rng) for make in (cough, throat, sneeze, breath, knock) for _ in range(6)]
    sounds.append(rng.normal(scale=0.1, size=80_000))
    assert heard(pcm_of(*(32768 * 0.5 * sound / np.abs(sound).max() for sound in sounds))) == ""


SPOKEN = """
Thank you for calling. Please leave your name, your number, and a short message after the tone. We open at nine every
morning, and on Wednesdays we are here until eight. My order has not arrived; it was due on the twenty-second. Oh no, I
really do not know which one you mean. Could you read me the number again, slowly? One eight hundred, five five five,
zero one four two. The total is eleven pounds and ninety pence. She sells seashells, and he owes me an easy apology.
Are we nearly there? You owe your uncle a new yellow bicycle. I would like to move my appointment to the afternoon.
"""


@pytest.mark.parametrize("speaker", ["flite kal", "flite slt", "espeak-ng en-us+Annie", "espeak-ng en-gb-scotland"])
def test_four_minutes_of_speech_hold_no_key(speaker: str, tmp_path: Path) -> None:
    engine, voice = speaker.split()
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    text, wave = tmp_path / "said", tmp_path / "said.wav"
    text.write_text(2 * SPOKEN)
    by, to = ("-voice", "-o") if engine == "flite" else ("-v", "-w")
    subprocess.run([engine, by, voice, "-f", str(text), to, str(wave)], check=True, capture_output=True)
    _, rate, _, samples = parse_wav(wave.read_bytes())
    signal = np.interp(np.arange(0, len(samples) // 2, rate / 8000), *_points(samples))
    assert len(signal) > 50 * 8000  # a minute each
    pcm = pcm_of(np.asarray(telephone(signal)))
    assert heard(convert_all(pcm, L16_8K, PCMU), PCMU) == ""


def _points(samples: bytes) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    values = np.frombuffer(samples, "<i2")
    return np.arange(len(values)), values


def test_a_key_pressed_while_somebody_speaks_softly_is_heard() -> None:
    speech = np.frombuffer(parse_wav(Path(__file__).with_name("speech.wav").read_bytes())[3], "<i2")[:6000]
    wave = np.concatenate([quiet(0.2), key("9", 0.12), quiet(0.3)])
    wave[: len(speech)] += speech[: len(wave)] * (1000 / np.abs(speech).max())
    assert heard(pcm_of(wave)) == "9"


def test_nothing_is_nothing() -> None:
    assert DtmfDetector(PCMU).feed(b"") == []
    assert tones("1", 0, PCMU) == b""
