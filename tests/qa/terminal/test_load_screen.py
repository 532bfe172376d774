"""What a load looks like in a terminal: windows, what failed, and what does not count."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from offhook.qa.running.knee import Knee, Window
from offhook.qa.running.load import LoadReport, Progress
from offhook.qa.running.result import Verdict
from offhook.qa.terminal.load_screen import MOST_WINDOWS, LoadScreen


def on() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=140), out


def window(start: float, **more: Any) -> Window:
    figures = {"v2v_p95": 812.4, "greeting_p95": 300.0, "packet_gap_p99": None}
    return Window(start, start + 10, **{"calls": 20.4, "began": 20, "figures": figures, "late_ms": 1.25} | more)


def report(*windows: Window, **more: Any) -> LoadReport:
    found = LoadReport("r", "load", "load.yaml", "sip:bot@[fe80::1]", 0.0, 40.0, Verdict.PASS)
    found.windows = list(windows)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def concluded(found: LoadReport) -> list[str]:
    console, out = on()
    LoadScreen(console).conclude(found, Path("runs[/x]"))
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in out.getvalue().splitlines()]


def test_the_end_of_a_load_has_windows_reasons_and_what_does_not_count() -> None:
    lines = concluded(
        report(
            window(0, late=3),
            window(10, broken=["v2v_p95 1830 ms is not <=1500ms"], failed=2, cores=1.5),
            window(20, doubtful=True),
            planned=100,
            ended=80,
            failed=2,
            late=3,
            failures={"the agent did not speak (step 3, say)": 2},
            mistakes={"ValueError: broken": 1},
            knee=Knee(20.0, 0.0, reached=True, why=["v2v_p95 1830 ms is not <=1500ms"]),
            verdict=Verdict.INVALID,
            reason="our own frames were late [here]",
        )
    )
    assert lines[0] == "sip:bot@[fe80::1]"
    rows = [line for line in lines if line.split()[:2] in (["0", "20"], ["10", "20"], ["20", "20"])]
    assert rows == [
        "0 20 0 3 812 300 - - 1.2",
        "10 20 2 - 812 300 - 1.50 1.2 bad",
        "20 20 0 - 812 300 - - 1.2 doubtful",
    ]
    assert lines[-5:] == [
        "2 calls: the agent did not speak (step 3, say)",
        "our own: 1 calls: ValueError: broken",
        "20 calls at once; above that v2v_p95 1830 ms is not <=1500ms",
        "3 calls count neither way: our own frames of them were late",
        "invalid: our own frames were late [here]; 80 of 100 calls in 40 s. Report: runs[/x]/load.html",
    ]


def test_of_many_windows_no_bad_one_is_left_out() -> None:
    many = [window(10.0 * n) for n in range(3 * MOST_WINDOWS)]
    many[50].broken = ["v2v_p95 1830 ms is not <=1500ms"]
    lines = concluded(report(*many))
    assert sum(line.endswith("1.2") for line in lines) == MOST_WINDOWS - 1
    assert sum(line.endswith("bad") for line in lines) == 1


def test_each_window_is_told_once_with_what_was_late() -> None:
    console, out = on()
    with LoadScreen(console) as screen:
        for seconds in (11.0, 11.25):
            screen.progress(Progress(seconds, 60.0, 100, 20, 18, 0, 0, 2.0, 2, 1.2, window(0, late=3)))
        screen.progress(Progress(21.0, 60.0, 100, 40, 38, 0, 0, 2.0, 2, 1.2, window(10, broken=["bad [x]"])))
    assert [" ".join(line.split()) for line in out.getvalue().splitlines()] == [
        "0 s 20 at once, v2v p95 812 ms, greeting p95 300 ms, packet gap p99 - ms 3 calls not counted, we were late",
        "10 s 20 at once, v2v p95 812 ms, greeting p95 300 ms, packet gap p99 - ms bad [x]",
    ]
