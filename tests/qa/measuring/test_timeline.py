"""Where speech begins and ends, to the sample; and who has the turn."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.known_calls import Made, Said, carried, laid, made_up, spoken

from offhook.qa.activity import RATE, Span
from offhook.qa.caller.record import CallerRecord, StepRecord
from offhook.qa.measuring.timeline import (
    Turn,
    agent_turns,
    departure,
    holds,
    overlap,
    peaks,
    silences,
    union,
    voiced_spans,
)
from offhook.qa.phones.base import LineEvent

VOICE = made_up(1.0)


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize("noise", [None, -65.0])
@pytest.mark.parametrize("name", ["six", "please", "bye", "question", "stop"])
def test_weak_consonants_at_either_end_are_speech(name: str, noise: float | None, law: str) -> None:
    sound = spoken()[name]
    track = carried(laid(5.0, (1.2345, sound)), law, noise)
    spans = voiced_spans(track, min_silence=0.6)
    assert len(spans) == 1
    assert spans[0].start == pytest.approx(1.2345, abs=0.010)
    assert spans[0].end == pytest.approx(1.2345 + len(sound) / RATE, abs=0.010)


def test_a_click_some_way_before_speech_does_not_begin_it() -> None:
    click = np.full(40, 8000, np.int16)
    assert voiced_spans(laid(3.0, (0.5, click))) == []
    [span] = voiced_spans(laid(3.0, (0.8, click), (1.0, VOICE)))
    assert span.start == pytest.approx(1.0, abs=0.001)


def test_dc_is_not_heard() -> None:
    track = laid(3.0, (1.0, VOICE)) + np.int16(600)
    [span] = voiced_spans(track)
    assert (span.start, span.end) == (pytest.approx(1.0, abs=0.002), pytest.approx(2.0, abs=0.002))


def test_a_hiss_is_no_speech_and_hides_none() -> None:
    assert voiced_spans(carried(laid(4.0), "PCMU", -42.0)) == []
    [span] = voiced_spans(carried(laid(4.0, (1.0, VOICE)), "PCMU", -42.0))
    assert (span.start, span.end) == (pytest.approx(1.0, abs=0.012), pytest.approx(2.0, abs=0.012))


def test_keys_are_no_speech() -> None:
    track = laid(4.0, (1.0, VOICE), (3.0, VOICE[:800]))
    assert len(voiced_spans(track)) == 2
    assert len(voiced_spans(track, ignore=[Span(3.0, 3.1)])) == 1


def test_an_empty_track_is_silent() -> None:
    assert voiced_spans(np.zeros(0, np.int16)) == []
    assert voiced_spans(np.zeros(50, np.int16)) == []
    assert peaks(np.zeros(50, np.int16)) == []
    assert peaks(np.full(320, -32768, np.int16)) == [1.0, 1.0]


def test_a_sample_leaves_with_its_frame_late_or_not() -> None:
    log = Made(log={"left_at": [0.02, 0.05, 0.06]}).caller_log
    assert departure(log, 0.01) == pytest.approx(0.01)
    assert departure(log, 0.03) == pytest.approx(0.04)
    assert departure(log, 0.05) == pytest.approx(0.05)
    assert departure(log, 5.0) == pytest.approx(5.0)


def test_pauses_do_not_end_the_agents_turn_but_the_callers_turns_do() -> None:
    made = Made(said=[Said(2.1, made_up(0.3))], agent=[]).measured()
    spans = [Span(0.0, 1.0), Span(1.5, 2.0), Span(2.5, 3.0), Span(4.0, 5.0)]
    assert agent_turns(spans, [], 0.7) == [Span(0.0, 3.0), Span(4.0, 5.0)]
    assert agent_turns(spans, made.said, 0.7) == [Span(0.0, 2.0), Span(2.5, 3.0), Span(4.0, 5.0)]


def test_spans_are_added_up() -> None:
    one, other = [Span(0, 2), Span(3, 4)], [Span(1, 1.5), Span(1.75, 3.5), Span(6, 7)]
    assert overlap(one, other) == pytest.approx(0.5 + 0.25 + 0.5)
    assert overlap(other, one) == pytest.approx(1.25)
    assert union([*one, *other]) == [Span(0, 4), Span(6, 7)]
    assert list(silences(one, 0.0, 5.0)) == [Span(2, 3), Span(4, 5.0)]
    assert list(silences([], 1.0, 2.0)) == [Span(1.0, 2.0)]


def test_a_hold_of_either_side_is_one() -> None:
    log = Made(log={"events": [LineEvent(2.0, "held"), LineEvent(5.0, "resumed"), LineEvent(13.0, "held")]}).caller_log
    record = CallerRecord([StepRecord(0, "hold", began=4.0, ended=6.0)])
    assert holds(log, record) == [Span(2.0, 6.0), Span(13.0, 14.0)]


def test_a_turn_leaves_out_what_it_does_not_know() -> None:
    assert Turn("agent", 1.23456, 2.0).as_dict() == {"who": "agent", "start": 1.2346, "end": 2.0}
    plain = Turn("agent", 1.0, 2.0, name="a", step=0, v2v_ms=700.04, cut=True).as_dict()
    assert plain == {"who": "agent", "start": 1.0, "end": 2.0, "name": "a", "step": 0, "v2v_ms": 700.0, "cut": True}
