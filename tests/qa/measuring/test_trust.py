"""A caller that did what it should is believed, and one that did not is not."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.known_calls import Made, Said, laid, spoken

from offhook.qa.activity import RATE, Samples
from offhook.qa.measuring.trust import doubts


def doubted(track: Samples | None = None, **log: object) -> list[str]:
    made = Made(said=[Said(2.0, spoken()["ask"]), Said(6.0, spoken()["stop"])], log=dict(log))
    if track is not None:
        made.log["caller"] = track
    return doubts(made.caller_log, made.record, made.sounds)


def script(shift: float = 0.0) -> Samples:
    return laid(14.0, (2.0, spoken()["ask"]), (6.0 + shift, spoken()["stop"]))


def test_a_caller_that_said_its_lines_on_time_is_believed() -> None:
    assert doubted() == []


@pytest.mark.parametrize("snr", [10.0, 20.0])
def test_noise_behind_it_is_no_reason(snr: float) -> None:
    noise = np.random.default_rng(3).normal(0, 32768 * 10 ** ((-20 - snr) / 20), 14 * RATE)
    assert doubted(np.rint(script() + noise).astype(np.int16)) == []


def test_late_frames_are_a_reason() -> None:
    assert doubted(lateness=[0.0] * 697 + [0.1] * 3) == []
    [reason] = doubted(lateness=[0.0] * 650 + [0.06] * 50)
    assert "60 ms late" in reason


def test_missing_frames_are_a_reason() -> None:
    assert doubted(lost_frames=2) == []
    [reason] = doubted(lost_frames=20)
    assert reason == "20 of the caller's 700 frames never left"
    [reason] = doubted(due=900)
    assert reason.startswith("200 of")


def test_a_call_too_short_to_time_anything_is_not_doubted_for_its_frames() -> None:
    assert doubted(due=40, left_at=[0.0], lateness=[0.2]) == []
    assert len(doubted(due=400, left_at=[0.0], lateness=[0.2])) == 2


def test_a_line_that_left_with_holes_is_a_reason() -> None:
    track = script().copy()
    track[round(2.7 * RATE) : round(3.2 * RATE)] = 0
    [reason] = doubted(track)
    assert reason.startswith("what the caller said in step 1 did not leave as scripted:")


def test_a_line_at_another_level_or_place_or_not_at_all_is_a_reason() -> None:
    assert len(doubted(script() // 2)) == 2
    assert "lies +60 ms" in doubted(script(shift=0.06))[0]
    assert len(doubted(laid(14.0, (2.0, spoken()["ask"])))) == 1


def test_only_what_was_spoken_before_the_end_is_compared() -> None:
    made = Made(seconds=3.0, said=[Said(2.0, spoken()["ask"])])
    made.log["due"] = 150
    assert doubts(made.caller_log, made.record, made.sounds) == []
