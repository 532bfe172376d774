"""The scripted caller, frame by frame against an agent of a few lines: every step, every expectation, every ending."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.line import Agent, FakeLine, voice

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.machine import Caller, needs
from offhook.qa.caller.record import StepRecord
from offhook.qa.caller.script import Script, bed_key, sound_key, speech_of
from offhook.qa.phones.base import CallerLine, LineEvent
from offhook.qa.scenario.model import Background, Scenario, Step

HELLO = 0.9
"""Seconds of every sentence."""


def scenario(*steps: dict[str, Any], **caller: Any) -> Scenario:
    return Scenario.model_validate({"name": "test", "caller": caller, "steps": list(steps)})


def script_of(plan: Scenario, *more: Step) -> Script:
    """Noise for every sentence."""
    script = Script(plan.caller, Path())
    for step in (*plan.steps, *more):
        found = speech_of(step)
        if found is not None:
            script.sounds[sound_key(found[1], plan.caller)] = voice(HELLO, len(script.sounds))
        if isinstance(step.noise, Background):
            script.beds[bed_key(step.noise)] = voice(1.0, 99) // 10
    if plan.caller.noise is not None:
        script.beds[bed_key(plan.caller.noise)] = voice(1.0, 98) // 10
    return script


def caller_of(*steps: dict[str, Any], seed: int = 1, keep_open: bool = False, **settings: Any) -> Caller:
    plan = scenario(*steps, **settings)
    return Caller(plan, script_of(plan), seed, keep_open=keep_open)


def run(caller: Caller, agent: Agent | None = None, seconds: float = 120.0, **line: Any) -> FakeLine:
    made = FakeLine(agent, **line)
    made.run(caller, seconds)
    assert caller.over
    return made


def one(caller: Caller, index: int = 0) -> StepRecord:
    return caller.record.steps[index]


# --- saying ------------------------------------------------------------------------------


def test_a_sentence_lies_where_the_record_says_and_then_the_caller_hangs_up() -> None:
    caller = caller_of({"wait": "1s"}, {"say": "Hello."})
    line = run(caller)
    step = one(caller, 1)
    assert step.spoken is not None
    assert (step.spoken.start, step.spoken.seconds) == pytest.approx((1.02, HELLO))
    at = round(step.spoken.start * RATE)
    assert np.array_equal(line.caller[at : at + round(HELLO * RATE)], voice(HELLO))
    assert not line.caller[:at].any()
    assert (step.source, step.failed, step.skipped) == ("say Hello. @-22", "", False)
    assert step.since == step.spoken.end
    assert caller.record.hung_up
    assert not caller.record.gave_up
    assert line.did == [(pytest.approx(1.92), "hang_up")]


def test_sentences_one_after_the_other_have_no_frame_between() -> None:
    caller = caller_of({"say": "One."}, {"say": "Two."})
    line = run(caller)
    first, second = one(caller).spoken, one(caller, 1).spoken
    assert first is not None
    assert second is not None
    assert second.start - first.end < 0.02
    assert line.did == [(pytest.approx(1.84, abs=0.021), "hang_up")]


def test_the_call_that_ends_in_a_sentence_cuts_it_in_the_record() -> None:
    caller = caller_of({"say": "Hello."}, {"say": "More."}, {"expect": {"hangup": "by_agent"}})
    run(caller, Agent(hangs_up_at=0.5))
    assert one(caller).spoken == Span(0.02, 0.5)
    assert "ended before this was said" in one(caller).failed
    assert [step.skipped for step in caller.record.steps] == [False, True, True]
    assert caller.record.gave_up == one(caller).failed
    assert not caller.record.hung_up


# --- waiting -----------------------------------------------------------------------------


def test_a_caller_waits_for_the_greeting_and_its_end() -> None:
    caller = caller_of({"wait": "answer"}, {"wait": "agent_speaks"}, {"wait": "agent_done"}, {"say": "Hello."})
    run(caller, Agent(talks=[(0.5, 1.5), (1.8, 2.4)]))
    assert one(caller, 0).ended == pytest.approx(0.02)
    assert one(caller, 1).ended == pytest.approx(0.54, abs=0.021)
    assert one(caller, 2).ended == pytest.approx(2.4 + 0.7, abs=0.021)


def test_the_silence_that_ends_a_turn_may_be_set() -> None:
    caller = caller_of({"wait": {"for": "agent_done", "silence": "1.5s"}}, end_silence="200ms")
    run(caller, Agent(talks=[(0.5, 1.5), (1.9, 2.4)]))
    assert one(caller).ended == pytest.approx(2.4 + 1.5, abs=0.021)
    caller = caller_of({"wait": "agent_done"}, end_silence="300ms")
    run(caller, Agent(talks=[(0.5, 1.5), (1.9, 2.4)]))
    assert one(caller).ended == pytest.approx(1.5 + 0.3, abs=0.021)


def test_done_means_done_with_the_answer_to_what_was_said_last() -> None:
    caller = caller_of({"wait": "agent_done"}, {"say": "Hello."}, {"wait": "agent_done"})
    run(caller, Agent(talks=[(0.5, 1.5)], answers_after=2.0, answer=1.0))
    said = one(caller, 1).spoken
    assert said is not None
    assert one(caller, 2).ended == pytest.approx(said.end + 2.0 + 1.0 + 0.7, abs=0.05)


def test_done_a_second_time_is_done_at_once() -> None:
    caller = caller_of({"wait": "agent_done"}, {"silence": "3s"}, {"wait": "agent_done"})
    run(caller, Agent(talks=[(0.5, 1.5)]))
    assert one(caller, 2).ended == one(caller, 2).began


def test_the_tail_of_an_interrupted_turn_is_not_the_answer() -> None:
    agent = Agent(talks=[(0.2, 20.0)], stops_after=1.2, answers_after=1.5, answer=1.0)
    caller = caller_of({"barge_in": {"text": "Stop.", "after": "1s"}}, {"wait": "agent_done"})
    run(caller, agent)
    said = one(caller).spoken
    assert said is not None
    assert one(caller, 1).ended == pytest.approx(said.end + 1.5 + 1.0 + 0.7, abs=0.05)


def test_an_interrupted_turn_is_all_there_is_when_nothing_else_comes() -> None:
    agent = Agent(talks=[(0.2, 20.0)], stops_after=1.2)
    caller = caller_of({"barge_in": {"text": "Stop.", "after": "1s"}}, {"wait": "agent_done"})
    run(caller, agent)
    said = one(caller).spoken
    assert said is not None
    assert one(caller, 1).failed == ""
    assert one(caller, 1).ended == pytest.approx(said.start + 1.2 + 0.7 + 3.0, abs=0.05)


def test_speaking_for_so_long_includes_the_pauses_between_sentences() -> None:
    caller = caller_of({"wait": {"agent_speaking_for": "2s"}})
    run(caller, Agent(talks=[(0.5, 1.2), (1.7, 3.5)]))
    assert one(caller).ended == pytest.approx(2.5, abs=0.021)
    caller = caller_of({"wait": {"agent_speaking_for": "2s"}})
    run(caller, Agent(talks=[(0.5, 1.2), (2.1, 4.5)]))
    assert one(caller).ended == pytest.approx(4.1, abs=0.021)


@pytest.mark.parametrize(
    ("wait", "agent", "said", "lacking"),
    [
        ("agent_speaks", Agent(), "the agent did not speak within 15 s", "no-answer"),
        ({"for": "agent_speaks", "timeout": "2s"}, Agent(), "the agent did not speak within 2 s", "no-answer"),
        (
            {"agent_speaking_for": "2s"},
            Agent(talks=[(1, 2)]),
            "the agent did not speak for 2 s within 15 s",
            "no-answer",
        ),
        ("agent_done", Agent(), "the agent did not speak within 15 s", "no-answer"),
        ("agent_done", Agent(talks=[(1, 99)]), "the agent was not silent for 0.7 s within 15 s", ""),
        ("hangup", Agent(), "the call was not over within 15 s", "hangup"),
    ],
)
def test_a_wait_that_takes_too_long_fails_and_the_caller_hangs_up(
    wait: Any, agent: Agent, said: str, lacking: str
) -> None:
    caller = caller_of({"wait": wait}, {"say": "Hello."}, {"expect": {"agent_speaks": True}})
    line = run(caller, agent)
    assert (one(caller).failed, one(caller).lacking) == (said, lacking)
    assert caller.record.gave_up == said
    assert caller.record.hung_up
    assert [step.skipped for step in caller.record.steps] == [False, True, True]
    assert [what for _, what in line.did] == ["hang_up"]


def test_time_and_the_end_of_the_call_are_waited_for() -> None:
    caller = caller_of({"wait": "1500ms"}, {"wait": "hangup"})
    run(caller, Agent(hangs_up_at=3.0))
    assert one(caller).ended == pytest.approx(1.52)
    assert one(caller, 1).ended == pytest.approx(3.0)
    assert one(caller, 1).failed == ""
    assert not caller.record.hung_up


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"wait": "5s"}, "the call ended first"),
        ({"wait": "agent_speaks"}, "the call ended before the agent spoke"),
        ({"wait": {"agent_speaking_for": "3s"}}, "the call ended before the agent spoke for 3 s"),
        ({"wait": "agent_done"}, "the call ended before the agent had finished"),
        ({"barge_in": "Stop."}, "the call ended before the agent spoke"),
        ({"dtmf": "123456789"}, "the call ended before all keys were pressed"),
        ({"hold": "5s"}, "the call ended on hold"),
        ({"silence": "5s"}, ""),
        ({"hang_up": True}, ""),
    ],
)
def test_an_agent_that_hangs_up_ends_every_step(step: dict[str, Any], said: str) -> None:
    caller = caller_of(step, {"say": "Hello."})
    run(caller, Agent(hangs_up_at=1.0))
    assert one(caller).failed == said
    assert one(caller).lacking == ("no-answer" if "agent spoke" in said else "")
    assert one(caller, 1).skipped


def test_a_call_that_is_never_answered_goes_through_its_expectations_only() -> None:
    caller = caller_of({"expect": {"refused": [403]}}, {"expect": {"answer": False}}, {"say": "Hello."}, {"wait": "1s"})
    caller.ended()
    assert [step.skipped for step in caller.record.steps] == [False, False, True, True]
    assert [step.failed for step in caller.record.steps] == ["", "", "", ""]
    assert not caller.record.hung_up
    caller = caller_of({"wait": "answer"}, {"say": "Hello."})
    caller.ended()
    assert (one(caller).failed, one(caller).lacking) == ("the call was not answered", "answer")
    assert one(caller, 1).skipped


# --- interrupting ------------------------------------------------------------------------


def test_an_interruption_comes_when_the_agent_has_spoken_for_so_long() -> None:
    caller = caller_of({"barge_in": {"text": "Sorry?", "after": "800ms"}})
    run(caller, Agent(talks=[(1.0, 9.0)]))
    assert one(caller).spoken == Span(pytest.approx(1.8, abs=0.021), pytest.approx(2.7, abs=0.021))


def test_an_interruption_does_not_fall_into_a_pause() -> None:
    caller = caller_of({"barge_in": {"text": "Sorry?", "after": "800ms"}})
    run(caller, Agent(talks=[(1.0, 1.74), (1.9, 9.0)]))
    assert one(caller).spoken == Span(pytest.approx(1.92, abs=0.021), pytest.approx(2.82, abs=0.021))


def test_a_sound_of_listening_lets_the_agent_finish() -> None:
    caller = caller_of({"backchannel": {"text": "mm-hm", "after": "1s"}}, {"wait": "agent_done"})
    run(caller, Agent(talks=[(0.5, 2.2)]))
    said = one(caller).spoken
    assert said is not None
    assert said.start == pytest.approx(1.5, abs=0.021)
    # The agent need not answer to it, even though it was silent before the caller was.
    assert one(caller, 1).ended == pytest.approx(2.2 + 0.7, abs=0.021)


def test_a_cough_asks_for_no_answer() -> None:
    caller = caller_of({"wait": "agent_done"}, {"say": {"sound": "cough"}}, {"wait": "agent_done"})
    run(caller, Agent(talks=[(0.5, 1.5)]))
    assert one(caller, 2).failed == ""
    assert one(caller, 2).ended == one(caller, 2).began


# --- keys, noise, the line ---------------------------------------------------------------


def test_keys_are_pressed_by_the_line_and_take_their_time() -> None:
    caller = caller_of({"dtmf": {"digits": "12a#", "tone": "90ms", "gap": "70ms"}}, {"say": "Hello."})
    line = run(caller)
    assert line.pressed == [(0.02, "12A#", "rfc4733")]
    assert one(caller).keys == "12A#"
    assert one(caller).since == pytest.approx(0.02 + 4 * 0.09 + 3 * 0.07)
    spoken = one(caller, 1).spoken
    assert spoken is not None
    assert spoken.start == pytest.approx(0.02 + 4 * 0.09 + 3 * 0.07, abs=0.021)


def test_tones_come_from_the_mouth() -> None:
    caller = caller_of({"dtmf": {"digits": "5", "by": "inband"}})
    line = run(caller)
    assert line.pressed == []
    assert np.abs(line.caller[200:800].astype(int)).max() > 1000
    assert one(caller).keys == "5"


def test_a_way_of_pressing_that_the_line_has_not_fails_the_step() -> None:
    caller = caller_of({"dtmf": {"digits": "5", "by": "info"}}, {"say": "Hello."})
    line = run(caller)
    assert one(caller).failed == "this line has no info"
    assert one(caller, 1).skipped
    assert line.ended_by == "caller"


def test_hold_and_codec_are_the_lines_affair() -> None:
    caller = caller_of({"hold": "2s"}, {"codec": "G722"}, {"hang_up": True})
    line = run(caller)
    times = [at for at, _ in line.did]
    assert [what for _, what in line.did] == ["hold", "resume", "codec G722", "hang_up"]
    assert times == pytest.approx([0.02, 2.02, 2.02, 2.02])
    for step in ({"hold": "2s"}, {"codec": "G722"}):
        caller = caller_of(step)
        run(caller, abilities=[])
        assert "use a sip: target" in one(caller).failed


def test_noise_comes_and_goes_and_is_there_from_the_beginning_when_the_caller_has_it() -> None:
    street = {"kind": "street", "snr": "20dB"}
    caller = caller_of({"wait": "500ms"}, {"noise": street}, {"wait": "500ms"}, {"noise": "off"}, {"wait": "500ms"})
    track = run(caller).caller
    assert not track[: round(0.5 * RATE)].any()
    assert track[round(0.54 * RATE) : round(1.0 * RATE)].any()
    assert not track[round(1.08 * RATE) :].any()
    caller = caller_of({"wait": "500ms"}, noise=street)
    assert run(caller).caller[160:].any()


def test_nothing_is_done_after_the_caller_has_hung_up() -> None:
    caller = caller_of({"hang_up": True, "expect": {"hangup": "by_caller"}}, {"say": "Hello."})
    line = run(caller)
    assert len(line.did) == 1
    assert one(caller, 1).skipped
    assert not line.caller.any()


# --- expecting ---------------------------------------------------------------------------


def test_an_expectation_is_settled_when_the_agent_speaks() -> None:
    caller = caller_of({"expect": {"agent_speaks": True, "within": "1500ms", "as": "greeting"}})
    run(caller, Agent(talks=[(0.8, 2.0)]))
    assert one(caller).name == "greeting"
    assert one(caller).verb == "expect"
    assert one(caller).ended == pytest.approx(0.84, abs=0.021)
    assert (one(caller).since, one(caller).within) == (0.0, 1.5)


@pytest.mark.parametrize(
    ("within", "until"), [("500ms", 3.5), ("5s", 10.0), ("12s", 15.0), ("20s", 20.0), (None, 15.0)]
)
def test_an_answer_is_waited_for_beyond_its_limit(within: str | None, until: float) -> None:
    wanted = {"agent_speaks": True} | ({"within": within} if within else {})
    caller = caller_of({"expect": wanted}, {"wait": "1s"})
    run(caller)
    assert one(caller).failed == ""
    assert one(caller).ended == pytest.approx(until, abs=0.021)
    assert not one(caller, 1).skipped


def test_a_late_answer_is_heard_as_one_and_not_talked_over() -> None:
    caller = caller_of({"say": "Hello.", "expect": {"agent_speaks": True, "within": "1s"}}, {"wait": "agent_done"})
    run(caller, Agent(answers_after=2.5))
    said = one(caller).spoken
    assert said is not None
    assert one(caller).since == said.end
    assert one(caller).ended == pytest.approx(said.end + 2.5, abs=0.08)
    assert one(caller, 1).ended == pytest.approx(said.end + 2.5 + 1.0 + 0.7, abs=0.05)


def test_an_expectation_of_its_own_counts_from_the_end_of_the_sentence_before() -> None:
    caller = caller_of({"say": "Hello."}, {"expect": {"agent_speaks": True, "within": "1s"}})
    run(caller, Agent(answers_after=0.6))
    said = one(caller).spoken
    assert said is not None
    assert one(caller, 1).since == said.end
    assert one(caller, 1).ended == pytest.approx(said.end + 0.6, abs=0.08)


def test_what_takes_no_time_leaves_the_counting_where_it_was() -> None:
    greeting = {"expect": {"agent_speaks": True}}
    caller = caller_of({"expect": {"answer": True}}, {"wait": "answer"}, {"noise": "off"}, greeting, {"say": "Hello."})
    run(caller, Agent(talks=[(0.5, 1.0)]))
    assert [step.since for step in caller.record.steps[:4]] == [0.0, 0.02, 0.02, 0.0]
    caller = caller_of({"say": "Hello."}, {"noise": "off"}, {"expect": {"agent_speaks": True}})
    run(caller, Agent(answers_after=0.6))
    said = one(caller).spoken
    assert said is not None
    assert one(caller, 2).since == said.end


def test_an_agent_that_was_already_speaking_has_not_answered() -> None:
    caller = caller_of({"wait": "agent_speaks"}, {"say": "Hello.", "expect": {"agent_speaks": True}})
    run(caller, Agent(talks=[(0.2, 5.0), (6.0, 7.0)]))
    assert one(caller, 1).ended == pytest.approx(6.04, abs=0.021)


def test_an_answer_that_begins_too_early_is_one() -> None:
    caller = caller_of({"say": "Hello.", "expect": {"agent_speaks": True}})
    run(caller, Agent(talks=[(0.6, 3.0)]))
    assert one(caller).ended == pytest.approx(0.92, abs=0.041)


def test_silence_is_awaited_for_just_its_time_and_broken_at_once() -> None:
    caller = caller_of({"expect": {"agent_speaks": False, "within": "3s"}})
    run(caller)
    assert one(caller).ended == pytest.approx(3.0)
    caller = caller_of({"expect": {"agent_speaks": False, "within": "3s"}})
    run(caller, Agent(talks=[(1, 2)]))
    assert one(caller).ended == pytest.approx(1.04, abs=0.021)


def test_the_caller_says_nothing_until_the_agent_does() -> None:
    plan = {"silence": "6s", "expect": {"agent_speaks": True, "as": "reprompt"}}
    caller = caller_of(plan)
    run(caller, Agent(talks=[(4, 5)]))
    assert one(caller).ended == pytest.approx(4.04, abs=0.021)
    assert (one(caller).name, one(caller).within, one(caller).since) == ("reprompt", 6.0, 0.02)
    caller = caller_of(plan)
    run(caller)
    assert one(caller).ended == pytest.approx(12.02, abs=0.021)
    caller = caller_of({"silence": "6s", "expect": {"agent_speaks": False}})
    run(caller)
    assert one(caller).ended == pytest.approx(6.02, abs=0.021)
    caller = caller_of({"silence": "2s"})
    run(caller, Agent(talks=[(1, 3)]))
    assert one(caller).ended == pytest.approx(2.02, abs=0.021)


def test_an_interrupted_agent_is_given_time_to_stop() -> None:
    step = {"barge_in": {"text": "Sorry?", "after": "1s"}, "expect": {"agent_stops_within": "400ms"}}
    caller = caller_of(step)
    run(caller, Agent(talks=[(0.5, 20)], stops_after=0.25))
    said = one(caller).spoken
    assert said is not None
    assert one(caller).ended == pytest.approx(said.start + 0.25 + 0.7, abs=0.041)
    caller = caller_of(step)
    run(caller, Agent(talks=[(0.5, 20)], stops_after=2.0))
    assert one(caller).ended == pytest.approx(1.5 + 2.0 + 0.7, abs=0.041)
    caller = caller_of(step)
    run(caller, Agent(talks=[(0.5, 20)]))
    assert one(caller).ended == pytest.approx(1.5 + 3.4, abs=0.041)


def test_an_agent_that_stopped_and_answers_has_stopped() -> None:
    step = {"barge_in": {"text": "Sorry?", "after": "1s"}, "expect": {"agent_stops_within": "400ms"}}
    caller = caller_of(step)
    run(caller, Agent(talks=[(0.5, 20)], stops_after=0.1, answers_after=0.3, answer=9.0))
    said = one(caller).spoken
    assert said is not None
    assert one(caller).ended < said.end + 0.5


def test_an_agent_that_listens_is_watched_for_just_as_long_as_it_is_to_go_on() -> None:
    caller = caller_of({"backchannel": "mm-hm", "expect": {"agent_keeps_talking": "2s"}})
    run(caller, Agent(talks=[(0.5, 9)]))
    said = one(caller).spoken
    assert said is not None
    assert one(caller).ended == pytest.approx(said.start + 2.0, abs=0.021)


@pytest.mark.parametrize("field", ["heard", "not_heard"])
def test_words_are_waited_for_to_the_end_of_the_turn(field: str) -> None:
    caller = caller_of({"say": "Hello.", "expect": {field: "birthday", "within": "4s"}})
    run(caller, Agent(answers_after=1.0, answer=8.0))
    said = one(caller).spoken
    assert said is not None
    assert one(caller).ended == pytest.approx(said.end + 1.0 + 8.0 + 0.7, abs=0.05)
    caller = caller_of({"say": "Hello.", "expect": {field: "birthday", "within": "4s"}})
    run(caller)
    assert one(caller).ended == pytest.approx(0.92 + 8.0, abs=0.021)


def test_words_of_the_turn_under_way_count() -> None:
    caller = caller_of({"wait": "agent_speaks"}, {"expect": {"heard": "hello"}})
    run(caller, Agent(talks=[(0.5, 3.0)]))
    assert one(caller, 1).ended == pytest.approx(3.7, abs=0.021)


def test_keys_of_the_agent_are_waited_for_to_the_last() -> None:
    pressed = [LineEvent(0.5, "dtmf", "1"), LineEvent(1.0, "dtmf", "2"), LineEvent(3.0, "dtmf", "3")]
    caller = caller_of({"expect": {"dtmf": "12"}}, {"expect": {"dtmf": "3"}}, {"expect": {"dtmf": "4", "within": "1s"}})
    run(caller, Agent(events=pressed))
    assert [step.ended for step in caller.record.steps] == pytest.approx([1.0, 3.0, 7.0], abs=0.021)


def test_keys_that_came_while_the_agent_spoke_were_not_missed() -> None:
    caller = caller_of({"wait": "agent_done"}, {"expect": {"dtmf": "1"}})
    run(caller, Agent(talks=[(0.5, 2.0)], events=[LineEvent(1.0, "dtmf", "1")]))
    assert one(caller, 1).ended == one(caller, 1).began


def test_a_transfer_is_waited_for() -> None:
    caller = caller_of({"say": "Hello.", "expect": {"transfer": "sip:desk@.*", "within": "5s"}})
    run(caller, Agent(events=[LineEvent(3.0, "transfer", "sip:desk@example.com")]))
    assert one(caller).ended == pytest.approx(3.0, abs=0.021)


@pytest.mark.parametrize(
    "wanted",
    [
        {"hangup": "by_agent"},
        {"hangup": "by_anyone"},
        {"tail_intact": True},
        {"hangup": "by_agent", "tail_intact": True},
    ],
)
def test_the_end_of_the_call_is_waited_for(wanted: dict[str, Any]) -> None:
    caller = caller_of({"say": "Bye."}, {"expect": {**wanted, "within": "12s"}})
    run(caller, Agent(hangs_up_at=4.0))
    assert one(caller, 1).ended == pytest.approx(4.0, abs=0.021)
    assert not caller.record.hung_up
    caller = caller_of({"say": "Bye."}, {"expect": {**wanted, "within": "1s"}})
    run(caller)
    assert one(caller, 1).ended == pytest.approx(0.92 + 4.0, abs=0.021)
    assert caller.record.hung_up


@pytest.mark.parametrize("wanted", [{"answer": True}, {"answer": False}, {"refused": [403]}, {"hangup": "by_caller"}])
def test_what_is_decided_already_takes_no_time(wanted: dict[str, Any]) -> None:
    caller = caller_of({"expect": wanted})
    run(caller)
    assert one(caller).ended == one(caller).began


def test_several_expectations_are_all_waited_for() -> None:
    caller = caller_of({"expect": {"agent_speaks": True, "dtmf": "7", "transfer": "x"}})
    events = [LineEvent(2.0, "dtmf", "7"), LineEvent(5.0, "transfer", "x")]
    run(caller, Agent(talks=[(1, 2)], events=events))
    assert one(caller).ended == pytest.approx(5.0, abs=0.021)


def test_an_expectation_fails_nothing_here() -> None:
    caller = caller_of({"expect": {"agent_speaks": True, "within": "1s"}}, {"say": "Hello."})
    run(caller)
    assert [step.failed for step in caller.record.steps] == ["", ""]
    assert one(caller, 1).spoken is not None


# --- the same again ----------------------------------------------------------------------


def conversation(seed: int) -> Samples:
    caller = caller_of(
        {"expect": {"agent_speaks": True, "within": "1s"}},
        {"backchannel": {"text": "mm-hm", "after": "500ms"}},
        {"wait": "agent_done"},
        {"say": "Hello.", "expect": {"heard": "hello"}},
        {"dtmf": {"digits": "12#", "by": "inband"}},
        {"barge_in": {"text": "Stop.", "after": "300ms"}, "expect": {"agent_stops_within": "500ms"}},
        {"noise": "off"},
        {"wait": "agent_done"},
        noise={"kind": "street"},
        seed=seed,
    )
    line = run(caller, Agent(talks=[(0.4, 2.5)], answers_after=0.7, answer=2.0, stops_after=0.2))
    assert not caller.record.gave_up
    return line.caller


def test_the_same_seed_and_the_same_agent_give_the_same_bytes() -> None:
    assert conversation(7).tobytes() == conversation(7).tobytes()
    assert conversation(7).tobytes() != conversation(8).tobytes()


# --- more steps while it runs --------------------------------------------------------------


def test_where_the_agent_was_heard_is_told_as_the_call_goes() -> None:
    caller = caller_of({"wait": "3s"})
    line = FakeLine(Agent(talks=[(0.5, 1.0), (1.5, 9.0)]))
    while line.seconds < 2.0:
        line.step(caller)
    first, second = caller.heard
    assert (first.start, first.end) == pytest.approx((0.5, 1.0), abs=0.011)
    assert (second.start, second.end) == pytest.approx((1.5, 2.0), abs=0.011)


def test_what_the_agent_says_is_kept_for_who_listens() -> None:
    caller = caller_of({"wait": "3s"})
    line = FakeLine(Agent(talks=[(0.0, 9.0)]))
    for _ in range(10):
        line.step(caller)
    kept, since = caller.listen()
    assert since == pytest.approx(0.2)
    for _ in range(10):
        line.step(caller)
    assert bytes(kept) == np.concatenate(line.heard[10:]).tobytes()
    assert caller.listen() == (kept, pytest.approx(0.2))


def test_steps_may_be_added_while_the_call_is_kept_open() -> None:
    plan = scenario({"wait": "500ms"})
    say = Step.model_validate({"say": "Hello."})
    hang_up = Step.model_validate({"hang_up": True})
    caller = Caller(plan, script_of(plan, say), keep_open=True)
    line = FakeLine()
    for _ in range(100):
        line.step(caller)
    assert not line.did
    added = caller.add(say)
    done: list[float] = []
    added.on_done = lambda: done.append(line.seconds)
    assert not added.done
    for _ in range(100):
        line.step(caller)
    assert added.done
    assert done == [pytest.approx(2.0 + 0.92, abs=0.021)]
    assert added.record is caller.record.steps[1]
    assert added.record.index == 1
    caller.add(hang_up)
    line.run(caller)
    assert line.ended_by == "caller"


def test_a_call_that_is_kept_open_goes_on_after_a_failure() -> None:
    caller = caller_of({"wait": {"for": "agent_speaks", "timeout": "1s"}}, {"say": "Hello."}, keep_open=True)
    run(caller, seconds=5.0)
    assert one(caller).failed
    assert one(caller, 1).spoken is not None
    assert not caller.record.gave_up
    assert not caller.record.hung_up


def test_what_is_added_after_the_end_is_skipped() -> None:
    caller = caller_of({"wait": "1s"}, keep_open=True)
    run(caller, seconds=2.0)
    added = caller.add(Step.model_validate({"hang_up": True}))
    assert added.record.skipped
    assert added.done


# --- a persona -----------------------------------------------------------------------------


class Talker:
    """Says two sentences, when the agent is silent."""

    def __init__(self, times: int = 2) -> None:
        self.content = False
        self.left = times
        self.log: list[str] = []

    def begin(self, line: CallerLine) -> None:
        line.activity.kept = bytearray()
        self.log.append("begin")

    def frame(self, line: CallerLine) -> tuple[str, Samples] | None:
        self.content = self.left == 0
        if line.mouth.saying or self.content or line.activity.silent_for() < 0.5:
            return None
        self.left -= 1
        return f"{self.left} left", voice(0.6)

    def end(self) -> None:
        self.log.append("end")


def test_a_persona_talks_until_it_is_content() -> None:
    plan = scenario({"converse": "60s"}, {"say": "Bye."})
    persona = Talker()
    caller = Caller(plan, script_of(plan), persona=persona)
    line = run(caller, Agent(talks=[(0.0, 1.0)]))
    assert [text for _, text in caller.record.persona_said] == ["1 left", "0 left"]
    assert persona.log == ["begin", "end"]
    assert caller.record.persona_said[0][0] == pytest.approx(1.5, abs=0.041)
    assert one(caller).ended < 5
    assert one(caller, 1).spoken is not None
    assert len(line.activity.kept or b"") > 2 * RATE


def test_a_persona_has_only_so_much_time_and_no_longer_than_the_call() -> None:
    for seconds, agent, ended in (("2s", Agent(), 2.02), ("60s", Agent(hangs_up_at=1.0), 1.0)):
        plan = scenario({"converse": seconds})
        persona = Talker(99)
        caller = Caller(plan, script_of(plan), persona=persona)
        run(caller, agent)
        assert one(caller).ended == pytest.approx(ended)
        assert persona.log == ["begin", "end"]


def test_without_a_persona_there_is_no_conversation() -> None:
    caller = caller_of({"converse": "9s"})
    run(caller)
    assert one(caller).failed == "there is no persona: `caller.persona` describes one"


# --- what a line must have -----------------------------------------------------------------


def test_what_a_scenario_needs_of_the_line() -> None:
    assert needs(scenario({"say": "Hello."})) == frozenset()
    plan = scenario(
        {"dtmf": {"digits": "1", "by": "inband"}},
        {"dtmf": "1"},
        {"hold": "1s"},
        {"codec": "PCMA"},
        {"expect": {"transfer": ""}},
    )
    assert needs(plan) == {"rfc4733", "hold", "codec", "transfer"}


def test_a_frame_of_the_machine_costs_next_to_nothing() -> None:
    """200 calls have 10 000 frames a second: a step that waits makes two dozen function calls at most in each."""
    caller = caller_of({"wait": "100s"})
    line = FakeLine()
    for _ in range(10):
        line.step(caller)
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # what it sweeps up would be counted, too
    sys.setprofile(count)
    caller.frame(line)
    sys.setprofile(None)
    gc.enable()
    assert calls < 25
