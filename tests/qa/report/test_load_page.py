from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from offhook.qa.report.load_page import load_page
from offhook.qa.report.markdown import MAX_BYTES, load_summary
from offhook.qa.report.write import write_load
from offhook.qa.running.knee import Knee, Window
from offhook.qa.running.load import LoadReport
from offhook.qa.running.load_figures import PartReport, ProcessReport
from offhook.qa.running.result import Verdict

EVIL = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\x1b[31m\u202e|`@octocat"


@pytest.fixture
def load() -> LoadReport:
    """A ramp of ten minutes whose knee is at 40 calls."""
    windows = []
    for number in range(60):
        late = 700.0 + (number - 40) * 90 if number > 40 else 700.0
        figures: dict[str, float | None] = {
            "v2v_p50": late * 0.8,
            "v2v_p95": late,
            "packet_gap_p99": 24.0,
            "failures": 0,
        }
        broken = [f"v2v_p95 {late:.0f} ms is not <=1500ms"] if late > 1500 else []
        window = Window(number * 10.0, number * 10.0 + 10, number * 1.0, 9, 8, 0, figures=figures, broken=broken)
        window.late_ms, window.cores, window.doubtful = 3.0, number / 20, number == 20
        windows.append(window)
    spread: dict[str, float | None] = {
        "n": 500,
        "p50": 700.0,
        "p90": 900.0,
        "p95": 1200.0,
        "p99": 2000.0,
        "max": 2500.0,
    }
    return LoadReport(
        "run",
        "ramp",
        "load.yaml",
        "sip:agent@10.0.0.5",
        1_800_000_000.0,
        610.0,
        Verdict.FAIL,
        "v2v_p95 2320 ms is not <=1500ms for 20 s",
        540,
        530,
        520,
        3,
        failures={"486 Busy Here": 3},
        figures={
            "v2v_ms": spread,
            "setup_ms": {"n": 0, "p50": None, "p90": None, "p95": None, "p99": None, "max": None},
        },
        limits={"v2v_p95": "<=1500ms", "failures": "<=1%"},
        scenarios=[PartReport("greeting", "greeting.yaml", 530, 3, dict(spread))],
        windows=windows,
        knee=Knee(49.0, 490.0, True, ["v2v_p95 1510 ms is not <=1500ms"], 20.0),
        processes=[ProcessReport(4711, 530, 3.0, 9.0, 1_000_000, 2.0)],
        machine={"cpus": 2},
    )


def test_writes_a_load(load: LoadReport, tmp_path: Path) -> None:
    write_load(load, tmp_path)
    assert json.loads((tmp_path / "load.json").read_text())["knee"]["calls"] == 49.0
    assert (tmp_path / "load.html").read_text() == load_page(load)
    assert (tmp_path / "load.md").read_text() == load_summary(load)


def test_the_page_marks_the_knee(load: LoadReport) -> None:
    page = load_page(load)
    assert "It bears 49 calls at once; above that v2v_p95 1510 ms is not &lt;=1500ms (20.0 a core)." in page
    assert "<b>20</b> calls a core" in page
    charts = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert charts == [
        "Calls at once",
        "Answers, p95, ms",
        "Time between packets, p99, ms",
        "Failed calls, %",
        "Cores that the target used",
        "How late we were ourselves, p99, ms",
    ]
    assert page.count('<line class="knee"') == len(charts)
    assert page.count('<line class="limit"') == 2
    assert "490 to 500 s, 49.0 at once: 1510 ms: v2v_p95 1510 ms is not &lt;=1500ms" in page
    assert "486 Busy Here" in page


def test_what_was_never_reached_is_no_knee(load: LoadReport) -> None:
    load.knee = Knee(59.0, 590.0, False)
    load.windows[7].figures = {}
    page = load_page(load)
    assert ">best</text>" in page
    assert ">knee</text>" not in page
    assert "It bears at least 59 calls at once" in page
    assert "| 70 | 7.0 | 0 | – | – | – | – |" in load_summary(load)


def test_a_load_that_says_nothing_has_a_page(load: LoadReport) -> None:
    load.windows, load.knee, load.processes, load.figures, load.scenarios = [], None, [], {}, []
    assert "How much it bears is not known" in load_page(load)
    assert "How much it bears is not known" in load_summary(load)


def test_a_long_load_stays_small(load: LoadReport) -> None:
    load.windows = load.windows * 500
    assert len(load_page(load)) < 2_000_000
    text = load_summary(load)
    assert len(text.encode()) < MAX_BYTES
    assert "windows more" in text


def test_the_summary_has_a_row_a_window(load: LoadReport) -> None:
    text = load_summary(load)
    assert text.startswith("## ❌ offhook load `ramp`: fail\n\n`v2v_p95 2320 ms is not <=1500ms for 20 s`\n")
    assert "**It bears 49 calls at once" in text
    assert "| 200 | 20.0 | 0 | 700 | – | 24 | doubtful |" in text
    assert "| 500 | 50.0 | 0 | 1600 | – | 24 | `v2v_p95 1600 ms is not <=1500ms` |" in text


def test_a_browser_shows_a_load(browser: Any, load: LoadReport, tmp_path: Path) -> None:
    load.name = load.run_id = load.target = load.reason = EVIL
    load.failures = {EVIL: 3}
    load.windows[-1].broken = [EVIL]
    load.machine[EVIL] = EVIL
    write_load(load, tmp_path)
    browser.complaints.clear()
    browser.open((tmp_path / "load.html").as_uri())
    assert browser.run("document.querySelectorAll('figure svg path.line').length") == 6
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    assert browser.run("window.hit === undefined")
    assert browser.complaints == []
