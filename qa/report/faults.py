"""What was asked for and did not come: the failed assertions of a run, worst first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from offhook.qa.running.result import COUNTED, CallReport, Finding, RunReport, ScenarioReport, Verdict

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
    kind: str
    "That of the finding; of a scenario that could not be called, its verdict."
    verdict: Verdict
    "What it makes of the call."

    @property
    def title(self) -> str:
        """`greeting #2`, or `greeting` alone."""
        return self.scenario.name if self.call is None else f"{self.scenario.name} #{self.call.number}"


def faults(report: RunReport, *, gate: bool = True) -> list[Fault]:
    """Everything that failed and counts (`gate=False`: that does not count), the target's own faults first."""
    return sorted(_all(report, gate), key=lambda fault: fault.verdict != Verdict.FAIL)


def together(found: list[Fault]) -> list[list[Fault]]:
    """Those of the same assertion in the calls of one scenario side by side, in the order of the first."""
    groups: dict[tuple[int, str, str, Verdict], list[Fault]] = {}
    for fault in found:
        key = (id(fault.scenario), fault.kind, fault.finding.where, fault.verdict)
        groups.setdefault(key, []).append(fault)
    return list(groups.values())


def _all(report: RunReport, gate: bool) -> Iterator[Fault]:
    for scenario in report.scenarios:
        about: list[tuple[CallReport | None, Finding]] = [(None, finding) for finding in scenario.findings]
        about += [(call, finding) for call in scenario.calls for finding in call.findings]
        for call, finding in about:
            if not finding.ok and finding.gate == gate:
                verdict = Verdict.INVALID if finding.kind in OURS else Verdict.FAIL
                if call is not None and call.verdict not in COUNTED:
                    verdict = call.verdict
                yield Fault(scenario, call, finding, finding.kind, verdict)
        if gate and scenario.reason and scenario.verdict not in (Verdict.PASS, Verdict.SKIPPED):
            why = Finding("means", False, scenario.reason, where=scenario.file)
            yield Fault(scenario, None, why, str(scenario.verdict), scenario.verdict)


def place(where: str) -> tuple[str, int, int]:
    """File, line and column of `file:line:column`; 0 for what is not there."""
    found = _WHERE.fullmatch(where)
    return (found[1], int(found[2]), int(found[3])) if found else (where, 0, 0)
