"""Two runs side by side: what got worse beyond noise, what got better, which scenarios changed their verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.running.folder import read_run
from offhook.qa.running.result import RunReport, ScenarioReport, Verdict
from offhook.qa.running.statistics import Difference, difference

if TYPE_CHECKING:
    from rich.console import Console

SLACK: Final = {"ms": 20.0, "s": 0.1, "pct": 1.0, "MOS": 0.1, "": 0.5}
"""Smaller changes are none, by unit: what the dialer's own calibration leaves open."""

EVERYTHING: Final = "all scenarios"


@dataclass(frozen=True, slots=True)
class Changed:
    """A scenario whose verdict differs."""

    scenario: str
    before: str
    after: str

    @property
    def worse(self) -> bool:
        """It passed and fails now."""
        return self.before == Verdict.PASS and self.after == Verdict.FAIL


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


def compare_files(before: Path, after: Path) -> Comparison:
    """Compare two runs by their folders or files. Raises NoRun."""
    return compare(read_run(before), read_run(after))


def compare(before: RunReport, after: RunReport) -> Comparison:
    """Compare two runs."""
    found = Comparison(before.run_id, after.run_id)
    found.differences[EVERYTHING] = list(_differences(before.scenarios, after.scenarios))
    later = {one.name: one for one in after.scenarios}
    for old in before.scenarios:
        new = later.get(old.name)
        if new is None:
            found.missing.append(old.name)
            continue
        if old.verdict != new.verdict:
            found.changed.append(Changed(old.name, old.verdict, new.verdict))
        found.differences[old.name] = list(_differences([old], [new]))
    return found


def _differences(before: list[ScenarioReport], after: list[ScenarioReport]) -> Iterator[Difference]:
    old, new = _samples(before), _samples(after)
    for name, metric in METRICS.items():
        if name in old and name in new and metric.better:
            slack = SLACK[metric.unit]
            one = difference(name, old[name], new[name], slack=slack, higher_is_worse=metric.better == "low")
            if one is not None:
                yield one


def _samples(reports: list[ScenarioReport]) -> dict[str, list[float]]:
    """Every metric's samples over the calls that count."""
    found: dict[str, list[float]] = {}
    for report in reports:
        for call in report.calls:
            if call.verdict in (Verdict.PASS, Verdict.FAIL):
                for name, value in call.metrics.items():
                    values = value if isinstance(value, list) else [value]
                    found.setdefault(name, []).extend(
                        float(item) for item in values if isinstance(item, int | float) and not isinstance(item, bool)
                    )
    return found
