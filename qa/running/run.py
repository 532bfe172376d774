"""A run: scenarios called side by side, each call judged as soon as it is over.

Theory of operation
-------------------
Calls are made in this process, for their frames must be on time; what costs CPU afterwards (measuring, recognising,
drawing) happens in another, at low priority. Every scenario has a phone of its own. The calls of a run are begun in the
order of the scenarios, `jobs` at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from offhook.agents.api import SettingsError
from offhook.qa.caller.machine import Caller, needs
from offhook.qa.caller.persona import Talker, open_talker
from offhook.qa.caller.script import Script, ScriptError, prepare
from offhook.qa.measuring.packets import percentile
from offhook.qa.measuring.speech import Recogniser
from offhook.qa.phones.base import CallOrder, Phone, Unable, Unreachable
from offhook.qa.phones.targets import open_phone, unmet
from offhook.qa.running.evidence import Evidence, Keep, judge_call
from offhook.qa.running.result import COUNTED, CallReport, Finding, RunReport, ScenarioReport, Verdict, this_machine
from offhook.qa.running.statistics import gathered, pass_power
from offhook.qa.running.verdict import over_all
from offhook.qa.scenario.load import Loaded
from offhook.qa.scenario.model import Scenario, Target
from offhook.qa.voice import VoiceUnavailable

JOBS: Final = 10
"""Calls at once. A bot that takes fewer says so by refusing."""

WORST_FIRST: Final = (Verdict.BAD_SCENARIO, Verdict.UNREACHABLE, Verdict.FAIL, Verdict.INVALID, Verdict.PASS)

NICE: Final = 10
"""By how much judging yields to calling."""

FEWEST_VALID: Final = 0.5
"""Share of a scenario's calls that must be valid: fewer are a selection, made by what went wrong here."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to the scenarios."""

    target: str = ""
    "Goes before the scenarios' own `target.to`."
    from_number: str = ""
    number: str = ""
    public_url: str = ""
    credentials: Mapping[str, Any] = field(default_factory=dict)
    "Keyword arguments of `open_phone`: auth_token, username, password …"
    repeat: int | None = None
    jobs: int = JOBS
    seed: int = 1
    folder: Path | None = None
    "Where recordings, captures and reports go; None: nowhere."
    audio: Keep = "all"
    "Whose recordings and captures are kept."
    cache: Path | None = None
    "Where synthesised speech is kept; None: the default."
    stt: Mapping[str, Any] = field(default_factory=dict)
    "Recogniser instead of the scenarios' own."


@dataclass(frozen=True, slots=True)
class Progress:
    """Something happened in a run."""

    scenario: str
    number: int
    state: str
    "calling, judging, or the verdict."
    done: int
    of: int
    call: CallReport | None = None


@dataclass(frozen=True, slots=True)
class _Means:
    """What all calls of a run share for being judged."""

    examiner: ProcessPoolExecutor
    recogniser: Recogniser


OnProgress = Callable[[Progress], None]


