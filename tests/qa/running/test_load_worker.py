"""What a process of a load measures by itself: replies, packets' gaps, why a call failed."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from offhook.qa.activity import Span
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.record import CallerRecord, StepRecord
from offhook.qa.phones.base import Arrivals, CallerLine, CallLog
from offhook.qa.running.load_worker import Meter, exact_onset, failure, packet_gaps
from offhook.qa.scenario.model import Scenario


class _Caller:
    def __init__(self, *steps: StepRecord) -> None:
        self.record = CallerRecord(list(steps))
        self.frames = 0

    def frame(self, line: CallerLine) -> None:
        self.frames += 1

    def ended(self) -> None:
        self.frames = -1


def _heard(meter: Meter, *spans: tuple[float, float]) -> None:
    """Let a meter hear an agent that speaks at these times."""
    activity = SimpleNamespace(speaking_since=None, last_voiced=None)
    line = cast(CallerLine, SimpleNamespace(activity=activity, hang_up=lambda: None))
    left = deque(spans)
    for frame in range(500):
        now = frame * 0.02
        if left and left[0][0] <= now:
            activity.speaking_since, activity.last_voiced = left[0][0], min(now, left[0][1])
            if now > left[0][1] + 0.2:
                activity.speaking_since = None
                left.popleft()
        meter.frame(line)


def _said(index: int, start: float, end: float, verb: str = "say") -> StepRecord:
    return StepRecord(index, verb, spoken=Span(start, end))


def _replies(*steps: StepRecord, agent: list[tuple[float, float]]) -> list[float]:
    replies: list[float] = []
    _heard(Meter(cast(Caller, _Caller(*steps)), replies.append), *agent)
    return [round(reply, 3) for reply in replies]


def test_a_reply_counts_from_the_callers_last_sample() -> None:
    assert _replies(_said(0, 1, 2), _said(1, 4, 5), agent=[(0.2, 0.8), (2.6, 3.4), (5.9, 6.5)]) == [600, 900]


def test_only_the_first_stretch_after_a_sentence_is_its_reply() -> None:
    assert _replies(_said(0, 1, 2), agent=[(2.5, 3), (4, 5)]) == [500]


def test_a_back_channel_asks_for_no_reply() -> None:
    assert _replies(_said(0, 1, 2, "backchannel"), agent=[(0.5, 3), (4, 5)]) == []


def test_a_sentence_that_the_agent_spoke_into_has_no_reply_time() -> None:
    assert _replies(_said(0, 1, 2), agent=[(0.5, 2.1), (3, 4)]) == []


def test_an_agent_begins_where_its_first_consonant_does() -> None:
    track = np.zeros(16000, np.int16)
    chance = np.random.default_rng(1)
    track[8000:8800] = chance.normal(0, 90, 800)  # a soft s, then a vowel
    track[8800:14000] = chance.normal(0, 4000, 5200)
    assert exact_onset(track, 1.1) == pytest.approx(1.0, abs=0.005)


def test_where_nothing_more_is_found_the_detector_is_believed() -> None:
    assert exact_onset(np.zeros(16000, np.int16), 1.1) == 1.1


def test_the_caller_sees_every_frame_and_the_end() -> None:
    caller = _Caller()
    meter = Meter(cast(Caller, caller), lambda _: None)
    _heard(meter, (1.0, 2.0))
    assert (caller.frames, meter.onsets) == (500, [1.0])
    meter.ended()
    assert caller.frames == -1


def test_who_is_told_to_hang_up_does_so() -> None:
    hung: list[bool] = []
    meter = Meter(cast(Caller, _Caller()), lambda _: None)
    activity = SimpleNamespace(speaking_since=None, last_voiced=None)
    meter.hang_up = True
    meter.frame(cast(CallerLine, SimpleNamespace(activity=activity, hang_up=lambda: hung.append(True))))
    assert hung == [True]


def test_gaps_are_those_between_packets_sent_one_after_the_other() -> None:
    arrivals = Arrivals()
    for at, timestamp in ((0.0, 0), (0.021, 160), (0.0615, 320), (0.5, 4000), (0.52, 4160), (0.545, 4320)):
        arrivals.at.append(at)
        arrivals.timestamp.append(timestamp)
        arrivals.ssrc.append(1)
    # the pause before 4000 was meant
    assert packet_gaps(arrivals, 9.7, 10.0) == ((0, {21: 1, 40: 1}), (1, {20: 1, 25: 1}))
    assert packet_gaps(Arrivals(), 0.0, 10.0) == ()


SCENARIO = Scenario.model_validate(
    {"name": "x", "steps": [{"say": "Hello?", "expect": {"agent_speaks": True, "within": "2s"}}]}
)


def _log(**more: Any) -> CallLog:
    return CallLog("1", "sip", "sip:a@b", 0.0, **({"status": 200, "answered": True} | more))


@pytest.mark.parametrize(
    ("log", "gave_up", "onsets", "reason"),
    [
        (_log(), "", [2.5], ""),
        (_log(), "", [1.5], ""),  # an answer that begins before the caller's last word
        (_log(), "", [0.5], "the agent did not speak (step 1, say)"),
        (_log(), "the agent was not silent", [2.5], "the agent was not silent"),
        (_log(ended_by="timeout"), "", [2.5], "not over within the scenario's timeout"),
        (_log(ended_by="network", ended_how="reset"), "", [2.5], "connection lost: reset"),
        (_log(answered=False, status=486), "", [], "refused with 486"),
        (_log(answered=False, status=0), "", [], "not answered"),
    ],
)
def test_why_a_call_has_failed(log: CallLog, gave_up: str, onsets: list[float], reason: str) -> None:
    said = StepRecord(0, "say", spoken=Span(1.0, 2.0), ended=7.0, since=2.0)
    assert failure(log, CallerRecord([said], gave_up=gave_up), SCENARIO, onsets) == reason
