"""The pages."""

from __future__ import annotations

from html import escape

from offhook.qa.report.faults import faults
from offhook.qa.report.markdown import load_summary
from offhook.qa.report.plain import shown
from offhook.qa.running.load import LoadReport
from offhook.qa.running.result import RunReport


def run_page(report: RunReport) -> str:
    """The run as one file."""
    rows = "".join(
        f"<li>{escape(fault.title)}: {escape(fault.kind)}: {escape(shown(fault.finding.message))}"
        for fault in faults(report)
    )
    return f'<!doctype html><meta charset="utf-8"><title>{escape(report.run_id)}</title><ul>{rows}</ul>\n'


def load_page(report: LoadReport) -> str:
    """The load as one file."""
    text = escape(load_summary(report))
    return f'<!doctype html><meta charset="utf-8"><title>{escape(report.name)}</title><pre>{text}</pre>\n'
