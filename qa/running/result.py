"""What a run found: findings of a call, calls of a scenario, scenarios of a run. JSON all the way down."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Final, Literal


class Verdict(StrEnum):
    """How something came out."""

    PASS = "pass"  # noqa: S105  # no password
    SKIPPED = "skipped"
    FAIL = "fail"
    INVALID = "invalid"
    "The caller itself misbehaved, or a recogniser or judge was not there: nothing is said about the target."
    UNREACHABLE = "unreachable"
    BAD_SCENARIO = "bad scenario"


COUNTED: Final = (Verdict.PASS, Verdict.FAIL)
"""Verdicts of calls that say something about the target."""

EXIT_CODE: Final = {
    Verdict.PASS: 0,
    Verdict.SKIPPED: 0,
    Verdict.FAIL: 1,
    Verdict.BAD_SCENARIO: 2,
    Verdict.UNREACHABLE: 3,
    Verdict.INVALID: 4,
}
"""Exit code of `offhook qa run`: of the worst there was; a failure counts for more than an invalid call."""

Kind = Literal[
    "answer",
    "refused",
    "late-answer",  # voice-to-voice, greeting or any `within` exceeded
    "no-answer",  # the agent said nothing at all
    "unwanted-speech",  # agent_speaks: false
    "ignored-barge-in",  # did not stop, or later than asked
    "stopped-for-backchannel",
    "heard",
    "not-heard",
    "dropped-digit",  # keys differ from those that were pressed or expected
    "transfer",
    "hangup",
    "cut-tail",
    "metric",  # a wire assertion; `metric` names it
    "judge",
    "step",  # a step could not be done
    "timeout",
    "caller",  # the caller misbehaved: late frames, audio not as scripted
    "means",  # a recogniser, voice or judge was not there
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was asked for, and what came of it."""

    kind: Kind
    ok: bool
    message: str
    "A whole sentence: what was expected and what was measured, with units."
    step: int | None = None
    "Index of the step; None: about the whole call."
    at: float | None = None
    "Track second to look at."
    name: str = ""
    "`as` of the expectation."
    metric: str = ""
    measured: float | None = None
    limit: str = ""
    "Such as `<=1500ms`."
    where: str = ""
    "file:line:column of the assertion."
    gate: bool = True
    "False: reported, and not counted."

    @property
    def failed(self) -> bool:
        """It was not so, and that counts."""
        return self.gate and not self.ok


@dataclass(slots=True)
class CallReport:
    """One call, judged."""

    scenario: str
    number: int
    "From 1, of the scenario's `repeat`."
    call_id: str
    target: str
    way: str
    verdict: Verdict
    findings: list[Finding] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    "As `Metrics.as_dict()`: scalars, and lists of samples for what happens several times a call (`v2v_ms`)."
    turns: list[dict[str, Any]] = field(default_factory=list)
    "In order: {who: caller|agent, start, end, text, name, v2v_ms?, barge_stop_ms?, cut?}."
    ladder: list[dict[str, Any]] = field(default_factory=list)
    timeline: dict[str, Any] = field(default_factory=dict)
    "Events, holes, DTMF both ways, steps: {at, what, detail}."
    seconds: float = 0.0
    status: int = 0
    ended: str = ""
    began: float = 0.0
    "Unix seconds."
    audio: str = ""
    "Path of the stereo WAV, relative to the run's folder."
    capture: str = ""
    "Path of the pcap."
    peaks: dict[str, list[float]] = field(default_factory=dict)
    "`caller` and `agent`: loudest sample of every 20 ms, 0 to 1, for drawing."


@dataclass(slots=True)
class ScenarioReport:
    """All calls of one scenario."""

    name: str
    file: str
    verdict: Verdict
    calls: list[CallReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    "About all calls together: limits on percentiles."
    reason: str = ""
    "Why it was skipped, invalid, or could not be called at all."
    passed: int = 0
    rate: float = 0.0
    pass_k: float | None = None
    statistics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    "Metric → {n, p50, p90, p95, p99, max, p95_low, p95_high}: of all samples; `_low`, `_high` by bootstrap."


@dataclass(slots=True)
class RunReport:
    """One run of `offhook qa run`, as in its `run.json`."""

    run_id: str
    began: float
    seconds: float
    target: str
    verdict: Verdict
    scenarios: list[ScenarioReport] = field(default_factory=list)
    statistics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    "Over all scenarios."
    machine: dict[str, Any] = field(default_factory=dict)
    "Versions, Python, CPUs, the caller's own lateness."
    schema: int = 1


def this_machine() -> dict[str, Any]:
    """What a report says of the machine that the calls were made from."""
    return {
        "offhook": version("offhook"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }
