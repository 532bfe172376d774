from __future__ import annotations

import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.report.html import relative
from offhook.qa.report.run_page import MOST_RUNGS, levels, run_page
from offhook.qa.report.write import write_report
from offhook.qa.running.result import RunReport, Verdict

EVIL = (
    "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"'><svg onload=window.hit=1>"
    "<!--<script>\x1b[31mred\x1b[0m\u202egnp.exe\u2066\x00\x85\u2028]]>{{7*7}}${window.hit=1}"
)


class _Reader(HTMLParser):
    """What elements and addresses a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _read(page: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = _Reader()
    reader.feed(page)
    return reader.tags


def _poisoned(run: RunReport) -> RunReport:
    """Every word that a stranger may have chosen is an attack."""
    run.target = run.run_id = EVIL
    for scenario in run.scenarios:
        scenario.name = scenario.file = scenario.reason = EVIL
        for call in scenario.calls:
            call.scenario = call.call_id = call.target = call.way = call.ended = EVIL
            call.audio, call.capture = f"javascript:{EVIL}", "../../etc/passwd"
            for turn in call.turns:
                turn["text"] = turn["name"] = EVIL
            for rung in call.ladder:
                rung["title"] = rung["text"] = EVIL
            call.timeline["events"].append({"at": 1.0, "what": EVIL, "detail": EVIL})
            call.timeline["faults"].append(EVIL)
    run.machine[EVIL] = EVIL
    return run


def test_the_page_holds_everything_in_itself(failed_run: RunReport) -> None:
    page = run_page(failed_run, {})
    for tag, attributes in _read(page):
        for name in ("src", "href", "action", "data", "srcset"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "./", "data:,")), (tag, address)
    assert "@import" not in page
    assert "url(" not in page


def test_says_without_a_script_what_failed(failed_run: RunReport) -> None:
    plain = re.sub(r"<script.*?</script>", "", run_page(failed_run, {}), flags=re.DOTALL)
    assert "the agent spoke after 2310 ms; at most 800 ms were expected" in plain
    assert "greeting.yaml:7:5" in plain
    assert 'href="#call-1" data-call="call-1" data-at="4.200"' in plain


def test_the_same_failure_of_many_calls_is_one(long_run: RunReport) -> None:
    page = run_page(long_run, {})
    assert "Failed assertions (20)" in page
    assert page.count('<li class="fail">') == 1
    assert "19 more like it" in page
    assert re.search(r'<a href="#call-2" data-call="call-2" data-at="4.200" title="step 2 [^"]*">#20</a>, ', page)


def test_failed_calls_come_first(failed_run: RunReport) -> None:
    page = run_page(failed_run, {})
    order = [attributes["data-verdict"] for tag, attributes in _read(page) if tag == "details" and "id" in attributes]
    assert order == ["fail", "pass"]


def test_no_words_become_markup(failed_run: RunReport) -> None:
    clean = [tag for tag, _ in _read(run_page(failed_run, {}))]
    page = run_page(_poisoned(failed_run), {})
    found = [tag for tag, _ in _read(page)]
    assert found.count("script") == clean.count("script")
    assert "img" not in found
    assert not any(name.startswith("on") for _, attributes in _read(page) for name in attributes)
    for hidden in "\x1b\u202e\u2066\x00\x85\u2028":
        assert hidden not in page
    assert "javascript:&lt;" not in page
    assert "passwd" not in page


@pytest.mark.parametrize("path", ["javascript:alert(1)", "calls/a b#1?.wav", "calls/ä.wav"])
def test_links_stay_below_the_page(path: str) -> None:
    assert re.fullmatch(r"\./[A-Za-z0-9_.%/-]+", relative(path))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../run.json", "//evil.example/x", "a/../../b", "a\\b"])
def test_no_link_leads_away(path: str) -> None:
    assert relative(path) == ""


def test_huge_words_and_figures_that_are_none_stay_small(failed_run: RunReport) -> None:
    call = failed_run.scenarios[0].calls[0]
    call.turns[0]["text"] = "x" * 5_000_000
    call.ladder = [{"at": 0.1, "out": True, "title": "INFO" * 1000, "text": "y" * 50_000}] * 5000
    call.metrics["v2v_ms"] = [math.nan, math.inf]
    page = run_page(failed_run, {})
    assert len(page) < 1_000_000
    data = json.loads(re.findall(r'id="data-call-1">(.*?)</script>', page)[0])
    assert len(data["ladder"]) == MOST_RUNGS
    assert data["ladder_left_out"] == 5000 - MOST_RUNGS
    assert data["metrics"]["v2v_ms"] == [None, None]


def test_peaks_are_one_letter_each() -> None:
    assert levels([0.0, 1.0, (31 / 63) ** 2, 7.0, -1.0, math.nan]) == "A_f_AA"


def _ready(browser: Any, page: Path, fragment: str = "") -> float:
    browser.complaints.clear()
    return float(browser.open(page.as_uri() + fragment))


def test_a_browser_shows_a_call(browser: Any, failed_run: RunReport, tmp_path: Path) -> None:
    write_report(failed_run, tmp_path)
    _ready(browser, tmp_path / "report.html")
    assert browser.run("document.querySelectorAll('.faults li').length") == 2
    assert browser.run("document.querySelectorAll('.wave').length") == 0, "calls are drawn when they are opened"
    browser.run("document.querySelector('.faults a').click()")
    assert browser.run("location.hash") == "#call-1@4.200"
    assert browser.run("document.querySelector('#call-1').open")
    assert browser.run(
        "[...document.querySelectorAll('.wave path.c, .wave path.a')].every(p => p.getBBox().width > 300)"
    )
    assert "4.20 s" in browser.run("document.querySelector('.told').textContent")
    assert "Where do you live?" in browser.run("document.querySelector('.turns').textContent")
    assert browser.run("document.querySelectorAll('.wave .hole, .wave .dead, .wave .fault, .wave .key').length") >= 4
    assert browser.run("document.querySelectorAll('.ladder .again').length") == 1
    browser.run("document.querySelector('.ladder button').click()")
    assert browser.run("document.querySelector('.ladder pre').textContent").startswith("INVITE sip:")
    rows = browser.run("document.querySelectorAll('#call-1 table tbody tr').length")
    assert 0 < rows <= len(METRICS)
    assert browser.run("document.querySelector('audio').getAttribute('src')") == "./calls/greeting-1.wav"
    assert "undefined" not in browser.run("document.body.innerText")
    assert "null" not in browser.run("document.body.innerText")
    assert browser.complaints == []


def test_a_browser_runs_nothing_of_strangers(browser: Any, failed_run: RunReport, tmp_path: Path) -> None:
    write_report(_poisoned(failed_run), tmp_path)
    _ready(browser, tmp_path / "report.html")
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    browser.run("new Promise(done => setTimeout(done, 50))")
    browser.run("document.querySelectorAll('.ladder button').forEach(one => one.click())")
    assert browser.run("document.querySelectorAll('.ladder pre').length") > 0
    assert browser.run("window.hit === undefined && document.querySelectorAll('img').length === 0")
    asked = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    addresses = {event["params"]["request"]["url"].partition("#")[0] for event in asked}
    # The browser draws the buttons of its player from images of its own.
    own = {one for one in addresses if one.startswith("data:image/svg+xml")}
    assert addresses - own <= {(tmp_path / "report.html").as_uri()}


def test_is_used_by_keys_and_on_narrow_screens(browser: Any, failed_run: RunReport, tmp_path: Path) -> None:
    write_report(failed_run, tmp_path)
    browser.size(360, 700)
    _ready(browser, tmp_path / "report.html", "#call-1@2.0")
    assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.run("document.querySelector('.wave svg').focus()")
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert "2.10 s" in browser.run("document.querySelector('.told').textContent")
    browser.size(1280, 900)
    assert browser.complaints == []


def test_a_call_that_was_refused_is_shown_without_a_picture(
    browser: Any, failed_run: RunReport, tmp_path: Path
) -> None:
    call = failed_run.scenarios[0].calls[0]
    call.peaks, call.turns, call.timeline, call.audio, call.capture, call.metrics = {}, [], {}, "", "", {}
    call.seconds, call.status = 0.0, 403
    (tmp_path / "report.html").write_text(run_page(failed_run, {}), encoding="utf-8")
    _ready(browser, tmp_path / "report.html", "#call-1")
    assert browser.run("document.querySelectorAll('#call-1 svg, #call-1 audio').length") == 0
    assert "403" in browser.run("document.querySelector('#call-1').innerText")
    browser.run("document.querySelector('.checks .at').click()")
    assert browser.complaints == []


def test_two_hundred_calls_of_a_minute_open_fast(browser: Any, long_run: RunReport, tmp_path: Path) -> None:
    began = time.monotonic()
    page = run_page(long_run, {})
    written = time.monotonic() - began
    size = len(page.encode())
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    loaded = _ready(browser, tmp_path / "report.html")
    assert browser.run("document.querySelectorAll('details.call').length") == 200
    began = time.monotonic()
    browser.run("document.querySelector('#call-77').open = true; new Promise(done => setTimeout(done))")
    assert browser.run("document.querySelectorAll('.wave path.a').length") == 1
    drawn = time.monotonic() - began
    print(f"{size / 1e6:.1f} MB, written in {written:.1f} s, loaded in {loaded:.2f} s, a call drawn in {drawn:.2f} s")
    assert size < 6_000_000
    assert loaded < 20
    assert browser.complaints == []


def test_a_run_of_skipped_scenarios_has_a_page(failed_run: RunReport) -> None:
    for scenario in failed_run.scenarios:
        scenario.calls, scenario.findings, scenario.verdict = [], [], Verdict.SKIPPED
        scenario.reason = "it needs a target of sip; this is twilio"
    page = run_page(failed_run, {})
    assert "None." in page
    assert page.count("it needs a target of sip") == len(failed_run.scenarios)
