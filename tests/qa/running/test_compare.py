"""Two runs side by side: a bot is no worse than itself, and one that got worse is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from offhook.qa.running.compare import EVERYTHING, Comparison, compare
from offhook.qa.running.folder import NoRun, read_run, write_run
from offhook.qa.running.result import CallReport, RunReport, ScenarioReport, Verdict
from offhook.qa.running.statistics import beyond_chance

Metrics = Callable[[np.random.Generator], dict[str, object]]


def usual(rng: np.random.Generator, more: float = 0.0) -> dict[str, object]:
    """What one call of a bot that depends on the weather measures."""
    return {
        "greeting_ms": 600 + more + float(rng.lognormal(4.5, 0.6)),
        "v2v_ms": [700 + more + float(value) for value in rng.lognormal(5, 0.7, 3)],
        "dead_air_max_s": 1 + float(rng.lognormal(0, 0.4)),
        "talk_over_pct": abs(float(rng.normal(1, 1))),
        "clicks": int(rng.poisson(0.2)),
        "mos_e": 4.3 - abs(float(rng.normal(0, 0.05))),
        "codec": "PCMU",
        "answered": True,
        "pdd_ms": None,
    }


def made(seed: int, scenarios: int = 6, calls: int = 8, measured: Metrics = usual) -> RunReport:
    rng = np.random.default_rng(seed)
    reports = []
    for number in range(scenarios):
        of = [
            CallReport(f"s{number}", call, f"c{call}", "sip:bot", "sip", Verdict.PASS, metrics=measured(rng))
            for call in range(calls)
        ]
        reports.append(ScenarioReport(f"s{number}", "s.yaml", Verdict.PASS, of))
    return RunReport(f"run-{seed}", 0.0, 1.0, "sip:bot", Verdict.PASS, reports)


def slower(rng: np.random.Generator) -> dict[str, object]:
    return usual(rng, 300.0)


def worse(found: Comparison) -> set[tuple[str, str]]:
    return {(name, one.metric) for name, rows in found.differences.items() for one in rows if one.worse}


def test_a_bot_is_hardly_ever_worse_than_itself() -> None:
    found = [compare(made(2 * seed), made(2 * seed + 1)) for seed in range(12)]
    assert sum(one.worse for one in found) <= 1
    assert {"greeting_ms", "v2v_ms", "mos_e"} <= {one.metric for one in found[0].differences[EVERYTHING]}
    assert set(found[0].differences) == {EVERYTHING, *(f"s{number}" for number in range(6))}


def test_a_bot_that_got_slower_is_worse_and_one_that_got_faster_is_not() -> None:
    found = compare(made(1), made(2, measured=slower))
    assert {(EVERYTHING, "greeting_ms"), (EVERYTHING, "v2v_ms")} <= worse(found)
    assert found.worse
    back = compare(made(2, measured=slower), made(1))
    assert not back.worse
    assert {one.metric for one in back.differences[EVERYTHING] if one.better} == {"greeting_ms", "v2v_ms"}


def test_a_lower_score_is_worse() -> None:
    found = compare(made(1), made(2, measured=lambda rng: usual(rng) | {"mos_e": 3.2}))
    assert (EVERYTHING, "mos_e") in worse(found)
    assert not compare(made(1, measured=lambda rng: usual(rng) | {"mos_e": 3.2}), made(2)).worse


def test_seven_calls_of_one_scenario_are_enough_to_see_what_everybody_hears() -> None:
    assert (EVERYTHING, "v2v_ms") in worse(compare(made(1, 1, 7), made(2, 1, 7, lambda rng: usual(rng, 1000))))


def test_less_than_what_calibration_leaves_open_is_no_change() -> None:
    def steady(more: float) -> Metrics:
        return lambda rng: {"v2v_ms": [700 + more + float(rng.normal(0, 0.5))]}

    assert not compare(made(1, measured=steady(0)), made(2, measured=steady(19))).worse
    assert compare(made(1, measured=steady(0)), made(2, measured=steady(25))).worse


def test_only_what_both_runs_have_is_compared() -> None:
    one, other = made(1), made(2)
    # A slow scenario more, and one called thrice as often, are not the bot's doing.
    other.scenarios.append(made(9, 1, 40, slower).scenarios[0])
    other.scenarios[-1].name = "slow"
    one.scenarios.append(ScenarioReport("gone", "g.yaml", Verdict.PASS))
    found = compare(one, other)
    assert not found.worse
    assert found.missing == ["gone"]
    assert "slow" not in found.differences


def test_calls_that_say_nothing_of_the_target_are_left_out() -> None:
    other = made(2, measured=slower)
    for scenario in other.scenarios:
        for call in scenario.calls:
            call.verdict = Verdict.INVALID
    found = compare(made(1), other)
    assert found.differences[EVERYTHING] == []
    assert not found.worse


@pytest.mark.parametrize(
    ("before", "after", "is_worse"),
    [
        (Verdict.PASS, Verdict.FAIL, True),
        (Verdict.PASS, Verdict.UNREACHABLE, True),
        (Verdict.PASS, Verdict.INVALID, False),
        (Verdict.FAIL, Verdict.PASS, False),
        (Verdict.INVALID, Verdict.FAIL, False),
    ],
)
def test_verdicts_that_change_are_told(before: Verdict, after: Verdict, is_worse: bool) -> None:
    one, other = made(1, 1, 1), made(1, 1, 1)
    one.scenarios[0].verdict, other.scenarios[0].verdict = before, after
    found = compare(one, other)
    assert [(change.before, change.after, change.worse) for change in found.changed] == [(before, after, is_worse)]
    assert found.worse == found.as_dict()["worse"] == is_worse


def test_it_is_shown() -> None:
    out = io.StringIO()
    one, other = made(1), made(2, measured=slower)
    one.scenarios.append(ScenarioReport("gone", "g.yaml", Verdict.PASS))
    other.scenarios[0].verdict = Verdict.FAIL
    compare(one, other).show(Console(file=out, width=120))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "run-1 → run-2"
    [row] = [line for line in lines if EVERYTHING in line and "v2v_ms" in line]
    assert "worse" in row
    assert lines[-3:] == ["s0: pass → fail", "gone was not run again", "worse"]


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_run(made(seed, 1, 2), tmp_path / name)
    assert compare(read_run(tmp_path / "a"), read_run(tmp_path / "b" / "run.json")).after == "run-2"
    with pytest.raises(NoRun, match="No such file"):
        read_run(tmp_path / "c")


def test_samples_of_one_call_are_dealt_together() -> None:
    # Two calls a run whose samples hardly differ are two observations, not forty.
    old = [[700.0] * 20, [701.0] * 20]
    new = [[900.0] * 20, [901.0] * 20]
    assert not beyond_chance([(old, new)], level=0.05)
    many = ([[700.0 + n] for n in range(8)], [[900.0 + n] for n in range(8)])
    assert beyond_chance([many], level=0.001)
    assert not beyond_chance([(many[0], many[0])], level=0.05)
    assert not beyond_chance([(many[0], [])], level=0.05)
