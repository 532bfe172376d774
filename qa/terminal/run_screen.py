"""A run in the terminal: what goes on while it lasts, and what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from offhook.qa.running import run
from offhook.qa.running.result import RunReport, ScenarioReport, Verdict
from offhook.qa.terminal.screen import Screen

COLOURS: Final = {
    Verdict.PASS: "green",
    Verdict.SKIPPED: "dim",
    Verdict.FAIL: "red",
    Verdict.INVALID: "yellow",
    Verdict.UNREACHABLE: "yellow",
    Verdict.BAD_SCENARIO: "red",
}

COLUMNS: Final = (("greeting_ms", "greeting"), ("v2v_ms", "v2v"), ("barge_stop_ms", "barge-in stop"))
"""Metrics in the table of scenarios, p50 and p95 in ms."""

MOST_FINDINGS: Final = 5
"""Of one scenario that are printed; the report has all."""


class RunScreen(Screen):
    """Shows a run; a context manager around it. Nothing moves where the console is no terminal."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, MofNCompleteColumn(), quiet=quiet)
        self._live: dict[tuple[str, int], str] = {}

    def progress(self, news: run.Progress) -> None:
        """Take what the run says."""
        call = (news.scenario, news.number)
        if news.state in ("calling", "judging"):
            self._live[call] = news.state
        else:
            self._live.pop(call, None)
            if not self._quiet:
                self._say(news)
        calling = sum(state == "calling" for state in self._live.values())
        self._show(news.done, news.of, f"{calling} calling")

    def _say(self, news: run.Progress) -> None:
        colour = COLOURS.get(Verdict(news.state), "")
        number = f" #{news.number}" if news.number else ""
        failed = [finding for finding in news.call.findings if finding.failed] if news.call else []
        why = f": {failed[0].message}" if failed else ""
        line = f"[{colour}]{news.state:>11}[/{colour}]  {escape(news.scenario)}{number}{escape(why)}"
        self._bar.console.print(line, highlight=False)

    def conclude(self, report: RunReport, folder: Path) -> None:
        """Print the whole run."""
        table = Table(title=escape(report.target), title_justify="left", pad_edge=False)
        table.add_column("scenario")
        table.add_column("")
        table.add_column("calls", justify="right")
        for _, title in COLUMNS:
            table.add_column(f"{title} ms\np50 / p95", justify="right")
        table.add_column("dead air\nmax s", justify="right")
        table.add_column("MOS", justify="right")
        for one in report.scenarios:
            colour = COLOURS[one.verdict]
            made = f"{one.passed}/{len(one.calls)}" if one.calls else "-"
            figures = [_pair(one, metric) for metric, _ in COLUMNS]
            rest = [_single(one, "dead_air_max_s", "max"), _single(one, "mos_e", "p50")]
            table.add_row(escape(one.name), f"[{colour}]{one.verdict}[/{colour}]", made, *figures, *rest)
        self.console.print(table)
        for one in report.scenarios:
            self._explain(one)
        late = report.machine.get("own_late_p99_ms")
        self.console.print(
            f"[{COLOURS[report.verdict]}]{report.verdict}[/{COLOURS[report.verdict]}] in {report.seconds:.1f} s; "
            f"the caller's own frames were late by {late} ms (p99). Report: {escape(str(folder / 'report.html'))}",
            highlight=False,
            soft_wrap=True,
        )

    def _explain(self, one: ScenarioReport) -> None:
        if one.reason:
            self.console.print(f"  {one.name}: {one.reason}", markup=False, soft_wrap=True)
        said: dict[str, int] = {}
        for findings in (one.findings, *(call.findings for call in one.calls)):
            for finding in findings:
                if finding.failed:
                    where = f" ({finding.where})" if finding.where else ""
                    line = f"  {one.name}: {finding.kind}: {finding.message}{where}"
                    said[line] = said.get(line, 0) + 1
        for line, times in list(said.items())[:MOST_FINDINGS]:
            self.console.print(line + (f" [{times} times]" if times > 1 else ""), markup=False, soft_wrap=True)
        if len(said) > MOST_FINDINGS:
            self.console.print(f"  {one.name}: and {len(said) - MOST_FINDINGS} more", markup=False)


def _pair(one: ScenarioReport, metric: str) -> str:
    found = one.statistics.get(metric, {})
    p50, p95 = found.get("p50"), found.get("p95")
    return f"{p50:.0f} / {p95:.0f}" if p50 is not None and p95 is not None else "-"


def _single(one: ScenarioReport, metric: str, which: str) -> str:
    value = one.statistics.get(metric, {}).get(which)
    return "-" if value is None else f"{value:.2f}"
