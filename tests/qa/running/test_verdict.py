"""What is said of a call: every kind of finding both ways, and from when times count."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.line import Agent, FakePhone, voice

from offhook.qa.activity import Samples, Span
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.script import Script, sound_key, speech_of
from offhook.qa.measuring.metrics import measure_call
from offhook.qa.measuring.speech import Transcript, TurnText
from offhook.qa.phones.base import CallLog, CallOrder, LineEvent
from offhook.qa.running.result import Finding, Verdict
from offhook.qa.running.verdict import Facts, judge, over_all, verdict_of
from offhook.qa.scenario.load import Loaded, parse

HELLO = {"say": "Hello?"}


def loaded(steps: list[Any], **more: Any) -> Loaded:
    return parse(yaml.safe_dump({"name": "made", "steps": steps, **more}, sort_keys=False), "made.yaml")


def script(one: Loaded) -> Script:
    """Every sentence is half a second of noise, a cough a quarter of it."""
    made = Script(one.scenario.caller, Path())
    for step in one.scenario.steps:
        found = speech_of(step)
        if found is not None:
            made.sounds[sound_key(found[1], one.scenario.caller)] = voice(0.2 if found[1].sound else 0.5, 7)
    return made


@dataclass
class Case:
    """One call of a scripted agent, judged."""

    steps: list[Any]
    agent: Agent = field(default_factory=Agent)
    more: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    "What the log says otherwise than it would."
    status: int = 200
    words: Any = None
    "What is said in each of the agent's turns, in order."
    doubts: list[str] = field(default_factory=list)

    async def facts(self) -> Facts:
        one = loaded(self.steps, **self.more)
        sounds: dict[str, Samples] = script(one).sounds
        caller = Caller(one.scenario, script(one))
        order = CallOrder(one.scenario.target, one.scenario.media, "c1", timeout=one.scenario.timeout)
        log: CallLog = await FakePhone(lambda: self.agent, status=self.status).carry(order, caller)
        log = replace(log, **self.log)
        metrics = measure_call(log, caller.record, one.scenario, sounds=sounds)
        if self.words is None:
            return Facts(one, log, caller.record, metrics, None, "no recogniser is there")
        turns = [turn for turn in metrics.turns if turn.who == "agent"]
        texts = [TurnText(Span(t.start, t.end), text) for t, text in zip(turns, self.words, strict=False)]
        return Facts(one, log, caller.record, metrics, Transcript(tuple(texts), "offline"))

    async def findings(self) -> list[Finding]:
        return judge(await self.facts(), self.doubts)

    async def only(self) -> Finding:
        [found] = await self.findings()
        return found

    async def failed(self) -> set[str]:
        return {finding.kind for finding in await self.findings() if not finding.ok}


def spoke(ms: float) -> Agent:
    return Agent(answers_after=ms / 1000)


LONG = Agent(talks=[(0.2, 8.0)])


def long(**more: Any) -> Agent:
    return Agent(talks=[(0.2, 8.0)], **more)


INTERRUPT = {"barge_in": {"text": "Stop.", "after": "500ms"}, "expect": {"agent_stops_within": "600ms"}}
COUGH = {"backchannel": {"sound": "cough", "after": "500ms"}, "expect": {"agent_keeps_talking": "1s"}}


def keys(*times: float, pressed: str = "123") -> Agent:
    events = [LineEvent(at, "dtmf", key) for at, key in zip(times, pressed, strict=True)]
    return Agent(events=events)


def moved(at: float, to: str = "sip:+15550123@desk", **headers: str) -> Agent:
    return Agent(events=[LineEvent(at, "transfer", to, headers)])


TO_SALES = {"expect": {"transfer": {"to": "15550123", "headers": {"X-Reason": "sales"}}, "within": "2s"}}

BOTH_WAYS: dict[str, tuple[str, Case, Case]] = {
    # kind: a call in which it is as asked for, and one in which it is not
    "answer": (
        "answer",
        Case([{"expect": {"answer": True, "within": "1s"}}]),
        Case([{"expect": {"answer": True, "within": "1s"}}], status=486),
    ),
    "answered late": (
        "answer",
        Case([{"expect": {"answer": True, "within": "1s"}}], log={"setup_ms": 1000.4}),
        Case([{"expect": {"answer": True, "within": "1s"}}], log={"setup_ms": 1001.0}),
    ),
    "not to be answered": (
        "answer",
        Case([{"expect": {"answer": False}}], status=486),
        Case([{"expect": {"answer": False}}]),
    ),
    "refused": (
        "refused",
        Case([{"expect": {"refused": [403, 486]}}], status=486),
        Case([{"expect": {"refused": [403, 486]}}], status=404),
    ),
    "refused, though answered": (
        "refused",
        Case([{"expect": {"refused": []}}], status=503),
        Case([{"expect": {"refused": []}}]),
    ),
    "late-answer": (
        "late-answer",
        Case([{**HELLO, "expect": {"agent_speaks": True, "within": "1s"}}], spoke(900)),
        Case([{**HELLO, "expect": {"agent_speaks": True, "within": "1s"}}], spoke(1200)),
    ),
    "no-answer": (
        "late-answer",
        Case([{**HELLO, "expect": {"agent_speaks": True}}], spoke(900)),
        Case([{**HELLO, "expect": {"agent_speaks": True}}]),
    ),
    "unwanted-speech": (
        "unwanted-speech",
        Case([{"silence": "2s", "expect": {"agent_speaks": False}}], Agent(talks=[(2.4, 3.0)])),
        Case([{"silence": "2s", "expect": {"agent_speaks": False}}], Agent(talks=[(1.4, 3.0)])),
    ),
    "ignored-barge-in": ("ignored-barge-in", Case([INTERRUPT], long(stops_after=0.4)), Case([INTERRUPT], long())),
    "late stop": (
        "ignored-barge-in",
        Case([INTERRUPT], long(stops_after=0.56)),
        Case([INTERRUPT], long(stops_after=0.8)),
    ),
    "stopped-for-backchannel": (
        "stopped-for-backchannel",
        Case([COUGH], long()),
        Case([COUGH], long(stops_after=0.4)),
    ),
    "heard": (
        "heard",
        Case([{**HELLO, "expect": {"heard": "nine to five"}}], spoke(700), words=["From nine to five."]),
        Case([{**HELLO, "expect": {"heard": "nine to five"}}], spoke(700), words=["We are closed."]),
    ),
    "not-heard": (
        "not-heard",
        Case([{**HELLO, "expect": {"not_heard": "language model"}}], spoke(700), words=["From nine to five."]),
        Case([{**HELLO, "expect": {"not_heard": "language model"}}], spoke(700), words=["I am a language model."]),
    ),
    "dropped-digit": (
        "dropped-digit",
        Case([{"expect": {"dtmf": "123", "within": "3s"}}], keys(1.0, 1.2, 1.4)),
        Case([{"expect": {"dtmf": "123", "within": "3s"}}], keys(1.0, 1.4, pressed="13")),
    ),
    "transfer": (
        "transfer",
        Case([TO_SALES], moved(1.0, **{"x-reason": "sales"})),
        Case([TO_SALES], moved(1.0, **{"x-reason": "billing"})),
    ),
    "wrong transfer": (
        "transfer",
        Case([TO_SALES], moved(1.0, **{"x-reason": "sales"})),
        Case([TO_SALES], moved(1.0, "sip:+15550666@desk", **{"x-reason": "sales"})),
    ),
    "late transfer": (
        "transfer",
        Case([TO_SALES], moved(2.0, **{"x-reason": "sales"})),
        Case([TO_SALES], moved(2.2, **{"x-reason": "sales"})),
    ),
    "no transfer": ("transfer", Case([TO_SALES], moved(1.0, **{"x-reason": "sales"})), Case([TO_SALES])),
    "hangup": (
        "hangup",
        Case([{"expect": {"hangup": "by_agent", "within": "3s"}}], Agent(hangs_up_at=2.0)),
        Case([{"expect": {"hangup": "by_agent", "within": "3s"}}]),
    ),
    "late hangup": (
        "hangup",
        Case([{"expect": {"hangup": "by_agent", "within": "2s"}}], Agent(hangs_up_at=2.0)),
        Case([{"expect": {"hangup": "by_agent", "within": "2s"}}], Agent(hangs_up_at=2.5)),
    ),
    "hangup by the other": (
        "hangup",
        Case([{"hang_up": True, "expect": {"hangup": "by_caller"}}]),
        Case([{"silence": "1s"}, {"expect": {"hangup": "by_caller"}}], Agent(hangs_up_at=0.5)),
    ),
    "cut-tail": (
        "cut-tail",
        Case([{"expect": {"tail_intact": True}}], Agent(talks=[(0.2, 1.0)], hangs_up_at=2.0)),
        Case([{"expect": {"tail_intact": True}}], Agent(talks=[(0.2, 2.0)], hangs_up_at=1.0)),
    ),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
async def test_every_expectation_holds_or_fails_by_its_name(name: str) -> None:
    kind, good, bad = BOTH_WAYS[name]
    found = await good.only()
    assert (found.ok, found.kind) == (True, kind), found.message
    wrong = [one for one in await bad.findings() if not one.ok]
    expected = name if name == "no-answer" else kind
    assert [one.kind for one in wrong] == [expected], wrong
    [one] = wrong
    assert one.step is not None
    assert one.where.startswith("made.yaml:")
    assert verdict_of([found]) == Verdict.PASS
    assert verdict_of(wrong) == Verdict.FAIL


async def test_a_call_that_nobody_answers_has_failed_though_no_step_asks() -> None:
    found = await Case([HELLO], status=486).findings()
    assert [(one.kind, one.ok) for one in found] == [("answer", False)]
    assert "486" in found[0].message


async def test_a_call_that_is_not_to_be_answered_may_ring_for_as_long_as_the_caller_lets_it() -> None:
    case = Case([{"expect": {"answer": False}}], status=0, log={"ended_by": "timeout"})
    assert await case.failed() == set()


async def test_a_call_that_does_not_end_has_failed() -> None:
    steps = [{"wait": {"agent_speaking_for": "20s", "timeout": "30s"}}]
    assert await Case(steps, Agent(talks=[(0.2, 60.0)]), {"timeout": "4s"}).failed() == {"timeout", "step"}


async def test_a_caller_that_misbehaved_makes_a_failure_invalid() -> None:
    case = Case([{**HELLO, "expect": {"agent_speaks": True}}], doubts=["the caller's frames left 80 ms late"])
    assert await case.failed() == {"caller", "no-answer"}
    assert verdict_of(await case.findings()) == Verdict.INVALID


async def test_a_failure_counts_for_more_than_a_missing_recogniser() -> None:
    step = {**HELLO, "expect": {"agent_speaks": True, "heard": "nine", "within": "1s"}}
    assert verdict_of(await Case([step], spoke(700)).findings()) == Verdict.INVALID
    late = await Case([step], spoke(1500)).findings()
    assert {one.kind for one in late if not one.ok} == {"late-answer", "means"}
    assert verdict_of(late) == Verdict.FAIL


def test_what_does_not_gate_does_not_count() -> None:
    assert verdict_of([Finding("judge", False, "Was it polite? no", gate=False)]) == Verdict.PASS
    assert verdict_of([Finding("means", False, "no model", gate=False)]) == Verdict.PASS
    assert verdict_of([Finding("judge", False, "Was it polite? no")]) == Verdict.FAIL
    assert verdict_of([]) == Verdict.PASS


# --- from when times count ---------------------------------------------------------------


async def test_a_greeting_counts_from_the_answer() -> None:
    case = Case([{"expect": {"agent_speaks": True, "within": "1s"}}], Agent(talks=[(0.8, 1.5)]))
    assert (await case.only()).measured == pytest.approx(800, abs=1)
    case.log = {"answered_at": -0.3}
    found = await case.only()
    assert found.measured == pytest.approx(1100, abs=1)
    assert (found.kind, found.ok) == ("late-answer", False)


async def test_an_answer_counts_from_the_last_sample_of_speech_and_its_listening_step_too() -> None:
    speaks = {"agent_speaks": True, "within": "1s"}
    assert (await Case([{**HELLO, "expect": speaks}], spoke(700)).only()).measured == pytest.approx(700, abs=21)
    assert (await Case([HELLO, {"expect": speaks}], spoke(700)).only()).measured == pytest.approx(700, abs=21)


async def test_an_answer_to_keys_counts_from_the_end_of_the_last() -> None:
    # Two keys of 100 ms, 100 ms apart, from 0.02 s on: let go at 0.32 s.
    step = {"dtmf": "12", "expect": {"agent_speaks": True, "within": "1s"}}
    found = await Case([step], Agent(talks=[(1.32, 2.0)])).only()
    assert found.measured == pytest.approx(1000, abs=1)
    assert found.ok
    assert not (await Case([step], Agent(talks=[(1.38, 2.0)])).only()).ok


async def test_an_answer_to_a_key_may_begin_while_it_is_down() -> None:
    step = {"dtmf": {"digits": "1", "tone": "200ms"}, "expect": {"agent_speaks": True, "within": "1s"}}
    found = await Case([{"wait": "1s"}, step], Agent(talks=[(1.06, 2.0)])).only()
    assert found.ok
    assert found.measured == 0


async def test_a_question_after_silence_counts_from_when_the_silence_began() -> None:
    steps = [{"wait": "1s"}, {"silence": "4s", "expect": {"agent_speaks": True}}]
    found = await Case(steps, Agent(talks=[(3.0, 4.0)])).only()
    assert found.measured == pytest.approx(1980, abs=21)
    assert found.limit == "<=4000ms"


async def test_what_the_network_took_is_not_the_agents() -> None:
    greeting = Case([{"expect": {"agent_speaks": True, "within": "1s"}}], Agent(talks=[(1.1, 2.0)]))
    greeting.log = {"network_s": 0.15}
    assert (await greeting.only()).measured == pytest.approx(950, abs=1)
    answer = Case([{**HELLO, "expect": {"agent_speaks": True, "within": "1s"}}], spoke(1240))
    answer.log = {"network_s": 0.15}
    assert (await answer.only()).measured == pytest.approx(940, abs=21)
    stop = Case([INTERRUPT], long(stops_after=0.84), log={"network_s": 0.15})
    assert (await stop.only()).ok


async def test_an_agent_that_speaks_into_the_callers_words_was_not_late() -> None:
    step = {**HELLO, "expect": {"agent_speaks": True, "within": "1s"}}
    found = await Case([step], Agent(talks=[(0.3, 1.4)])).only()
    assert (found.ok, found.measured) == (True, 0)


async def test_what_answers_the_next_question_answers_not_this_one() -> None:
    first = {**HELLO, "expect": {"agent_speaks": True, "within": "500ms"}}
    second = {"say": "Is anybody there?", "expect": {"agent_speaks": True, "within": "1s"}}
    found = await Case([first, second], Agent(talks=[(5.0, 6.0)]), {"caller": {"patience": "3s"}}).findings()
    assert [(one.step, one.kind, one.ok) for one in found] == [(0, "no-answer", False), (1, "late-answer", True)]


# --- verdicts that were wrong once -------------------------------------------------------


@pytest.mark.parametrize(("stops_after", "ok"), [(3.2, True), (1.5, False), (0.4, False)])
async def test_an_agent_must_talk_on_for_all_of_the_time_that_is_asked(stops_after: float, ok: bool) -> None:
    cough = {**COUGH, "expect": {"agent_keeps_talking": "3s"}}
    found = await Case([cough], long(stops_after=stops_after)).only()
    assert (found.kind, found.ok) == ("stopped-for-backchannel", ok)
    assert found.measured == pytest.approx(min(3.0, stops_after) * 1000, abs=41)


async def test_an_agent_that_hangs_up_at_a_cough_has_stopped_for_it() -> None:
    found = await Case([COUGH], long(hangs_up_at=1.2)).findings()
    [one] = [one for one in found if one.kind == "stopped-for-backchannel"]
    assert not one.ok
    assert "was gone after" in one.message


async def test_a_pause_between_two_sentences_is_no_stop() -> None:
    agent = Agent(talks=[(0.2, 1.0), (1.5, 5.0)])
    assert (await Case([COUGH], agent).only()).ok


async def test_who_must_not_be_interrupted_at_all_is_judged_by_words_too() -> None:
    step = {"barge_in": {"text": "Stop.", "after": "500ms"}, "expect": {"agent_keeps_talking": "2s"}}
    assert (await Case([step], long()).only()).ok
    found = await Case([step], long(stops_after=0.4)).only()
    assert (found.kind, found.ok) == ("stopped-for-backchannel", False)


async def test_an_interruption_of_silence_says_nothing_of_the_agent() -> None:
    found = await Case([INTERRUPT], Agent(talks=[(0.2, 0.74)])).findings()
    assert "caller" in {one.kind for one in found if not one.ok}
    assert verdict_of(found) == Verdict.INVALID


async def test_an_agent_that_hangs_up_early_has_failed_although_a_hang_up_is_expected_later() -> None:
    asked = {**HELLO, "expect": {"agent_speaks": True, "heard": "hello"}}
    bye = {"expect": {"hangup": "by_agent", "within": "10s"}}
    steps = [asked, {"say": "I need an appointment."}, {"say": "Bye."}, bye]
    case = Case(steps, Agent(answers_after=0.7, hangs_up_at=2.2), words=["Hello."])
    wrong = [one for one in await case.findings() if not one.ok]
    assert [(one.kind, one.step) for one in wrong] == [("hangup", 1)]
    assert "before step 2 (say)" in wrong[0].message


async def test_an_agent_that_hangs_up_before_the_caller_can_has_not_failed() -> None:
    asked = {**HELLO, "expect": {"agent_speaks": True, "heard": "bye"}}
    agent = Agent(answers_after=0.7, hangs_up_at=2.2)
    assert await Case([asked, {"hang_up": True}], agent, words=["Bye."]).failed() == set()


async def test_silence_keeps_no_limit_on_speech() -> None:
    case = Case([{"wait": "2s"}], more={"assert": {"wire": {"greeting_ms": "<=1000", "holes": 0}}})
    wrong = [one for one in await case.findings() if not one.ok]
    assert [(one.kind, one.metric) for one in wrong] == [("metric", "greeting_ms")]
    assert "nothing was measured" in wrong[0].message


async def test_silence_is_not_told_twice() -> None:
    step = {"expect": {"agent_speaks": True, "within": "1s"}}
    case = Case([step], more={"assert": {"wire": {"greeting_ms": "<=1000"}}})
    assert await case.failed() == {"no-answer"}


@pytest.mark.parametrize(
    ("limit", "measured", "ok"),
    [("<=0.1%", 0.14, False), ("<=0.1", 0.1, True), (0, 0.04, False), (0, 0.0, True), (">=0.2", 0.199, False)],
)
def test_a_share_is_held_against_its_limit_to_the_thousandth(limit: Any, measured: float, ok: bool) -> None:
    one = loaded([{"wait": "1s"}], **{"assert": {"wire": {"clipping_pct": {"max": limit}}}})
    [found] = over_all(one, [{"clipping_pct": measured}])
    assert found.ok == ok, found.message


async def test_the_worst_of_several_is_named() -> None:
    steps = [{**HELLO, "expect": {"agent_speaks": True}}, {"wait": "agent_done"}, HELLO, {"wait": "agent_done"}]
    case = Case(steps, spoke(700), {"assert": {"wire": {"v2v_ms": "<=600", "dead_air_max_s": "<=10s"}}})
    metrics = (await case.facts()).metrics
    wrong = [one for one in await case.findings() if one.kind == "metric" and not one.ok]
    assert [one.metric for one in wrong] == ["v2v_ms"]
    assert wrong[0].measured == pytest.approx(max(metrics.samples("v2v_ms")), abs=0.06)
    assert "2 of 2 times" in wrong[0].message
    assert (wrong[0].where, wrong[0].limit) == ("made.yaml:11:5", "<=600")


async def test_words_that_come_too_late_are_late() -> None:
    step = {**HELLO, "expect": {"heard": "nine", "within": "1s"}}
    assert (await Case([step], spoke(900), words=["At nine."]).only()).ok
    found = await Case([step], spoke(1500), words=["At nine."]).only()
    assert (found.kind, found.ok, found.measured) == ("late-answer", False, pytest.approx(1500, abs=21))
    assert "heard 'nine'" in found.message or "nine" in found.message


async def test_keys_that_come_too_late_are_late() -> None:
    step = {"expect": {"dtmf": "123", "within": "2s"}}
    assert (await Case([step], keys(1.0, 1.5, 2.0)).only()).ok
    found = await Case([step], keys(1.0, 1.5, 2.5)).only()
    assert (found.kind, found.ok, found.measured) == ("late-answer", False, pytest.approx(2500, abs=1))


async def test_keys_and_transfers_during_a_wait_are_met_by_what_is_expected_next() -> None:
    agent = Agent(talks=[(0.2, 2.0)], events=[LineEvent(1.0, "dtmf", "7"), LineEvent(1.5, "transfer", "sip:desk")])
    steps = [{"wait": "agent_done"}, {"expect": {"dtmf": "7", "within": "1s"}}]
    assert await Case([*steps, {"expect": {"transfer": "desk", "within": "1s"}}], agent).failed() == set()
    again = [*steps, {"expect": {"dtmf": "7", "within": "1s"}}]
    assert [one.ok for one in await Case(again, agent).findings()] == [True, False]


async def test_of_a_call_that_nobody_answered_no_more_is_said_than_that() -> None:
    steps = [{"expect": {"answer": True}}, {"expect": {"agent_speaks": True}}]
    found = await Case(steps, status=486, log={"ended_how": "486 Busy Here"}).only()
    assert (found.kind, found.ok) == ("answer", False)
    assert found.message == "the call was not answered: 486 Busy Here"


async def test_a_bot_that_refuses_everybody_has_not_refused_a_replayed_token() -> None:
    steps = [{"expect": {"refused": [403]}}]
    tampered = {"target": {"tamper": "replayed_token"}}
    assert (await Case(steps, more=tampered, log={"status": 403}).only()).ok
    found = await Case(steps, more=tampered, status=403).only()
    assert not found.ok
    assert "check its secrets" in found.message
    assert not (await Case(steps, more=tampered, log={"status": 101}).only()).ok


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ({"wait": "agent_speaks"}, "no-answer"),
        ({"wait": "agent_done"}, "no-answer"),
        ({"barge_in": "Stop."}, "no-answer"),
        ({"wait": "hangup"}, "hangup"),
        ({"dtmf": {"digits": "1", "by": "info"}}, "step"),
    ],
)
async def test_what_could_not_be_done_is_of_the_kind_of_its_reason(step: Any, kind: str) -> None:
    assert await Case([step], more={"caller": {"patience": "1s"}}).failed() == {kind}


# --- over the whole call, and over all calls ---------------------------------------------


async def test_words_of_the_whole_call_are_judged_apart_from_the_steps() -> None:
    speech = {"must_hear": ["nine"], "never_hear": [{"regex": "\\bmodel\\b"}]}
    case = Case([HELLO, {"wait": "agent_done"}], spoke(700), {"assert": {"speech": speech}}, words=["At nine."])
    assert [(one.kind, one.ok, one.step) for one in await case.findings()] == [
        ("heard", True, None),
        ("not-heard", True, None),
    ]
    case.words = ["I am a model."]
    assert await case.failed() == {"heard", "not-heard"}
    case.words = None
    assert await case.failed() == {"means"}


def test_percentiles_are_over_the_samples_of_all_calls() -> None:
    one = loaded([{"wait": "1s"}], **{"assert": {"wire": {"v2v_ms": {"p50": "<=800", "p95": "<=1s", "max": "<=2s"}}}})
    calls: list[dict[str, object]] = [{"v2v_ms": [700.0, 750.0]}, {"v2v_ms": [790.0]}, {"v2v_ms": [1300.0]}]
    p50, p95, most = over_all(one, calls)
    assert [found.ok for found in (p50, p95, most)] == [True, False, True]
    assert (p50.measured, most.measured) == (770, 1300)
    assert p95.measured == pytest.approx(1223.5)
    assert "(of 4 only)" in p95.message
    assert p95.where == "made.yaml:8:7"
    [nothing, *_] = over_all(one, [{"v2v_ms": []}, {"v2v_ms": None}])
    assert (nothing.ok, nothing.measured) == (False, None)