def _ignore(progress: Progress) -> None:
    """Nobody looks on."""


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict over several: that which must be looked at first; skipped when there is nothing else."""
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), Verdict.SKIPPED)


def aimed(scenario: Scenario, options: RunOptions) -> Scenario:
    """The scenario with what the command line says about its target."""
    given: dict[str, Any] = {
        "to": options.target,
        "from_": options.from_number,
        "number": options.number,
        "public_url": options.public_url,
    }
    changes = {name: value for name, value in given.items() if value}
    target: Target = scenario.target.model_copy(update=changes)
    more: dict[str, Any] = {"target": target}
    if options.repeat is not None:
        more["repeat"] = options.repeat
    if options.stt:
        more["stt"] = dict(options.stt)
    return scenario.model_copy(update=more)


def said(scenario: Scenario) -> dict[int, str]:
    """Step → the words that the caller says in it; of a file or a sound, its name."""
    found = {}
    for index, step in enumerate(scenario.steps):
        speech = step.say or step.barge_in or step.backchannel
        if speech is not None:
            found[index] = speech.text or f"({speech.wav or speech.sound})"
    return found


def _examiner() -> None:
    """The process that measures yields to calling; it ends when its parent says so, and not by itself at Ctrl-C."""
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Run:
    """One run of scenarios."""

    def __init__(
        self, scenarios: Sequence[Loaded], options: RunOptions, on_progress: OnProgress = _ignore, *, run_id: str = ""
    ) -> None:
        self.options = options
        self.run_id = run_id or time.strftime("%Y%m%d-%H%M%S")
        self._scenarios = [replace(one, scenario=aimed(one.scenario, options)) for one in scenarios]
        self._on_progress = on_progress
        self._jobs = asyncio.Semaphore(options.jobs)
        self._done = 0
        self._of = sum(one.scenario.repeat for one in self._scenarios)
        self._lateness: list[float] = []

    async def run(self) -> RunReport:
        """Make all calls and judge them. Never raises for what a target or a scenario does."""
        began, clock = time.time(), time.monotonic()
        if self.options.folder is not None:
            (self.options.folder / "calls").mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_examiner) as examiner:
            async with Recogniser() as recogniser:
                means = _Means(examiner, recogniser)
                reports = await asyncio.gather(*(self._scenario(loaded, means) for loaded in self._scenarios))
        report = RunReport(
            run_id=self.run_id,
            began=began,
            seconds=round(time.monotonic() - clock, 3),
            target=self.options.target or ", ".join(sorted({one.scenario.target.to for one in self._scenarios})),
            verdict=worst([one.verdict for one in reports]),
            scenarios=list(reports),
        )
        report.statistics = gathered(call.metrics for one in reports for call in one.calls if call.verdict in COUNTED)
        late_ms = (percentile(self._lateness, 99) or 0.0) * 1000
        report.machine = {**this_machine(), "own_late_p99_ms": round(late_ms, 3)}
        return report

    async def _scenario(self, loaded: Loaded, means: _Means) -> ScenarioReport:
        scenario = loaded.scenario
        report = ScenarioReport(scenario.name, str(loaded.path), Verdict.SKIPPED)
        try:
            lacks = unmet(scenario)
            report.reason = f"it {lacks}" if lacks else ""
            if not report.reason:
                script = await prepare(scenario, loaded.folder, cache=self.options.cache)
                async with open_phone(scenario.target, **self.options.credentials) as phone:
                    _check_abilities(loaded, phone)
                    numbers = range(1, scenario.repeat + 1)
                    calls = (self._call(phone, loaded, script, number, means) for number in numbers)
                    report.calls = list(await asyncio.gather(*calls))
        except Unable as error:
            report.verdict, report.reason = Verdict.BAD_SCENARIO, str(error)
        except Unreachable as error:
            report.verdict, report.reason = Verdict.UNREACHABLE, str(error)
        except ScriptError as error:
            report.verdict, report.reason = Verdict.BAD_SCENARIO, f"{loaded.where(*error.path)}: {error}"
        except VoiceUnavailable as error:
            report.verdict, report.reason = Verdict.INVALID, str(error)
        if report.reason:
            self._done += scenario.repeat
            self._on_progress(Progress(scenario.name, 0, report.verdict, self._done, self._of))
        else:
            conclude(report, loaded)
        return report

    async def _call(self, phone: Phone, loaded: Loaded, script: Script, number: int, means: _Means) -> CallReport:
        scenario = loaded.scenario
        call_id = f"{self.run_id}-{scenario.name}-{number}"
        async with self._jobs:
            self._tell(scenario, number, "calling")
            seed = self.options.seed + number - 1
            order = CallOrder(scenario.target, scenario.media, call_id, seed=seed, timeout=scenario.timeout)
            try:
                async with _persona(scenario, script, means.recogniser) as talker:
                    caller = Caller(scenario, script, seed, persona=talker)
                    log = await phone.carry(order, caller)
            except Unreachable as error:
                return self._unmade(
                    order, loaded, number, phone, Verdict.UNREACHABLE, Finding("answer", False, str(error))
                )
            except (Unable, SettingsError) as error:
                return self._unmade(
                    order, loaded, number, phone, Verdict.BAD_SCENARIO, Finding("step", False, str(error))
                )
            except Exception as error:  # a call's root: one that broke here must not end the others, and is told
                return self._unmade(order, loaded, number, phone, Verdict.INVALID, _mistake(error))
        self._lateness += log.lateness
        self._tell(scenario, number, "judging")
        lacked = talker.failed if talker is not None else ""
        evidence = Evidence(loaded, number, log, caller.record, script.sounds, said(scenario), lacked)
        folder, keep = self.options.folder, self.options.audio
        try:
            report = await judge_call(evidence, means.examiner, means.recogniser, folder=folder, keep=keep)
        except Exception as error:  # as above
            return self._unmade(order, loaded, number, phone, Verdict.INVALID, _mistake(error))
        self._done += 1
        self._tell(scenario, number, report.verdict, report)
        return report

    def _unmade(
        self, order: CallOrder, loaded: Loaded, number: int, phone: Phone, verdict: Verdict, finding: Finding
    ) -> CallReport:
        """Report a call that was not made, or not judged."""
        name, to = loaded.scenario.name, order.target.to
        report = CallReport(name, number, order.call_id, to, phone.way, verdict, [finding], began=time.time())
        self._done += 1
        self._tell(loaded.scenario, number, verdict, report)
        return report

    def _tell(self, scenario: Scenario, number: int, state: str, call: CallReport | None = None) -> None:
        self._on_progress(Progress(scenario.name, number, state, self._done, self._of, call))


def _check_abilities(loaded: Loaded, phone: Phone) -> None:
    """Raise Unable where a scenario needs what no line of this phone can do."""
    scenario = loaded.scenario
    for number, step in enumerate(scenario.steps):
        lacking = sorted(needs(scenario.model_copy(update={"steps": [step]})) - phone.abilities)
        if lacking:
            raise Unable(
                f"{loaded.where('steps', number)}: needs {' and '.join(lacking)}, which a target of {phone.way} has "
                "not; use a sip: target, or say under `requires` which ways the scenario is for"
            )


def _mistake(error: Exception) -> Finding:
    """A fault of this very program, which says nothing about the target."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Finding("caller", False, f"our own mistake: {type(error).__name__}: {error}{at}")


