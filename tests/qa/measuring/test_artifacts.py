"""Damage that was done to a voice is found, and a voice that is whole has none."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.known_calls import SENTENCES, Made, carried, laid, made_up, spoken

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.measuring import artifacts
from offhook.qa.measuring.timeline import voiced_spans

VOICE = made_up(3.0)


def damaged(start: float, seconds: float) -> Samples:
    voice = VOICE.copy()
    voice[round(start * RATE) : round((start + seconds) * RATE)] = 0
    return voice


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize("seconds", [0.08, 0.12, 0.3])
@pytest.mark.parametrize("start", [0.5, 1.003, 1.717])
def test_a_hole_is_found_where_it_was_torn(start: float, seconds: float, law: str) -> None:
    made = Made(agent=[(1.0, damaged(start, seconds))], law=law).measured()
    if seconds < artifacts.LONG_HOLE_S:
        assert made["holes"] == 1
    for hole in made.holes:
        assert hole.start == pytest.approx(1.0 + start, abs=0.010)
        assert hole.seconds == pytest.approx(seconds, abs=0.012)
    assert made["hole_max_ms"] == pytest.approx(1000 * seconds if made.holes else 0, abs=12)


def test_a_long_hole_needs_two_torn_edges() -> None:
    found = [Made(agent=[(1.0, damaged(0.5 + n / 300, 0.3))]).measured()["holes"] for n in range(10)]
    assert sum(isinstance(holes, int) and holes for holes in found) >= 5


def test_a_hole_shorter_than_three_packets_does_not_count() -> None:
    assert Made(agent=[(1.0, damaged(1.0, 0.04))]).measured()["holes"] == 0


def test_missing_packets_are_holes_and_our_own_stalls_are_not() -> None:
    pieces = [(1.0, made_up(1.0)), (2.1, made_up(1.0)), (3.2, made_up(1.0)), (6.0, made_up(1.0))]
    dry = [Span(2.0, 2.1), Span(3.1, 3.2), Span(4.2, 6.0)]
    made = Made(agent=pieces, log={"dry": dry, "stalls": [Span(3.12, 3.14)]}).measured()
    assert [hole.start for hole in made.holes] == pytest.approx([2.0], abs=0.01)
    assert [hole.start for hole in made.holes_excused] == pytest.approx([3.1], abs=0.01)


def test_what_a_clear_cut_is_no_hole() -> None:
    assert Made(agent=[(1.0, damaged(1.0, 0.12))], log={"clears": [1.99]}).measured()["holes"] == 0


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize("name", list(SENTENCES))
def test_real_speech_is_whole(name: str, law: str) -> None:
    sound = spoken()[name]
    track = carried(laid(5.0, (1.0, sound)), law)
    spans = voiced_spans(track)
    level = artifacts.level_dbov(track, spans)
    assert level == pytest.approx(-20, abs=0.5)
    assert artifacts.clicks(track, spans) == []
    assert artifacts.holes(Made(agent=[(1.0, sound)], law=law).caller_log, spans) == ([], [])


def test_cut_speech_is_told_from_speech_that_ends() -> None:
    sound = spoken()["greeting"]
    cuts = tried = 0
    for at in range(4000, 24000, 800):
        if np.square(sound[at - 80 : at].astype(np.float64)).mean() < (32768 * 10 ** (-30 / 20)) ** 2:
            continue
        tried += 1
        track = carried(laid(5.0, (1.0, sound[:at])), "PCMU")
        spans = voiced_spans(track)
        level = artifacts.level_dbov(track, spans)
        assert level is not None
        cuts += artifacts.abrupt_end(track, round(spans[-1].end * RATE), level)
    assert tried >= 8
    assert cuts >= 0.8 * tried
    assert not artifacts.abrupt_end(np.zeros(50, np.int16), 20, -20.0)


def test_clicks_are_found_where_they_are() -> None:
    sound = spoken()["please"].copy()
    for at in (4000, 9000):
        sound[at] += 18000 if sound[at] < 0 else -18000
    made = Made(agent=[(1.0, sound)]).measured()
    assert made.clicks == pytest.approx([1.5, 2.125], abs=0.002)


def test_clipping_is_a_share_of_the_speech() -> None:
    tone = 2 * 32767 * np.sin(2 * np.pi * 200 / RATE * np.arange(2 * RATE))
    loud = np.clip(tone, -32768, 32767).astype(np.int16)
    for law in ("PCMU", "PCMA", "L16"):
        made = Made(agent=[(1.0, loud)], law=law).measured()
        assert made["clipping_pct"] == pytest.approx(100 * 2 / 3, abs=5)  # a sine is above half its peak for so long
    assert Made(agent=[(1.0, VOICE)]).measured()["clipping_pct"] == 0


def test_dc_and_level_are_those_of_the_speech() -> None:
    made = Made(agent=[(1.0, VOICE + np.int16(983))]).measured()
    assert made["dc_pct"] == pytest.approx(3.0 + float(VOICE.mean()) / 327.68, abs=0.3)
    assert made["agent_level_dbov"] == pytest.approx(-20, abs=0.5)


@pytest.mark.parametrize("dbov", [-9.0, -20.0, -35.0])
def test_a_tone_has_its_level(dbov: float) -> None:
    tone = 32768 * 2**0.5 * 10 ** (dbov / 20) * np.sin(2 * np.pi * 1000 / RATE * np.arange(2 * RATE))
    made = Made(agent=[(1.0, np.rint(tone).astype(np.int16))]).measured()
    assert made["agent_level_dbov"] == pytest.approx(dbov, abs=0.3)
