"""Failed assertions as annotations of GitHub Actions: they show beside the line of the scenario that asked.

Source: docs.github.com, "Workflow commands for GitHub Actions", and `escapeData`, `escapeProperty` of actions/toolkit.
"""

from pathlib import Path
from typing import Final

from offhook.qa.report.faults import Fault, faults, place
from offhook.qa.report.plain import line
from offhook.qa.running.result import RunReport

MOST: Final = 50
"""Annotations of a run; GitHub shows ten of each kind a step, and fifty a job."""

MAX_MESSAGE: Final = 1_000


def annotations(report: RunReport) -> list[str]:
    """Workflow commands: `::error file=…,line=…,col=…,title=…::message`; `::warning` for what does not count."""
    found = [_command("error", fault) for fault in faults(report)]
    found += [_command("warning", fault) for fault in faults(report, gate=False)]
    return list(dict.fromkeys(found))[:MOST]


def _command(level: str, fault: Fault) -> str:
    file, row, column = place(fault.finding.where)
    given = {
        "file": _relative(file) if file else "",
        "line": str(row or ""),
        "col": str(column or ""),
        "title": f"{fault.title}: {fault.kind}",
    }
    properties = ",".join(f"{name}={_property(value)}" for name, value in given.items() if value)
    return f"::{level} {properties}::{_data(line(fault.finding.message, MAX_MESSAGE))}"


def _relative(file: str) -> str:
    """As from the present folder, which in a workflow is that of the repository."""
    try:
        return Path(file).resolve().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return file


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(line(text)).replace(":", "%3A").replace(",", "%2C")