@asynccontextmanager
async def _persona(scenario: Scenario, script: Script, recogniser: Recogniser) -> AsyncGenerator[Talker | None, None]:
    """Who plays the caller, where the scenario has a persona. Raises SettingsError."""
    if scenario.caller.persona is None:
        yield None
        return
    async with open_talker(scenario, script, recogniser) as talker:
        yield talker


def conclude(report: ScenarioReport, loaded: Loaded) -> None:
    """Fill in what follows from the calls: how many passed, and what the scenario comes to.

    Invalid calls count neither way; a scenario that passes by less than half of its calls is invalid itself.
    """
    verdicts = [call.verdict for call in report.calls]
    hard = [verdict for verdict in verdicts if verdict in (Verdict.BAD_SCENARIO, Verdict.UNREACHABLE)]
    counted = [verdict for verdict in verdicts if verdict in COUNTED]
    valid = [call.metrics for call in report.calls if call.verdict in COUNTED]
    report.findings = over_all(loaded, valid) if valid else []
    report.passed = counted.count(Verdict.PASS)
    report.rate = report.passed / len(counted) if counted else 0.0
    report.statistics = gathered(valid)
    rule = loaded.scenario.pass_
    if rule.k is not None:
        report.pass_k = pass_power(report.passed, len(counted), rule.k)
    invalid = f"{len(verdicts) - len(counted)} of {len(verdicts)} calls were invalid and do not count"
    held = all(finding.ok for finding in report.findings)
    if hard:
        report.verdict = worst(hard)
    elif not counted:
        report.verdict = Verdict.INVALID
    elif report.rate < rule.rate or not held:  # pass^k is never more than the rate
        report.verdict = Verdict.FAIL
    elif rule.k is not None and report.pass_k is None:
        report.verdict = Verdict.INVALID
        report.reason = f"pass.k asks for {rule.k} valid calls, and there are {len(counted)}: raise `repeat`"
    elif report.pass_k is not None and report.pass_k < rule.rate:
        report.verdict = Verdict.FAIL
    elif len(counted) < FEWEST_VALID * len(verdicts):
        report.verdict = Verdict.INVALID
        report.reason = f"{invalid}: too few are left"
    else:
        report.verdict = Verdict.PASS
        report.reason = invalid if len(counted) < len(verdicts) else ""
