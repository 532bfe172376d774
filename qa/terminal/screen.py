"""What the screens of a run and of a load share: a console, and a bar that moves where it is a terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn


class Screen:
    """A context manager around what it shows. Nothing moves where the console is no terminal.

    Args:
        counts: columns between the bar and the time.
        quiet: print the end only.
    """

    def __init__(self, console: Console, *counts: ProgressColumn, quiet: bool) -> None:
        self.console = console
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            *counts,
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def _show(self, done: float, of: float | None, description: str) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=of)
        self._bar.update(self._task, completed=done, description=description)
