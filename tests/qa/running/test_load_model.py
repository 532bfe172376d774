"""Plans for load are read as scenarios are: every fault at its place, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.qa.running.load_model import load_plan
from offhook.qa.scenario.load import ScenarioError
from offhook.qa.scenario.units import Limit

SCENARIO = "name: hello\nsteps: [{say: Hello.}]\n"

PLAN = """\
schema: 1
mix: [{scenario: hello.yaml, weight: 3}, {scenario: hello.yaml}]
arrivals: {start: 1/s, to: 20/s, over: 5m}
max_calls: 400
hold: 10m
stop_when: {v2v_p95: ">1.5s", for: 30s}
report: {knee: true, per_core: true}
limits: {greeting_p95: "<=2s", failures: "<=2%"}
"""


def _faults(folder: Path, text: str) -> str:
    (folder / "hello.yaml").write_text(SCENARIO)
    (folder / "load.yaml").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_plan(folder / "load.yaml")
    return "\n".join(
        f"{problem.origin.line}:{problem.origin.column} {problem.message}" for problem in caught.value.problems
    )


def test_a_plan_is_read_with_its_scenarios(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(SCENARIO)
    (tmp_path / "load.yaml").write_text(PLAN)
    loaded = load_plan(tmp_path / "load.yaml")
    plan = loaded.plan
    assert [one.scenario.name for one in loaded.scenarios] == ["hello", "hello"]
    assert [part.weight for part in plan.mix] == [3, 1]
    assert (plan.arrivals.start, plan.arrivals.to, plan.arrivals.over, plan.hold) == (1, 20, 300, 600)
    assert plan.stop_when is not None
    assert plan.stop_when.limits == {"v2v_p95": Limit(">", 1500, "ms")}
    assert plan.limits == {"greeting_p95": Limit("<=", 2000, "ms"), "failures": Limit("<=", 2, "%")}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("start: 1/s", "start: 1", "1 is no rate; write a number of calls and its time, such as 2/s, 90/m or 1000/h"),
        ("start: 1/s, to: 20/s", "start: 0/s", "nobody ever calls"),
        ("over: 5m", "over: 50h", "500000 is the most; lower the rate or the time"),
        (
            "start: 1/s, to: 20/s, over: 5m}\nmax_calls: 400\nhold: 10m",
            "start: 1/h, over: 1s}",
            "not one call would be made",
        ),
        ("greeting_p95", "greeting_ms", "greeting_ms is no figure of load; there are v2v_p50, "),
        ('">1.5s"', '">5%"', "v2v_p95 is in ms, and % is something else; write >5ms"),
        ("max_calls: 400", "max_call: 400", "max_calls"),
        ("scenario: hello.yaml}", "scenario: helo.yaml}", "there is no file helo.yaml beside load.yaml"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert fault in _faults(tmp_path, PLAN.replace(old, new))


def test_faults_of_scenarios_are_said_with_their_own_place(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nsteps: [{sey: Hello.}]\n")
    said = _faults(tmp_path, PLAN.replace("scenario: hello.yaml}", "scenario: bad.yaml}"))
    assert said.startswith("2:")
    assert "say" in said


def test_variables_go_to_the_plan_and_to_its_scenarios(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text("name: hello\nvars: {word: Hello.}\nsteps: [{say: '${word}'}]\n")
    (tmp_path / "load.yaml").write_text("mix: [{scenario: hello.yaml}]\narrivals: {start: '${rate}', over: 10s}\n")
    loaded = load_plan(tmp_path / "load.yaml", sets={"rate": "2/s", "word": "Goodbye."})
    say = loaded.scenarios[0].scenario.steps[0].say
    assert say is not None
    assert (loaded.plan.arrivals.start, say.text) == (2.0, "Goodbye.")
