"""Runs of scenarios against agents without a wire: verdicts, what is skipped, what cannot be run at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.line import Agent, FakePhone, voice

from offhook.qa.caller.script import Script, sound_key
from offhook.qa.phones import link
from offhook.qa.phones.base import CallLog, CallOrder, Operator, Phone, Unreachable
from offhook.qa.phones.carriers import CarrierPhone
from offhook.qa.running import run as module
from offhook.qa.running.result import CallReport, ScenarioReport, Verdict
from offhook.qa.running.run import Progress, Run, RunOptions, conclude, worst
from offhook.qa.scenario.load import Loaded, parse
from offhook.qa.scenario.model import Speech, Target
from offhook.qa.voice import VoiceUnavailable

TO = "sip:bot@192.0.2.1"
ASKED: list[Any] = [{"say": "Hello?", "expect": {"agent_speaks": True, "within": "1s"}}]


def scenario(name: str = "made", steps: list[Any] | None = None, **more: Any) -> Loaded:
    text = {"name": name, "steps": ASKED if steps is None else steps, "target": {"to": TO}} | more
    return parse(yaml.safe_dump(text, sort_keys=False), f"{name}.yaml")


class InTurn(FakePhone):
    """The calls go to these agents in turn."""

    def __init__(self, *agents: Callable[[], Agent | Exception], late: float = 0.0) -> None:
        self._agents = list(agents)
        self._late = late
        self.orders: list[CallOrder] = []
        super().__init__(lambda: Agent())

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        agent = self._agents[len(self.orders) % len(self._agents)]()
        self.orders.append(order)
        if isinstance(agent, Exception):
            raise agent
        log = await FakePhone(lambda: agent).carry(order, operator)
        log.lateness = [self._late] * len(log.lateness)
        return log


def good() -> Agent:
    return Agent(answers_after=0.7)


def late() -> Agent:
    return Agent(answers_after=1.3)


def dead() -> Exception:
    return Unreachable("nobody is at 192.0.2.1; start the bot")


def broken() -> Exception:
    return ValueError("this phone is broken")


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Callable[[Phone], None]:
    """Have this phone opened for every target; sentences are half a second of noise."""

    async def add_speech(self: Script, speech: Speech, *, path: tuple[str | int, ...] = ()) -> None:
        self.sounds[sound_key(speech, self.settings)] = voice(0.5, 1)

    def opened(phone: Phone) -> None:
        monkeypatch.setattr(module, "open_phone", lambda target, **_: phone)

    monkeypatch.setattr(Script, "add_speech", add_speech)
    # A process of its own takes a second to start, each time.
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    return opened


Dial = Callable[[Phone], None]


async def test_a_run_has_all_calls_their_figures_and_files(dial: Dial, tmp_path: Path) -> None:
    dial(InTurn(good, late, good, good))
    told: list[Progress] = []
    loaded = scenario(repeat=4, **{"pass": {"rate": 0.75}, "assert": {"wire": {"v2v_ms": {"p50": "<=800"}}}})
    report = await Run([loaded], RunOptions(folder=tmp_path, jobs=1, audio="failed"), told.append, run_id="r").run()
    [one] = report.scenarios
    assert (report.verdict, one.verdict, one.passed, one.rate, one.reason) == ("pass", "pass", 3, 0.75, "")
    assert [call.verdict for call in one.calls] == ["pass", "fail", "pass", "pass"]
    assert [call.call_id for call in one.calls] == [f"r-made-{number}" for number in (1, 2, 3, 4)]
    assert one.statistics["v2v_ms"]["n"] == report.statistics["v2v_ms"]["n"] == 4
    assert [finding.ok for finding in one.findings] == [True]
    assert [path.name for path in (tmp_path / "calls").iterdir()] == ["made-2.wav"]
    assert one.calls[1].audio == "calls/made-2.wav"
    assert [news.state for news in told if news.number == 2] == ["calling", "judging", "fail"]
    assert (told[-1].done, told[-1].of) == (4, 4)
    assert report.machine["own_late_p99_ms"] == 0


async def test_calls_have_seeds_of_their_own_that_are_the_same_every_time(dial: Dial) -> None:
    phone = InTurn(good)
    dial(phone)
    await Run([scenario(repeat=3)], RunOptions(seed=7, target="sip:other@192.0.2.2", from_number="+1")).run()
    assert sorted(order.seed for order in phone.orders) == [7, 8, 9]
    assert {order.target.to for order in phone.orders} == {"sip:other@192.0.2.2"}
    assert {order.target.from_ for order in phone.orders} == {"+1"}


async def test_no_more_calls_at_once_than_were_allowed(dial: Dial) -> None:
    up = most = 0

    class Counting(FakePhone):
        async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
            nonlocal up, most
            up += 1
            most = max(most, up)
            try:
                return await super().carry(order, operator)
            finally:
                up -= 1

    dial(Counting(good))
    await Run([scenario("a", repeat=3), scenario("b", repeat=2)], RunOptions(jobs=2)).run()
    assert most == 2


async def test_a_late_caller_makes_the_run_invalid_whatever_the_bot_did(dial: Dial) -> None:
    dial(InTurn(late, late=0.08))
    report = await Run([scenario()], RunOptions()).run()
    assert report.verdict == Verdict.INVALID
    assert report.machine["own_late_p99_ms"] == 80
    assert report.statistics == report.scenarios[0].statistics == {}


async def test_nobody_there_is_no_failure_and_counts_for_more(dial: Dial) -> None:
    dial(InTurn(dead, late))
    report = await Run([scenario(repeat=2)], RunOptions(jobs=1)).run()
    [one] = report.scenarios
    assert (report.verdict, one.verdict) == (Verdict.UNREACHABLE, Verdict.UNREACHABLE)
    assert [call.verdict for call in one.calls] == ["unreachable", "fail"]
    assert one.calls[0].findings[0].message == "nobody is at 192.0.2.1; start the bot"


async def test_our_own_mistake_ends_its_call_only_and_blames_nobody(dial: Dial) -> None:
    dial(InTurn(broken, good, good))
    report = await Run([scenario(repeat=3)], RunOptions(jobs=1)).run()
    [one] = report.scenarios
    assert [call.verdict for call in one.calls] == ["invalid", "pass", "pass"]
    assert one.verdict == Verdict.PASS
    assert one.reason == "1 of 3 calls were invalid and do not count"
    message = one.calls[0].findings[0].message
    assert message.startswith("our own mistake: ValueError: this phone is broken (test_run.py:")


async def test_a_recording_that_cannot_be_kept_is_our_own_mistake(dial: Dial, tmp_path: Path) -> None:
    dial(InTurn(good))
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "made-1.wav").write_text("somebody else's")
    report = await Run([scenario()], RunOptions(folder=tmp_path)).run()
    assert report.verdict == Verdict.INVALID
    assert "FileExistsError" in report.scenarios[0].calls[0].findings[0].message


async def test_a_recogniser_that_is_missing_makes_it_invalid(dial: Dial) -> None:
    dial(InTurn(good, late))
    step = {"say": "Hello?", "expect": {"agent_speaks": True, "heard": "nine", "within": "1s"}}
    loaded = scenario(steps=[step], repeat=2, stt={"service": "there-is-none"})
    [one] = (await Run([loaded], RunOptions(jobs=1)).run()).scenarios
    assert [call.verdict for call in one.calls] == ["invalid", "fail"]
    means = [finding for finding in one.calls[0].findings if not finding.ok]
    assert [finding.kind for finding in means] == ["means"]
    assert "there-is-none" in means[0].message
    assert means[0].where.startswith("made.yaml:")


async def test_a_judge_is_not_asked_about_words_that_nobody_understood(dial: Dial) -> None:
    dial(InTurn(good))
    judge = {"ask": "Was it polite?", "llm": {"service": "there-is-none"}, "gate": True}
    loaded = scenario(stt={"service": "there-is-none"}, **{"assert": {"judge": [judge]}})
    report = await Run([loaded], RunOptions()).run()
    assert report.verdict == Verdict.INVALID
    [finding] = [finding for finding in report.scenarios[0].calls[0].findings if finding.kind == "means"]
    assert "recogni" in finding.message or "stt" in finding.message


async def test_without_a_synthesiser_the_run_is_invalid(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = InTurn(good)
    dial(phone)

    async def mute(*_: Any, **__: Any) -> None:
        raise VoiceUnavailable("the caller needs flite or espeak-ng to speak")

    monkeypatch.setattr(Script, "add_speech", mute)
    report = await Run([scenario()], RunOptions()).run()
    assert report.verdict == Verdict.INVALID
    assert report.scenarios[0].reason == "the caller needs flite or espeak-ng to speak"
    assert phone.orders == []


async def test_what_is_for_another_way_is_skipped_and_said(dial: Dial) -> None:
    phone = InTurn(good)
    dial(phone)
    told: list[Progress] = []
    loaded = [scenario("here"), scenario("there", requires=["carrier", "link"]), scenario("words", requires=["stt"])]
    report = await Run(loaded, RunOptions(), told.append).run()
    assert [one.verdict for one in report.scenarios] == ["pass", "skipped", "pass"]
    assert report.scenarios[1].reason == "it needs a target of carrier or link; this is sip"
    assert report.verdict == Verdict.PASS
    assert len(phone.orders) == 2
    assert told[-1].done == told[-1].of == 3


@pytest.mark.parametrize(
    ("to", "steps", "lacking"),
    [
        ("twilio+http://127.0.0.1:9/voice", [{"wait": "answer"}, {"hold": "2s"}], "made.yaml:4:3: needs hold"),
        ("plivo+http://127.0.0.1:9/voice", [{"codec": "PCMA"}], "made.yaml:3:3: needs codec"),
        ("twilio+http://127.0.0.1:9/voice", [{"dtmf": {"digits": "1", "by": "info"}}], "made.yaml:3:3: needs info"),
        ("link+ws://127.0.0.1:9", [{"hold": "2s"}], "made.yaml:3:3: needs hold"),
    ],
)
async def test_what_no_line_of_this_way_can_do_is_refused_before_anybody_is_called(
    monkeypatch: pytest.MonkeyPatch, to: str, steps: list[Any], lacking: str
) -> None:
    called: list[CallOrder] = []

    async def carry(self: Phone, order: CallOrder, operator: Operator) -> CallLog:
        called.append(order)
        raise AssertionError("nobody is to be called")

    for phone in (CarrierPhone, link.LinkPhone):
        monkeypatch.setattr(phone, "carry", carry)
    report = await Run([scenario(steps=steps)], RunOptions(target=to)).run()
    assert report.verdict == Verdict.BAD_SCENARIO
    assert report.scenarios[0].reason.startswith(lacking)
    assert "use a sip: target" in report.scenarios[0].reason
    assert called == []


async def test_keys_in_the_audio_need_nothing_of_a_line(dial: Dial) -> None:
    class Dumb(FakePhone):
        abilities = frozenset()

    dial(Dumb(good))
    steps = [{"dtmf": {"digits": "1", "by": "inband"}}]
    assert (await Run([scenario(steps=steps)], RunOptions()).run()).verdict == Verdict.PASS


async def test_a_target_of_no_known_way_is_a_bad_scenario() -> None:
    report = await Run([scenario()], RunOptions(target="tel:+15550199")).run()
    assert report.verdict == Verdict.BAD_SCENARIO
    assert "SIP trunk" in report.scenarios[0].reason


async def test_a_file_that_holds_no_sound_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "hi.wav").write_bytes(b"RIFF, but not really")
    file = tmp_path / "s.yaml"
    loaded = parse("name: s\nsteps:\n  - say: {wav: hi.wav}\n", file)
    report = await Run([loaded], RunOptions(target=TO)).run()
    assert report.verdict == Verdict.BAD_SCENARIO
    assert report.scenarios[0].reason.startswith(f"{file}:3:11: ")
    assert "hi.wav" in report.scenarios[0].reason


async def test_a_run_that_is_cancelled_hangs_up(dial: Dial) -> None:
    class Slow(FakePhone):
        hung_up = 0

        async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
            try:
                return await super().carry(order, operator)
            finally:
                Slow.hung_up += 1

    dial(Slow(lambda: Agent(talks=[(0.1, 80.0)]), pace=0.005))
    told: list[Progress] = []
    task = asyncio.create_task(Run([scenario(repeat=3, steps=[{"wait": "60s"}])], RunOptions(), told.append).run())
    while len(told) < 3:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert Slow.hung_up == 3


# --- what the calls come to --------------------------------------------------------------


def concluded(verdicts: str, **more: Any) -> ScenarioReport:
    """Of calls that passed (p), failed (f), were invalid (i), unreachable (u) or bad (b)."""
    names = {verdict.value[0]: verdict for verdict in Verdict if verdict != Verdict.SKIPPED}
    metrics = {"v2v_ms": [700.0]}
    calls = [CallReport("made", n, "c", TO, "sip", names[v], metrics=metrics) for n, v in enumerate(verdicts, 1)]
    report = ScenarioReport("made", "made.yaml", Verdict.SKIPPED, calls)
    conclude(report, scenario(**more))
    return report


@pytest.mark.parametrize(
    ("verdicts", "rule", "verdict", "passed"),
    [
        ("p", {}, "pass", 1),
        ("f", {}, "fail", 0),
        ("i", {}, "invalid", 0),
        ("ppf", {}, "fail", 2),
        ("ppf", {"rate": 0.66}, "pass", 2),
        ("ppf", {"rate": 0.67}, "fail", 2),
        ("ppppf", {"rate": "80%"}, "pass", 4),
        ("pppi", {}, "pass", 3),
        ("pii", {}, "invalid", 1),  # what is left was chosen by what went wrong here
        ("fii", {}, "fail", 0),  # a failure is one, however few there are
        ("pu", {}, "unreachable", 1),
        ("fu", {}, "unreachable", 0),
        ("ub", {}, "bad scenario", 0),
        ("iu", {}, "unreachable", 0),
        ("pppp", {"k": 4}, "pass", 4),
        ("pppp", {"k": 5}, "invalid", 4),  # pass^5 of four calls is not known
        ("pppf", {"k": 5}, "fail", 3),  # but it is no more than the rate
        ("pppf", {"k": 2, "rate": 0.5}, "pass", 3),  # 3 of 6 pairs
        ("pppf", {"k": 3, "rate": 0.5}, "fail", 3),  # 1 of 4 triples
        ("ppppi", {"k": 5}, "invalid", 4),
    ],
)
def test_what_calls_come_to(verdicts: str, rule: dict[str, Any], verdict: str, passed: int) -> None:
    report = concluded(verdicts, **{"pass": rule})
    assert (report.verdict, report.passed) == (verdict, passed), report.reason


def test_pass_k_is_the_chance_of_k_in_a_row() -> None:
    assert concluded("pppf", **{"pass": {"k": 2, "rate": 0.5}}).pass_k == 0.5
    assert concluded("pppp", **{"pass": {"k": 5}}).pass_k is None
    assert "pass.k asks for 5 valid calls, and there are 4" in concluded("pppp", **{"pass": {"k": 5}}).reason


def test_a_limit_over_all_calls_fails_a_scenario_whose_calls_pass() -> None:
    report = concluded("pp", **{"assert": {"wire": {"v2v_ms": {"p95": "<=600"}}}})
    assert (report.verdict, report.passed) == (Verdict.FAIL, 2)
    assert [(finding.metric, finding.ok) for finding in report.findings] == [("v2v_ms", False)]


def test_figures_are_of_valid_calls() -> None:
    assert concluded("ppi").statistics["v2v_ms"]["n"] == 2
    assert concluded("i").statistics == {}


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], "skipped"),
        (["skipped", "pass"], "pass"),
        (["pass", "invalid"], "invalid"),
        (["invalid", "fail", "pass"], "fail"),
        (["fail", "unreachable"], "unreachable"),
        (["unreachable", "bad scenario", "fail"], "bad scenario"),
    ],
)
def test_the_verdict_over_several_is_what_must_be_looked_at_first(verdicts: list[str], verdict: str) -> None:
    assert worst([Verdict(one) for one in verdicts]) == verdict


def test_targets_of_the_command_line_go_before_the_scenarios() -> None:
    one = module.aimed(scenario().scenario, RunOptions(target="sip:x@y", repeat=5, stt={"service": "deepgram"}))
    assert (one.target.to, one.repeat, one.stt) == ("sip:x@y", 5, {"service": "deepgram"})
    assert module.aimed(scenario().scenario, RunOptions()).target == Target(to=TO)
