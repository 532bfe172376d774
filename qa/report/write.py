"""Write what a run leaves behind: for people a page, for build servers JUnit, for pull requests Markdown, and JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from offhook.qa.report.junit import junit
from offhook.qa.report.load_page import load_page
from offhook.qa.report.markdown import load_summary, summary
from offhook.qa.report.run_page import run_page
from offhook.qa.running.folder import CALLS, write_run, write_whole
from offhook.qa.running.load import LoadReport
from offhook.qa.running.result import CallReport, RunReport

PAGE: Final = "report.html"
JUNIT: Final = "junit.xml"
SUMMARY: Final = "summary.md"

_CALL: Final = TypeAdapter(CallReport)
_LOAD: Final = TypeAdapter(LoadReport)
"""They write what is no finite number as null."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


def write_report(report: RunReport, folder: Path) -> None:
    """Write run.json, report.html, junit.xml, summary.md and calls/<scenario>-<n>.json. Raises OSError."""
    (folder / CALLS).mkdir(parents=True, exist_ok=True)
    write_run(report, folder)
    files = {}
    for scenario in report.scenarios:
        for call in scenario.calls:
            files[call.scenario, call.number] = call_file(call.scenario, call.number)
            write_whole(folder / files[call.scenario, call.number], _CALL.dump_json(call) + b"\n")
    _text(folder / PAGE, run_page(report, files))
    _text(folder / JUNIT, junit(report))
    _text(folder / SUMMARY, summary(report))


def write_load(report: LoadReport, folder: Path) -> None:
    """Write load.json, load.html and load.md. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "load.json", _LOAD.dump_json(report, indent=1) + b"\n")
    _text(folder / "load.html", load_page(report))
    _text(folder / "load.md", load_summary(report))


def call_file(scenario: str, number: int) -> str:
    """Where a call's JSON is, from the run's folder. Names of scenarios fit files, but a run.json may be anybody's."""
    return f"{CALLS}/{_UNSAFE.sub('_', scenario)[:100]}-{number}.json"


def _text(file: Path, text: str) -> None:
    """What cannot be UTF-8 becomes `?`."""
    write_whole(file, text.encode("utf-8", "replace"))
