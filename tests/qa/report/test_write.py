from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from offhook.qa.report.github import MOST, annotations
from offhook.qa.report.junit import junit
from offhook.qa.report.markdown import MAX_BYTES, code, summary
from offhook.qa.report.plain import finite, number, shown
from offhook.qa.report.write import write_report
from offhook.qa.running.folder import read_run
from offhook.qa.running.result import Finding, RunReport, ScenarioReport, Verdict

EVIL = "]]>&<\x1b[31m\x00\ud800\ufffe\u202e\r\n| `a` @octocat ![x](http://evil.example/p.png) <img src=x> %0A::error::"


def test_writes_all_files_whole(failed_run: RunReport, tmp_path: Path) -> None:
    failed_run.scenarios[0].calls[0].metrics["mos_e"] = math.nan
    write_report(failed_run, tmp_path)
    write_report(failed_run, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "run.json",
        "report.html",
        "junit.xml",
        "summary.md",
        "calls/greeting-1.json",
        "calls/greeting-2.json",
    }
    assert read_run(tmp_path).scenarios[0].calls[1] == failed_run.scenarios[0].calls[1]
    call = json.loads((tmp_path / "calls/greeting-1.json").read_text(), parse_constant=pytest.fail)
    assert call["metrics"]["mos_e"] is None
    assert call["findings"][1]["kind"] == "late-answer"


def test_a_scenarios_name_leads_to_no_other_folder(failed_run: RunReport, tmp_path: Path) -> None:
    failed_run.scenarios[0].calls[0].scenario = "../../../x"
    write_report(failed_run, tmp_path / "run")
    assert not list(tmp_path.glob("*.json"))
    assert (tmp_path / "run/calls/.._.._.._x-1.json").is_file()


# --- JUnit ---


def _xml(report: RunReport) -> ElementTree.Element:
    text = junit(report)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    return ElementTree.fromstring(text.encode())


def _fits(root: ElementTree.Element) -> None:
    """What Jenkins' junit-10.xsd and Ant's older schema ask together."""
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "id", "package"} <= set(
            suite.keys()
        )
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        order = [child.tag for child in suite]
        cases = suite.findall("testcase")
        assert order == ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
        assert all(set(one.keys()) == {"name", "value"} for one in suite.findall("properties/property"))
        for case in cases:
            assert set(case.keys()) == {"name", "classname", "time"}
            assert float(case.get("time", "")) >= 0
            assert [child.tag for child in case] in ([], ["failure"], ["error"], ["skipped"])
        for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(count, "")) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.get("tests", "")) == len(cases)
    assert int(root.get("tests", "")) == len(root.findall("testsuite/testcase"))


def test_a_suite_is_a_scenario_and_a_case_a_call(failed_run: RunReport) -> None:
    root = _xml(failed_run)
    _fits(root)
    greeting, hold = root
    assert [case.get("name") for case in greeting.findall("testcase")] == ["call 1", "call 2", "all calls"]
    failure = greeting.find("testcase/failure")
    assert failure is not None
    assert failure.get("type") == "late-answer"
    assert failure.get("message", "").endswith("at most 800 ms were expected")
    assert "at 4.20 s" in (failure.text or "")
    assert "(scenarios/greeting.yaml:7:5)" in (failure.text or "")
    known = {one.get("name"): one.get("value") for one in greeting.findall("properties/property")}
    assert known["v2v_ms.p50"] == "1476"
    assert known["greeting_ms.p95"] == "301.95"
    skipped = hold.find("testcase/skipped")
    assert skipped is not None
    assert skipped.get("message") == "it needs a target of sip"


@pytest.mark.parametrize("verdict", [Verdict.INVALID, Verdict.UNREACHABLE, Verdict.BAD_SCENARIO])
def test_what_says_nothing_about_the_target_is_an_error(failed_run: RunReport, verdict: Verdict) -> None:
    call = failed_run.scenarios[0].calls[0]
    call.verdict = verdict
    call.findings.append(Finding("caller", False, "our own frames were 30 ms late"))
    failed_run.scenarios[1].verdict = verdict
    root = _xml(failed_run)
    _fits(root)
    assert [one.get("type") for one in root.iter("error")][1] == str(verdict)
    if verdict == Verdict.INVALID:
        assert next(root.iter("error")).get("type") == "caller"


def test_junit_takes_any_words(failed_run: RunReport) -> None:
    for scenario in failed_run.scenarios:
        scenario.name = scenario.file = scenario.reason = EVIL
        for call in scenario.calls:
            call.scenario = call.ended = EVIL
            call.findings.append(Finding("judge", False, EVIL + "z" * 1_000_000, where=EVIL))
    root = _xml(failed_run)
    _fits(root)
    assert len(ElementTree.tostring(root)) < 50_000


# --- Markdown ---


