"""The demo's verdict: passed when record and ear agree, failed by name when anything is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offhook.gateway.demo_judge import Check, Goal, ScriptLine, agent_utterances, judge, turn_rows
from offhook.gateway.journal import Entry
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.measure import Conversation, measure, spread
from offhook.qa.result import CallResult

STARTED = 5000.0
SCRIPT = (ScriptLine("first", ("one",), interrupts=True), ScriptLine("second", ("two",)))
GOAL = Goal("appointment", {"day": "Tuesday"})


def noise(seconds: float, seed: int) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


SPOKEN = {
    "first": noise(1.0, 1),
    "second": noise(1.2, 2),
    "hello": noise(3.0, 3),
    "what": noise(1.5, 4),
    "bye": noise(1, 5),
}
GOOD = {"hello": 1.6, "what": 1.5, "bye": 1.0}
"""Agent utterance → how many seconds of it are heard."""
AGENT_AT = {"hello": 0.4, "what": 3.5, "bye": 7.0}
CALLER_AT = {"first": 1.9, "second": 5.3}


def tracks(heard: dict[str, float]) -> tuple[Samples, Samples]:
    caller, agent = np.zeros(round(8.2 * RATE), np.int16), np.zeros(round(8.2 * RATE), np.int16)
    for text, at in CALLER_AT.items():
        caller[round(at * RATE) :][: len(SPOKEN[text])] = SPOKEN[text]
    for text, at in AGENT_AT.items():
        piece = SPOKEN[text][: round(heard[text] * RATE)]
        agent[round(at * RATE) :][: len(piece)] = piece
    return caller, agent


def call(heard: dict[str, float] = GOOD, clears: Sequence[float] = (2.0,), **changes: Any) -> CallResult:
    caller, agent = tracks(heard)
    result = CallResult(
        carrier="twilio",
        call_id="CA1",
        from_number="+15550111",
        to_number="+15550100",
        status="completed",
        ended_by="bot",
        ended_how="API: Status=completed",
        seconds=8.2,
        webhook_ms=20.0,
        measures=measure(Conversation(caller, agent, clears=clears)),
        own_late_ms=spread([0.5]),
        lost_frames=0,
        errors=(),
        transfers=(),
        carrier_said=(),
        callbacks=(),
        caller=caller,
        agent=agent,
        arrivals=(),
        said=tuple(Span(at, at + len(SPOKEN[text]) / RATE) for text, at in CALLER_AT.items()),
    )
    return replace(result, **changes)


def journal(
    *, caller: Sequence[str] = ("one", "two"), reason: str = "agent_hangup", day: str = "Tuesday", **cut: Any
) -> list[Entry]:
    ends = {
        "hello": {"outcome": "cut", "heard_ms": 1600, "length_ms": 3000} | cut,
        "what": {"outcome": "played", "heard_ms": 1500, "length_ms": 1500},
        "bye": {"outcome": "played", "heard_ms": 1000, "length_ms": 1000},
    }
    events: list[tuple[str, dict[str, Any]]] = [("call.offered", {})]
    events += [("utterance", {"id": n, "text": text, **end}) for n, (text, end) in enumerate(ends.items())]
    events += [("transcript", {"role": "caller", "text": text, "utterance": 0}) for text in caller]
    stages = {"endpointing": 400.0, "synthesis": 100.0}
    marks = {"first_sent": STARTED + 3.35, "first_voiced": STARTED + 3.4, "first_heard": STARTED + 3.49}
    events.append(("turn", {**marks, "voice_to_voice_ms": 500.0, "stages": stages, "hearing_ms": 90.0}))
    events.append(("agent.note", {"name": "appointment", "data": {"day": day}}))
    events.append(("call.ended", {"reason": reason}))
    return [Entry("c1", n, event, 0.0, _mono(data), data) for n, (event, data) in enumerate(events)]


def _mono(data: dict[str, Any]) -> float:
    """An utterance is reported when it is over."""
    return STARTED + AGENT_AT[data["text"]] + data["heard_ms"] / 1000 if "outcome" in data else STARTED


def verdict(
    result: CallResult | None = None,
    entries: list[Entry] | None = None,
    recording: tuple[Samples, Samples] | None = tracks(GOOD),
    exit_code: int | None = 0,
) -> dict[str, Check]:
    result, entries = result or call(), entries or journal()
    utterances = agent_utterances(entries, SPOKEN, result.agent, STARTED)
    checks = judge(result, SCRIPT, GOAL, entries, utterances, recording, SPOKEN, exit_code)
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.ok}


def test_a_call_that_went_well_passes() -> None:
    checks = verdict()
    assert failed(checks) == set()
    assert set(checks) == {"greeting", "heard", "interruption", "understood", "goal", "goodbye", "recording", "gateway"}
    assert "2 sentences" in checks["heard"].detail


def test_replies_on_the_wire_find_their_turns_in_the_record() -> None:
    first, second = turn_rows(call(), SCRIPT, journal(), STARTED)
    assert (first.said, first.record_ms) == ("first", 590.0)
    assert first.wire_ms == pytest.approx(600, abs=20)
    assert first.stages == {"endpointing": 400.0, "synthesis": 100.0, "hearing": 90.0}
    assert (second.said, second.record_ms, second.stages) == ("second", None, {})
    assert second.wire_ms == pytest.approx(500, abs=20)


def test_a_sentence_that_was_not_heard_whole_fails() -> None:
    checks = verdict(call(GOOD | {"what": 0.9}))
    assert failed(checks) == {"heard"}
    assert "“what” was played by the record, but heard for 0.9 of 1.5 s" in checks["heard"].detail


def test_a_sentence_that_was_not_heard_at_all_fails() -> None:
    assert "“what” was not heard" in verdict(call(GOOD | {"what": 0.0}))["heard"].detail


def test_a_cut_elsewhere_than_the_record_says_fails() -> None:
    checks = verdict(entries=journal(heard_ms=900))
    assert failed(checks) == {"heard"}
    assert "cut at 900 ms by the record" in checks["heard"].detail


def test_what_the_record_says_was_dropped_must_not_be_heard() -> None:
    assert failed(verdict(entries=journal(outcome="dropped", heard_ms=0))) == {"heard"}


def test_a_goodbye_that_is_cut_off_fails() -> None:
    assert {"heard", "goodbye"} <= failed(verdict(call(GOOD | {"bye": 0.6})))


@pytest.mark.parametrize(
    "changes", [{"ended_by": "caller"}, {"ended_by": "carrier"}, {"said": (Span(1.9, 2.9),)}], ids=str
)
def test_a_call_that_the_agent_did_not_end_fails(changes: dict[str, Any]) -> None:
    assert "goodbye" in failed(verdict(call(**changes)))


def test_a_call_that_ended_for_another_reason_fails() -> None:
    assert failed(verdict(entries=journal(reason="agent_crashed"))) == {"goodbye"}


def test_an_interruption_that_found_nobody_speaking_or_was_ignored_fails() -> None:
    assert failed(verdict(call(clears=()))) == {"interruption"}
    quiet = call(GOOD | {"hello": 0.6}, clears=())
    assert "did not find the agent speaking" in verdict(quiet, journal(heard_ms=600))["interruption"].detail
    stubborn = verdict(call(GOOD | {"hello": 3.0}), journal(outcome="played", heard_ms=3000))
    assert "interruption" in failed(stubborn)


@pytest.mark.parametrize("caller", [(), ("one",), ("two", "one"), ("one", "too")], ids=str)
def test_a_line_that_was_not_understood_in_its_turn_fails(caller: tuple[str, ...]) -> None:
    assert failed(verdict(entries=journal(caller=caller))) == {"understood"}


def test_another_goal_than_the_callers_fails() -> None:
    checks = verdict(entries=journal(day="Monday"))
    assert failed(checks) == {"goal"}
    assert "Monday" in checks["goal"].detail


def test_a_missing_or_incomplete_recording_fails() -> None:
    assert failed(verdict(recording=None)) == {"recording"}
    left, right = tracks(GOOD | {"bye": 0.5})
    checks = verdict(recording=(left, right))
    assert failed(checks) == {"recording"}
    assert "“bye”" in checks["recording"].detail
    assert failed(verdict(recording=(right, left))) == {"recording"}


@pytest.mark.parametrize("code", [1, -9, None])
def test_a_gateway_that_does_not_end_well_fails(code: int | None) -> None:
    assert failed(verdict(exit_code=code)) == {"gateway"}


def test_a_silent_call_fails_without_raising() -> None:
    silence = np.zeros(RATE, np.int16)
    empty = call(agent=silence, caller=silence, measures=measure(Conversation(silence, silence)), said=())
    assert {"greeting", "heard", "goodbye"} <= failed(verdict(empty))
    assert agent_utterances([], SPOKEN, silence, STARTED) == []
