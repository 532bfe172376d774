"""The spectrogram against its definition, and against the extractor the model was shipped with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.agents.turns.features import FRAMES, MELS, RATE, SAMPLES, log_mel


def noise(count: int) -> NDArray[np.float32]:
    """Something like speech: noise that swells and fades."""
    random = np.random.default_rng(1)
    swell = np.abs(np.sin(np.arange(count) / 3000))
    return (0.1 * swell * random.standard_normal(count)).astype(np.float32)


def reference() -> ModuleType:
    """The extractor in the wheel of pipecat-ai, as a file: the package itself would load a framework."""
    spec = importlib.util.find_spec("pipecat")
    if spec is None or spec.origin is None:
        pytest.skip("pipecat-ai is not installed")
    path = Path(spec.origin).parent / "audio/turn/smart_turn/_whisper_features.py"
    if not path.is_file():
        pytest.skip("this pipecat-ai has its extractor elsewhere")
    found = importlib.util.spec_from_file_location("whisper_features", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("count", [0, 1, 30_000, SAMPLES, SAMPLES + 72_000])
def test_the_features_are_those_the_model_was_trained_on(count: int) -> None:
    samples = noise(count)
    padded = np.pad(samples[-SAMPLES:], (max(0, SAMPLES - count), 0))
    expected = reference().compute_whisper_log_mel_features(padded)
    given = log_mel(samples)
    assert given.shape == expected.shape == (MELS, FRAMES)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_a_frame_is_what_its_definition_says() -> None:
    """One frame with sums in place of the transform and the matrix."""
    samples = noise(SAMPLES)
    frame = 500
    audio = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    n = np.arange(400)
    cut = audio[frame * 160 - 200 : frame * 160 + 200] * np.sin(np.pi * n / 400) ** 2
    power = np.array([abs(np.sum(cut * np.exp(-2j * np.pi * k * n / 400))) ** 2 for k in range(201)])

    def hertz(mel: float) -> float:
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    corners = [hertz(top * i / (MELS + 1)) for i in range(MELS + 2)]
    bins = 40 * np.arange(201)
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        weights = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
        bands.append(np.dot(weights, power) * 2 / (high - low))
    np.testing.assert_allclose(log_mel(samples)[:, frame], (np.log10(bands) + 4) / 4, atol=1e-4)


def test_a_tone_is_in_its_band_and_silence_in_front_is_not() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    features = log_mel(tone)
    assert int(features[:, 700].argmax()) in (25, 26)
    assert features[:, :590].max() < features[:, 610:].max() - 0.5