def test_the_summary_says_first_what_failed(failed_run: RunReport) -> None:
    text = summary(failed_run)
    assert text.startswith("## ❌ offhook: fail\n\n1 of 2 calls passed, 2 scenarios, against `sip:agent@10.0.0.5`")
    assert text.index("late-answer") < text.index("### Scenarios")
    assert "- **late-answer** `greeting #1`: `step 2 (say home)" in text
    assert "| `greeting` | ❌ fail | 1/2 | 1476 / **2227** |" in text
    assert "| `hold` | ⏭️ skipped | – | `it needs a target of sip` |" in text


def test_the_same_failure_is_said_once(failed_run: RunReport) -> None:
    failed_run.scenarios[0].calls *= 30
    text = summary(failed_run)
    assert text.count("late-answer") == 1
    assert "— `scenarios/greeting.yaml:7:5`, and 29 more like it" in text


def test_the_summary_stays_below_the_cap(failed_run: RunReport) -> None:
    scenario = failed_run.scenarios[0]
    lines = range(200)
    scenario.calls[0].findings = [Finding("heard", False, "ü" * 5000, where=f"greeting.yaml:{row}:5") for row in lines]
    failed_run.scenarios += [scenario] * 1000
    text = summary(failed_run)
    assert len(text.encode()) <= MAX_BYTES
    assert "more in the report" in text
    assert text.count("| `greeting` |") > 100


def test_strangers_words_are_code(failed_run: RunReport) -> None:
    failed_run.scenarios[0].calls[0].findings.append(Finding("judge", False, EVIL))
    failed_run.scenarios[1].reason = EVIL
    text = summary(failed_run)
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert "evil.example" in text
    for harm in ("@octocat", "evil.example", "<img", "\x1b", "\u202e"):
        assert harm not in outside
    row = next(line for line in text.splitlines() if line.startswith("| `hold`"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


@pytest.mark.parametrize(
    ("text", "span"), [("a", "`a`"), ("", "–"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a|b", "`a\\|b`")]
)
def test_code(text: str, span: str) -> None:
    assert code(text) == span


# --- GitHub ---


def test_annotations_name_the_line(failed_run: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finding = failed_run.scenarios[0].calls[0].findings[1]
    object.__setattr__(finding, "where", f"{tmp_path}/a,b:c.yaml:7:5")
    limit, late = annotations(failed_run)
    assert late == (
        "::error file=a%2Cb%3Ac.yaml,line=7,col=5,title=greeting #1%3A late-answer::"
        "step 2 (say home): the agent spoke after 2310 ms; at most 800 ms were expected"
    )
    assert limit.startswith("::error file=scenarios/greeting.yaml,line=9,col=5,title=greeting%3A metric::v2v_ms.p95")


def test_annotations_cannot_be_more_commands(failed_run: RunReport) -> None:
    call = failed_run.scenarios[0].calls[0]
    call.findings.append(Finding("judge", False, EVIL, gate=False, where="no place"))
    lines = annotations(failed_run)
    assert len(lines) == 3
    assert lines[2].startswith("::warning file=no place,title=greeting #1%3A judge::]]>&<\\x1b[31m")
    assert "%250A::error::" in lines[2]
    assert not any("\n" in line or "\r" in line for line in lines)


def test_annotations_have_an_end(failed_run: RunReport) -> None:
    call = failed_run.scenarios[0].calls[0]
    call.findings = [Finding("heard", False, f"number {number}") for number in range(1000)] * 2
    assert len(annotations(failed_run)) == MOST


def test_an_unreachable_scenario_is_annotated(failed_run: RunReport) -> None:
    why = "nobody answers at sip:agent@10.0.0.5"
    failed_run.scenarios = [ScenarioReport("greeting", "greeting.yaml", Verdict.UNREACHABLE, reason=why)]
    assert annotations(failed_run) == [f"::error file=greeting.yaml,title=greeting%3A unreachable::{why}"]


# --- words and figures ---


def test_hidden_signs_are_shown() -> None:
    assert shown("a\x1b[0m\r\nb\tc\u202e\u2066\ud800\x00") == "a\\x1b[0m\nb\tc\\u202e\\u2066\\ud800\\x00"
    assert shown("naïve Ωмега 日本語 👋") == "naïve Ωмега 日本語 👋"


def test_long_words_are_cut() -> None:
    assert shown("x" * 5000, 10) == "xxxxxxxxxx… (5000 characters)"
    assert shown("x" * 10, 10) == "x" * 10
    assert shown("x" * 11, 10) == "xxxxxxxxxx… (11 characters)"


def test_only_finite_numbers_are_kept() -> None:
    assert finite({"a": [1.5, math.nan, math.inf], 3: (-math.inf, "x", None, 7)}) == {
        "a": [1.5, None, None],
        "3": [None, "x", None, 7],
    }


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (698.4, "ms", "698 ms"),
        (0.0, "", "0"),
        (2.876, "pct", "2.88 %"),
        (4.39, "MOS", "4.39"),
        (10.0, "s", "10 s"),
        (100.0, "", "100"),
        (None, "ms", "–"),
        (math.nan, "", "–"),
        (-19.44, "dBov", "-19.4 dBov"),
    ],
)
def test_number(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text
