"""What a run looks like in a terminal, and where there is none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from offhook.qa.running.result import CallReport, Finding, RunReport, ScenarioReport, Verdict
from offhook.qa.running.run import Progress
from offhook.qa.terminal.run_screen import RunScreen


def on(**options: Any) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, **options), out


def call(number: int, verdict: Verdict, *findings: Finding) -> CallReport:
    return CallReport("hello", number, f"c{number}", "sip:bot@[fe80::1]", "sip", verdict, list(findings))


LATE = Finding("late-answer", False, "the agent spoke after 1830 ms; see [docs]", 1, where="h.yaml:4:5")
POLITE = Finding("judge", False, "Was it polite? no", gate=False)
REPORT = RunReport(
    "r",
    0.0,
    12.3,
    "sip:bot@[fe80::1]",
    Verdict.FAIL,
    [
        ScenarioReport(
            "hello",
            "h.yaml",
            Verdict.FAIL,
            [call(1, Verdict.FAIL, LATE, POLITE), call(2, Verdict.FAIL, LATE), call(3, Verdict.PASS)],
            passed=1,
            statistics={"v2v_ms": {"p50": 801.4, "p95": 1830.2}, "mos_e": {"p50": 4.391}, "greeting_ms": {"p50": None}},
        ),
        ScenarioReport("there", "t.yaml", Verdict.SKIPPED, reason="it needs a target of carrier; this is sip"),
        ScenarioReport(
            "many", "m.yaml", Verdict.FAIL, [call(1, Verdict.FAIL, *(Finding("step", False, str(n)) for n in range(7)))]
        ),
    ],
    machine={"own_late_p99_ms": 0.8},
)


def test_the_end_of_a_run_names_what_failed_and_where() -> None:
    console, out = on()
    RunScreen(console).conclude(REPORT, Path("runs[/x]/r"))
    text = out.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "sip:bot@[fe80::1]"
    rows = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "hello fail 1/3 - 801 / 1830 - - 4.39" in rows
    assert "there skipped - - - - - -" in rows
    assert "hello: late-answer: the agent spoke after 1830 ms; see [docs] (h.yaml:4:5) [2 times]" in lines
    assert "there: it needs a target of carrier; this is sip" in lines
    assert "many: and 2 more" in lines
    assert "polite" not in text  # does not count
    assert lines[-1] == (
        "fail in 12.3 s; the caller's own frames were late by 0.8 ms (p99). Report: runs[/x]/r/report.html"
    )
    assert "\x1b" not in text


def test_each_call_is_told_when_it_is_judged() -> None:
    console, out = on()
    with RunScreen(console) as screen:
        screen.progress(Progress("hello", 1, "calling", 0, 2))
        screen.progress(Progress("hello", 1, "judging", 0, 2))
        screen.progress(Progress("hello", 1, Verdict.FAIL, 1, 2, call(1, Verdict.FAIL, POLITE, LATE)))
        screen.progress(Progress("there", 0, Verdict.SKIPPED, 2, 2))
    assert [" ".join(line.split()) for line in out.getvalue().splitlines()] == [
        "fail hello #1: the agent spoke after 1830 ms; see [docs]",
        "skipped there",
    ]


def test_a_terminal_has_a_bar_and_quiet_has_nothing() -> None:
    console, out = on(force_terminal=True)
    with RunScreen(console) as screen:
        screen.progress(Progress("hello", 1, "calling", 0, 2))
    assert "1 calling" in out.getvalue()
    console, out = on()
    with RunScreen(console, quiet=True) as screen:
        screen.progress(Progress("hello", 1, Verdict.PASS, 1, 1, call(1, Verdict.PASS)))
    assert out.getvalue() == ""
