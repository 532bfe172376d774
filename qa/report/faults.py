"""What was asked for and did not come: the failed assertions of a run, worst first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from offhook.qa.running.result import CallReport, Finding, RunReport, ScenarioReport, Verdict

_WHERE: Final = re.compile(r"(.{1,4096}):(\d{1,9}):(\d{1,9})", re.DOTALL)

OURS: Final = frozenset({"caller", "means"})
"""Kinds of findings that say nothing about the target."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed assertion, or why a scenario could not be called at all."""

    scenario: ScenarioReport
    call: CallReport | None
    "None: about all calls together."
    finding: Finding

    @property
    def kind(self) -> str:
        """That of the finding; of a scenario that could not be called, its verdict."""
        return self.finding.kind if self.call is not None or self.finding in self.scenario.findings else self.verdict

    @property
    def verdict(self) -> str:
        """What it makes of the call."""
        if self.call is None and self.finding not in self.scenario.findings:
            return str(self.scenario.verdict)
        return str(Verdict.INVALID if self.finding.kind in OURS else Verdict.FAIL)

    @property
    def title(self) -> str:
        """`greeting #2`, or `greeting` alone."""
        return self.scenario.name if self.call is None else f"{self.scenario.name} #{self.call.number}"


def faults(report: RunReport, *, gate: bool = True) -> list[Fault]:
    """Everything that failed and counts (`gate=False`: that does not count), the target's own faults first."""
    return sorted(_all(report, gate), key=lambda fault: fault.verdict != Verdict.FAIL)


def _all(report: RunReport, gate: bool) -> Iterator[Fault]:
    for scenario in report.scenarios:
        about: list[tuple[CallReport | None, Finding]] = [(None, finding) for finding in scenario.findings]
        about += [(call, finding) for call in scenario.calls for finding in call.findings]
        for call, finding in about:
            if not finding.ok and finding.gate == gate:
                yield Fault(scenario, call, finding)
        if gate and scenario.reason and scenario.verdict not in (Verdict.PASS, Verdict.SKIPPED):
            yield Fault(scenario, None, Finding("means", False, scenario.reason, where=scenario.file))


def place(where: str) -> tuple[str, int, int]:
    """File, line and column of `file:line:column`; 0 for what is not there."""
    found = _WHERE.fullmatch(where)
    return (found[1], int(found[2]), int(found[3])) if found else (where, 0, 0)
