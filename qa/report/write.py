"""Write what a run leaves behind: for people a page, for build servers JUnit, for pull requests Markdown, and JSON."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from offhook.qa.report.junit import junit
from offhook.qa.report.load_page import load_page
from offhook.qa.report.markdown import load_summary, summary
from offhook.qa.report.plain import finite
from offhook.qa.report.run_page import run_page
from offhook.qa.running.folder import CALLS, write_run
from offhook.qa.running.load import LoadReport
from offhook.qa.running.result import RunReport

PAGE: Final = "report.html"
JUNIT: Final = "junit.xml"
SUMMARY: Final = "summary.md"

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


def write_report(report: RunReport, folder: Path) -> None:
    """Write run.json, report.html, junit.xml, summary.md and calls/<scenario>-<n>.json. Raises OSError."""
    (folder / CALLS).mkdir(parents=True, exist_ok=True)
    write_run(report, folder)
    files = {}
    for scenario in report.scenarios:
        for call in scenario.calls:
            files[call.scenario, call.number] = call_file(call.scenario, call.number)
            _write(folder / files[call.scenario, call.number], _json(asdict(call)))
    _write(folder / PAGE, run_page(report, files))
    _write(folder / JUNIT, junit(report))
    _write(folder / SUMMARY, summary(report))


def write_load(report: LoadReport, folder: Path) -> None:
    """Write load.json, load.html and load.md. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "load.json", _json(report.as_dict()))
    _write(folder / "load.html", load_page(report))
    _write(folder / "load.md", load_summary(report))


def call_file(scenario: str, number: int) -> str:
    """Where a call's JSON is, from the run's folder. Names of scenarios fit files, but a run.json may be anybody's."""
    return f"{CALLS}/{_UNSAFE.sub('_', scenario)[:100]}-{number}.json"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _write(file: Path, text: str) -> None:
    """Whole or not at all; what cannot be UTF-8 becomes `?`."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_bytes(text.encode("utf-8", "replace"))
    os.replace(fresh, file)
