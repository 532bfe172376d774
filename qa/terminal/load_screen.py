"""A load in the terminal: how far it is and how the bot bears it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from offhook.qa.running import load
from offhook.qa.running.knee import Window
from offhook.qa.running.result import Verdict
from offhook.qa.terminal.run_screen import COLOURS
from offhook.qa.terminal.screen import Screen

FIGURES: Final = (("v2v_p95", "v2v p95"), ("greeting_p95", "greeting p95"), ("packet_gap_p99", "packet gap p99"))
"""Columns of the table of windows, in ms."""

MOST_WINDOWS: Final = 40
MOST_FAILURES: Final = 8


class LoadScreen(Screen):
    """Shows a load; a context manager around it."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet)
        self._told: float = -1.0

    def progress(self, news: load.Progress) -> None:
        """Take what the load says."""
        late = "" if news.late_ms is None else f", we are {news.late_ms:.1f} ms late"
        text = f"{news.rate:.1f}/s, {news.under_way} at once, {news.ended} done, {news.failed} failed{late}"
        self._show(min(news.seconds, news.of), news.of or None, text)
        window = news.window
        if window is not None and window.start > self._told and not self._quiet:
            self._told = window.start
            self._bar.console.print(_line(window), highlight=False)

    def conclude(self, report: load.LoadReport, folder: Path) -> None:
        """Print the whole load."""
        table = Table(title=escape(report.target), title_justify="left", pad_edge=False)
        table.add_column("from s", justify="right")
        table.add_column("calls\nat once", justify="right")
        table.add_column("failed", justify="right")
        table.add_column("not\ncounted", justify="right")
        for _, title in FIGURES:
            table.add_column(f"{title}\nms", justify="right")
        table.add_column("target's\ncores", justify="right")
        table.add_column("we are late\nms", justify="right")
        table.add_column("")
        step = -(-len(report.windows) // MOST_WINDOWS) or 1
        for first in range(0, len(report.windows), step):
            some = report.windows[first : first + step]
            window = next((one for one in some if one.broken or one.doubtful), some[0])
            figures = [_figure(window.figures.get(name)) for name, _ in FIGURES]
            word = "[yellow]doubtful[/yellow]" if window.doubtful else "[red]bad[/red]" if window.broken else ""
            row = [f"{window.start:.0f}", f"{window.calls:.0f}", str(window.failed), str(window.late or "-"), *figures]
            table.add_row(*row, _figure(window.cores, 2), _figure(window.late_ms, 1), word)
        self.console.print(table)
        for why, times in sorted(report.failures.items(), key=lambda item: -item[1])[:MOST_FAILURES]:
            self.console.print(f"  {times} calls: {why}", markup=False, soft_wrap=True)
        for why, times in report.mistakes.items():
            self.console.print(f"  our own: {times} calls: {why}", style="yellow", markup=False, soft_wrap=True)
        if report.knee is not None:
            self.console.print(str(report.knee), style="bold", highlight=False, markup=False, soft_wrap=True)
        if report.late:
            late = f"{report.late} calls count neither way: our own frames of them were late"
            self.console.print(late, style="yellow", highlight=False, markup=False, soft_wrap=True)
        colour = COLOURS[Verdict(report.verdict)]
        why = escape(f": {report.reason}" if report.reason else "")
        page = escape(str(folder / "load.html"))
        told = f"{report.ended} of {report.planned} calls in {report.seconds:.0f} s. Report: {page}"
        self.console.print(f"[{colour}]{report.verdict}[/{colour}]{why}; {told}", highlight=False, soft_wrap=True)


def _figure(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(window: Window) -> str:
    figures = ", ".join(f"{title} {_figure(window.figures.get(name))} ms" for name, title in FIGURES)
    word = " [yellow]doubtful[/yellow]" if window.doubtful else ""
    word += f" [yellow]{window.late} calls not counted, we were late[/yellow]" if window.late else ""
    broken = f" [red]{escape('; '.join(window.broken))}[/red]" if window.broken else ""
    return f"[dim]{window.start:6.0f} s[/dim] {window.calls:4.0f} at once, {figures}{word}{broken}"
