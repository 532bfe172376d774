"""Finding a known utterance in what was heard: whole, cut, with holes, through G.711, and not at all."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K, L16_16K
from offhook.codecs.convert import Converter
from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.activity import RATE, Samples
from offhook.qa.match import find


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.int16)


def utterance(seconds: float, seed: int) -> Samples:
    """Syllables: a pulse train of wandering pitch through a resonance, with pauses; as periodic as a voice."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    knots = np.arange(0, seconds + 0.2, 0.2)
    pitch = 120 + 25 * np.interp(times, knots, rng.normal(0, 1, len(knots)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = rng.uniform(3, 20, 6)
    tone = sum(np.sin(k * phase) * np.exp(-((k - formants[int(k) % 6]) ** 2) / 30) for k in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2.5, 4) * times) + 0.6, 0, 1)
    return np.asarray(tone / np.abs(tone).max() * syllables * 12000, np.int16)


def phone(pcm: Samples) -> Samples:
    return np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(pcm.tobytes())), np.int16)


SENTENCE, OTHER = utterance(3.2, 1), utterance(3.0, 2)


def test_a_whole_utterance_is_found_where_it_lies() -> None:
    track = np.concatenate([silence(1.234), phone(SENTENCE), silence(0.7), phone(OTHER)])
    match = find(SENTENCE, track)
    assert match is not None
    assert match.at == pytest.approx(1.234, abs=0.001)
    assert match.complete
    assert match.heard == pytest.approx(3.2, abs=0.4)
    assert match.holes == 0
    later = find(OTHER, track)
    assert later is not None
    assert later.at == pytest.approx(1.234 + 3.2 + 0.7, abs=0.001)


@pytest.mark.parametrize("cut", [0.4, 0.9, 1.55, 2.6])
def test_a_cut_is_found_to_a_few_hundredths(cut: float) -> None:
    track = np.concatenate([silence(0.5), phone(SENTENCE)[: round(cut * RATE)], silence(2)])
    match = find(SENTENCE, track)
    assert match is not None
    assert not match.complete
    # A cut inside a pause of the sentence is only known to lie somewhere in that pause.
    assert match.heard == pytest.approx(cut, abs=0.16)


def test_another_utterance_is_not_taken_for_it() -> None:
    track = np.concatenate([silence(0.5), phone(OTHER), silence(0.5)])
    assert find(SENTENCE, track) is None
    assert find(SENTENCE, silence(5)) is None
    assert find(SENTENCE, silence(0.1)) is None
    assert find(silence(1), track) is None


def test_only_what_comes_after_counts() -> None:
    track = np.concatenate([phone(SENTENCE), silence(1), phone(SENTENCE)])
    match = find(SENTENCE, track, after=1.0)
    assert match is not None
    assert match.at == pytest.approx(4.2, abs=0.001)


def test_holes_are_counted_and_skipped() -> None:
    heard = phone(SENTENCE)
    track = np.concatenate([silence(0.2), heard[:8000], silence(0.1), heard[8000:16000], silence(0.04), heard[16000:]])
    match = find(SENTENCE, track)
    assert match is not None
    assert match.complete
    assert match.holes == pytest.approx(0.14, abs=0.005)


@pytest.mark.parametrize("seam", [-6, 3, 8, 60])
def test_a_seam_of_a_millisecond_is_followed(seam: int) -> None:
    heard = phone(SENTENCE)
    rest = heard[12345 - min(seam, 0) :]
    track = np.concatenate([silence(0.2), heard[:12345], silence(max(seam, 0) / RATE), rest, silence(0.2)])
    match = find(SENTENCE, track)
    assert match is not None
    assert match.complete
    assert match.holes == pytest.approx(abs(seam) / RATE, abs=0.0005)


def test_it_survives_an_agent_at_another_rate() -> None:
    up, down = Converter(L16_8K, L16_16K), Converter(L16_16K, L16_8K)
    there_and_back = np.frombuffer(down.convert(up.convert(phone(SENTENCE).tobytes())), np.int16)
    match = find(SENTENCE, np.concatenate([silence(0.5), phone(there_and_back), silence(0.2)]))
    assert match is not None
    assert match.complete
    assert match.score > 0.95
