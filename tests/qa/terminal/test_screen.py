"""The bar of a run and of a load."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from offhook.qa.running import run
from offhook.qa.terminal.run_screen import RunScreen


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_the_bar_moves_only_in_a_terminal_that_wants_it(terminal: bool, quiet: bool) -> None:
    out = io.StringIO()
    with RunScreen(Console(file=out, force_terminal=terminal, width=100), quiet=quiet) as screen:
        for done in range(2):
            screen.progress(run.Progress("hello", 1, "calling", done, 7))
        screen._bar.refresh()
    assert ("1 calling" in out.getvalue()) == (terminal and not quiet)
    assert ("1/7" in out.getvalue()) == (terminal and not quiet)
