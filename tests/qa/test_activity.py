"""The energy detector against tracks whose speech lies at known places."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.qa.activity import MIN_SILENCE_S, RATE, LiveActivity, Samples, Span, levels, speech_spans, threshold

rng = np.random.default_rng(1)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.int16)


def voice(seconds: float, dbfs: float = -20.0) -> Samples:
    return np.asarray(rng.normal(0, 32768 * 10 ** (dbfs / 20), round(seconds * RATE)), np.int16)


def close(spans: list[Span], *expected: tuple[float, float]) -> bool:
    return len(spans) == len(expected) and all(
        abs(span.start - start) <= 0.011 and abs(span.end - end) <= 0.011
        for span, (start, end) in zip(spans, expected, strict=True)
    )


def test_spans_lie_where_the_speech_lies() -> None:
    track = np.concatenate([silence(0.503), voice(0.7), silence(0.4), voice(0.25), silence(0.3)])
    assert close(speech_spans(track), (0.503, 1.203), (1.603, 1.853))


def test_a_short_pause_does_not_end_a_stretch() -> None:
    track = np.concatenate([voice(0.3), silence(MIN_SILENCE_S - 0.02), voice(0.3)])
    assert close(speech_spans(track), (0.0, 0.78))


def test_a_click_is_not_speech_and_does_not_begin_any() -> None:
    click = voice(0.01, -6.0)
    assert speech_spans(np.concatenate([silence(1.0), click, silence(1.0)])) == []
    track = np.concatenate([silence(1.0), click, silence(0.15), voice(0.5), silence(1.0)])
    assert close(speech_spans(track), (1.16, 1.66))


def test_an_empty_and_a_silent_track_hold_no_speech() -> None:
    assert speech_spans(silence(0)) == []
    assert speech_spans(silence(3)) == []
    assert levels(silence(1)).max() == pytest.approx(-120)


def test_the_threshold_rises_above_steady_noise() -> None:
    noise = voice(4.0, -50.0)
    assert -41.5 < threshold(levels(noise)) < -39.0
    noisy = noise.copy()
    noisy[RATE : 2 * RATE] += voice(1.0, -20.0)
    assert close(speech_spans(noisy), (1.0, 2.0))


def test_speech_without_a_pause_is_not_taken_for_noise() -> None:
    assert close(speech_spans(voice(2.0)), (0.0, 2.0))


@pytest.mark.parametrize("size", [33, 80, 160, 799])
def test_the_live_detector_agrees_with_the_one_over_the_whole_track(size: int) -> None:
    track = np.concatenate([silence(0.5), voice(0.7), silence(0.1), voice(0.2), silence(0.5), voice(0.3)])
    live, began, ended = LiveActivity(), [], []
    for at in range(0, len(track), size):
        before = live.speaking_since
        live.feed(track[at : at + size].tobytes())
        if live.speaking_since is not None and before is None:
            began.append(live.speaking_since)
        elif live.speaking_since is None and before is not None:
            ended.append(live.last_voiced)
    spans = speech_spans(track)
    assert began == pytest.approx([span.start for span in spans], abs=1e-6)
    assert ended == pytest.approx([span.end for span in spans[:1]], abs=1e-6)


def test_the_live_detector_tells_how_long_it_has_been_silent() -> None:
    live = LiveActivity()
    live.feed(silence(0.3).tobytes())
    assert live.silent_for() == pytest.approx(0.3)
    live.feed(voice(0.5).tobytes())
    assert live.silent_for() == 0.0
    assert live.speaking_since == pytest.approx(0.3)
    live.feed(silence(0.15).tobytes())
    assert live.speaking_since is not None
    assert live.silent_for() == pytest.approx(0.15)


def test_the_live_detector_does_not_hear_background_as_speech() -> None:
    live = LiveActivity()
    live.feed(voice(1.0, -55.0).tobytes())
    assert live.speaking_since is None
