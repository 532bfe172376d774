"""Where runs are kept: found again by name, by file or as the last one, and read back as they were."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from offhook.qa.running.folder import NoRun, find_run, new_folder, read_run, write_run
from offhook.qa.running.result import CallReport, Finding, RunReport, ScenarioReport, Verdict


def report() -> RunReport:
    finding = Finding("late-answer", False, "late", 1, 2.5, measured=1830.0, limit="<=1500ms", where="a.yaml:3:5")
    call = CallReport("a", 1, "c1", "sip:bot", "sip", Verdict.FAIL, [finding], {"v2v_ms": [1830.0], "pdd_ms": None})
    scenario = ScenarioReport("a", "a.yaml", Verdict.FAIL, [call], statistics={"v2v_ms": {"n": 1.0, "p50": None}})
    return RunReport("r", 1.5, 2.0, "sip:bot", Verdict.FAIL, [scenario], machine={"cpus": 2})


def kept(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    write_run(report(), root / name)
    return root / name


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = kept(tmp_path, "r")
    assert read_run(folder) == report()
    assert read_run(folder / "run.json") == report()
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_what_no_json_has_is_not_written(tmp_path: Path) -> None:
    run = report()
    run.scenarios[0].calls[0].metrics = {"clipping_pct": math.nan, "v2v_ms": [math.inf, 1.23456789]}
    write_run(run, tmp_path)
    [scenario] = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)["scenarios"]
    assert scenario["calls"][0]["metrics"] == {"clipping_pct": None, "v2v_ms": [None, 1.2346]}
    assert read_run(tmp_path).verdict == Verdict.FAIL


def test_new_folders_have_names_of_their_own(tmp_path: Path) -> None:
    first, second = new_folder(tmp_path / "runs"), new_folder(tmp_path / "runs")
    assert first != second
    assert (first / "calls").is_dir()
    assert time.strptime(first.name[:15], "%Y%m%d-%H%M%S")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        new_folder(tmp_path / "file")


def test_the_last_run_is_that_which_began_last(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match=r"no run in .* yet"):
        find_run(Path("last"), tmp_path)
    kept(tmp_path, "main-run")  # a copy that somebody keeps
    assert find_run(Path("last"), tmp_path).name == "main-run"
    for name in ("20261121-101500", "20261122-101500", "20261122-101500-9", "20261122-101500-10"):
        kept(tmp_path, name)
    (tmp_path / "20261123-101500").mkdir()  # was interrupted
    assert find_run(Path("last"), tmp_path).name == "20261122-101500-10"


def test_a_run_is_found_by_folder_file_and_name(tmp_path: Path) -> None:
    folder = kept(tmp_path / "runs", "main")
    assert find_run(folder, tmp_path) == folder
    assert find_run(folder / "run.json", tmp_path) == folder
    assert find_run(Path("main"), tmp_path / "runs") == folder
    with pytest.raises(NoRun, match=r"nothing: no run there; name a folder with a run.json, or `last`"):
        find_run(Path("nothing"), tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "no run of this version"),
        ("\xff", "no run of this version"),
        ('{"run_id": "r"}', "began: Field required"),
        ('{"run_id":"r","began":1,"seconds":1,"target":"t","verdict":"fine"}', "verdict: Input should be 'pass'"),
        ('{"run_id":"r","began":1,"seconds":1,"target":"t","verdict":"pass","schema":2}', "schema"),
    ],
)
def test_what_is_no_run_is_told_from_one(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(NoRun, match=says):
        read_run(tmp_path)
