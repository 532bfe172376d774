"""Two runs side by side: what got worse beyond noise, what got better, which scenarios changed their verdict.

Theory of operation
-------------------
Hundreds of figures are compared, and of hundreds some differ much by chance alone. A difference counts when three
things are true: it is greater than the dialer's own error, the bootstrap's interval of it leaves out zero, and a
permutation test finds it so rare that not one in twenty comparisons of a bot with itself has any like it. Half of that
chance is for the figures of all scenarios together, which need some seven calls a run to be judged at all; half for
those of each scenario, which need some ten.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.running.result import COUNTED, RunReport, ScenarioReport, Verdict
from offhook.qa.running.statistics import Difference, beyond_chance, difference, samples_of

if TYPE_CHECKING:
    from rich.console import Console

SLACK: Final = {"ms": 20.0, "s": 0.1, "pct": 1.0, "MOS": 0.1, "": 0.5}
"""Smaller changes are none, by unit: what the dialer's own calibration leaves open."""

EVERYTHING: Final = "all scenarios"

MISTAKEN: Final = 0.05
"""Share of comparisons of a bot with itself in which something is called worse or better."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A scenario whose verdict differs."""

    scenario: str
    before: str
    after: str

    @property
    def worse(self) -> bool:
        """It passed, and fails now or is not there any more."""
        return self.before == Verdict.PASS and self.after in (Verdict.FAIL, Verdict.UNREACHABLE)


@dataclass(slots=True)
class Comparison:
    """What differs between two runs."""

    before: str
    after: str
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    "By scenario; `all scenarios` has the metrics of all calls."
    changed: list[Changed] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    "Scenarios of the earlier run that the later one has not."

    @property
    def worse(self) -> bool:
        """Something is worse beyond noise."""
        return any(change.worse for change in self.changed) or any(
            one.worse for found in self.differences.values() for one in found
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "worse": self.worse}

    def show(self, console: Console) -> None:
        """Print it."""
        from rich.table import Table

        table = Table(title=f"{self.before} → {self.after}", title_justify="left")
        for name in ("scenario", "metric", "p95 before", "p95 after", "change, 95 % interval", ""):
            table.add_column(name, justify="right" if "p95" in name else "left")
        for scenario, found in self.differences.items():
            for one in found:
                if one.worse or one.better or scenario == EVERYTHING:
                    word = "[red]worse[/red]" if one.worse else "[green]better[/green]" if one.better else "same"
                    interval = f"{one.low:+.1f} … {one.high:+.1f}"
                    table.add_row(scenario, one.metric, f"{one.before:.1f}", f"{one.after:.1f}", interval, word)
        console.print(table)
        for change in self.changed:
            colour = "red" if change.worse else "yellow"
            console.print(f"[{colour}]{change.scenario}: {change.before} → {change.after}[/{colour}]")
        for name in self.missing:
            console.print(f"[yellow]{name} was not run again[/yellow]")
        console.print("[red]worse[/red]" if self.worse else "[green]no worse[/green]")


def compare(before: RunReport, after: RunReport) -> Comparison:
    """Compare two runs."""
    found = Comparison(before.run_id, after.run_id)
    later = {one.name: one for one in after.scenarios}
    pairs = []
    for old in before.scenarios:
        new = later.get(old.name)
        if new is None:
            found.missing.append(old.name)
            continue
        if old.verdict != new.verdict:
            found.changed.append(Changed(old.name, old.verdict, new.verdict))
        pairs.append((old, new))
    found.differences[EVERYTHING] = _differences([pairs])[0]
    each = _differences([[pair] for pair in pairs]) if len(pairs) > 1 else [[]] * len(pairs)
    found.differences |= {old.name: differences for (old, _), differences in zip(pairs, each, strict=True)}
    return found


Pairs = list[tuple[ScenarioReport, ScenarioReport]]


def _differences(groups: list[Pairs]) -> list[list[Difference]]:
    """Of each group of scenarios, every metric of both runs; what is beyond chance, among all of them, is marked."""
    found: list[list[Difference]] = []
    strata = []
    for pairs in groups:
        sides = [(_samples(old), _samples(new)) for old, new in pairs]
        rows = []
        for name, metric in METRICS.items():
            calls = [(old.get(name, []), new.get(name, [])) for old, new in sides if name in old and name in new]
            old, new = ([value for run in calls for samples in run[side] for value in samples] for side in (0, 1))
            if metric.better:
                slack = SLACK[metric.unit]
                one = difference(name, old, new, slack=slack, higher_is_worse=metric.better == "low")
                if one is not None:
                    rows.append(one)
                    strata.append(calls)
        found.append(rows)
    level = MISTAKEN / 2 / max(1, len(strata))
    tests = iter(strata)
    return [[_sure(one, next(tests), level) for one in rows] for rows in found]


def _sure(one: Difference, strata: list[tuple[list[list[float]], list[list[float]]]], level: float) -> Difference:
    if not (one.worse or one.better):
        return one
    if beyond_chance(strata, level=level, higher_is_worse=METRICS[one.metric].better == "low"):
        return one
    return replace(one, worse=False, better=False)


def _samples(report: ScenarioReport) -> dict[str, list[list[float]]]:
    """Every metric's samples, call by call, of the calls that count."""
    found: dict[str, list[list[float]]] = {}
    for call in report.calls:
        if call.verdict in COUNTED:
            for name, value in call.metrics.items():
                if samples := samples_of(value):
                    found.setdefault(name, []).append(samples)
    return found
