"""The demo on a terminal: the conversation as it happens, then what was measured. Works without a terminal, too."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from offhook.codecs.pcm import dbfs
from offhook.gateway.demo_judge import Check, TurnRow
from offhook.gateway.latency import STAGE_HEADS
from offhook.qa.activity import WINDOW_BYTES

MAX_WIDTH: Final = 100
"""Columns; longer lines are hard to read."""

BARS: Final = " ▁▂▃▄▅▆▇█"
METER: Final = 16
"""Bars of a level meter, 100 ms each."""

QUIETEST_DBFS: Final = -50.0
LOUDEST_DBFS: Final = -12.0

WIRE_AND_RECORD: Final = """\
    wire: the caller's last audible sample → the agent's first, as heard
    record: the end of the caller's voice as it arrived here → the agent's
    first sound, as heard; the sum of its stages"""

STYLES: Final = {"caller": "cyan", "agent": "green", "heard": "dim cyan"}


class Meter:
    """The level of one voice over the last seconds, as a row of bars."""

    def __init__(self) -> None:
        self._bars: deque[str] = deque(BARS[0] * METER, METER)

    def feed(self, pcm: bytes) -> None:
        """Take the next 100 ms or so."""
        peak = max((dbfs(pcm[at : at + WINDOW_BYTES]) for at in range(0, len(pcm), WINDOW_BYTES)), default=-120.0)
        share = (peak - QUIETEST_DBFS) / (LOUDEST_DBFS - QUIETEST_DBFS)
        self._bars.append(BARS[max(0, min(len(BARS) - 1, round(share * (len(BARS) - 1))))])

    def __str__(self) -> str:
        return "".join(self._bars)


class Screen:
    """Prints the demo. `quiet` prints nothing at all."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(quiet=quiet, highlight=False)
        self.console.width = min(self.console.width, MAX_WIDTH)
        self._live: Live | None = None
        self.caller_meter, self.agent_meter = Meter(), Meter()

    def title(self, text: str) -> None:
        """Opens the demo."""
        self.console.print()
        self.console.print(Text(f" ☎  {text}", style="bold"))
        self.console.print()

    def step(self, text: str) -> None:
        """Something that was done before the call."""
        self.console.print(Text(f"    {text}", style="dim"))

    def waiting(self, text: str) -> AbstractContextManager[Any]:
        """While this is open the text stands at the bottom, if there is a terminal."""
        if not self.console.is_terminal:
            return nullcontext()
        return self.console.status(Text(text, style="dim"))

    def live(self) -> AbstractContextManager[Any]:
        """While this is open a status line moves at the bottom, if there is a terminal."""
        if not self.console.is_terminal or self.console.quiet:
            return nullcontext()
        self._live = Live(console=self.console, refresh_per_second=10, transient=True)
        return self._live

    def status(self, seconds: float, agent_speaks: bool, caller_speaks: bool) -> None:
        """Move the status line."""
        if self._live is None:
            return
        line = Text("    ")
        line.append(_clock(seconds), style="dim")
        for name, meter, speaks in (
            ("caller", self.caller_meter, caller_speaks),
            ("agent", self.agent_meter, agent_speaks),
        ):
            line.append("   ● " if speaks else "   ○ ", style=STYLES[name] if speaks else "dim")
            line.append(f"{name} ", style=f"bold {STYLES[name]}" if speaks else "dim")
            line.append(str(meter), style=STYLES[name])
        self._live.update(line)

    def line(self, seconds: float, who: str, text: str, aside: str = "", heard: float = 1.0) -> None:
        """One line of the conversation.

        Args:
            seconds: when it began.
            who: caller; agent; heard: what the agent understood; empty: an event.
            text: what was said.
            aside: a remark on it.
            heard: share of it that was heard; the rest is struck out.
        """
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=9, justify="right", style="dim")
        row.add_column(width=6)
        row.add_column(ratio=1)
        said = Text(f"↳ understood: {text}" if who == "heard" else text, style=STYLES.get(who, "dim"))
        if heard < 1.0:
            said.stylize("dim strike", start=text.rfind(" ", 0, round(len(text) * heard) + 1) + 1)
        if aside:
            said.append(f"  {aside}", style="yellow")
        name = Text(who, style=f"bold {STYLES[who]}") if who in ("caller", "agent") else Text()
        row.add_row("" if who == "heard" else _clock(seconds), name, said)
        self.console.print(row)

    def turns(self, rows: Sequence[TurnRow]) -> None:
        """The table of turns."""
        table = Table(
            box=box.SIMPLE_HEAD,
            title="    Voice to voice, in milliseconds",
            title_justify="left",
            title_style="bold",
            show_edge=False,
            padding=(0, 0, 0, 0),
        )
        table.add_column("    the caller said", no_wrap=True, overflow="ellipsis", max_width=27)
        table.add_column("wire", justify="right", style="bold", min_width=5)
        table.add_column("record", justify="right", min_width=6)
        shown = [stage for stage in STAGE_HEADS if any(stage in row.stages for row in rows)]
        for stage in shown:
            head = STAGE_HEADS[stage]
            table.add_column(head, justify="right", style="dim", min_width=len(head))
        for row in rows:
            record = "–" if row.record_ms is None else f"{row.record_ms:.0f}"
            stages = [f"{row.stages[stage]:.0f}" if stage in row.stages else "" for stage in shown]
            table.add_row(f"    {row.said}", f"{row.wire_ms:.0f}", record, *stages)
        self.console.print()
        self.console.print(table)
        self.console.print()
        self.console.print(Text(WIRE_AND_RECORD, style="dim"))
        self.console.print()

    def checks(self, checks: Sequence[Check]) -> None:
        """What had to be so, and whether it was."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=5, justify="right")
        grid.add_column(width=13)
        grid.add_column(ratio=1)
        for check in checks:
            sign = Text("✓", style="green") if check.ok else Text("✗", style="bold red")
            grid.add_row(sign, Text(check.name), Text(check.detail, style="" if check.ok else "red"))
        self.console.print(grid)

    def paths(self, named: Sequence[tuple[str, Path | str]]) -> None:
        """Where to find what is left."""
        self.console.print()
        for name, path in named:
            self.console.print(Text.assemble(("    " + name.ljust(14), "dim"), str(path)), soft_wrap=True)
        self.console.print()

    def failure(self, text: str) -> None:
        """Why there is nothing to show."""
        self.console.print(Text(f"    {text}", style="bold red"))


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
