"""The run in short, for a comment below a pull request or the summary of a job."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.report.faults import Fault, faults, together
from offhook.qa.report.plain import line, number
from offhook.qa.running.load import LoadReport
from offhook.qa.running.result import RunReport, ScenarioReport, Verdict

MAX_BYTES: Final = 64_000
"""Of the whole text; GitHub takes comments of 65,536 characters."""

MOST_FAULTS: Final = 100
MAX_MESSAGE: Final = 400
MOST_WINDOWS: Final = 200

SIGNS: Final = {
    Verdict.PASS: "✅",
    Verdict.SKIPPED: "⏭️",
    Verdict.FAIL: "❌",
    Verdict.INVALID: "⚠️",
    Verdict.UNREACHABLE: "🔌",
    Verdict.BAD_SCENARIO: "📄",
}

COLUMNS: Final = (("v2v_ms", "v2v"), ("greeting_ms", "greeting"), ("barge_stop_ms", "barge-in stop"))
"""Metrics of the table, in ms."""


def summary(report: RunReport) -> str:
    """The run as GitHub's Markdown, below `MAX_BYTES`: verdict, what failed, a table of the scenarios."""
    calls = [call for scenario in report.scenarios for call in scenario.calls]
    passed = sum(call.verdict == Verdict.PASS for call in calls)
    said = (
        f"{passed} of {_many(len(calls), 'call')} passed, {_many(len(report.scenarios), 'scenario')}, against "
        f"{code(report.target)} in {report.seconds:.0f} s ({_when(report.began)})."
    )
    head = [
        f"## {SIGNS[report.verdict]} offhook: {report.verdict}",
        "",
        said,
        "",
    ]
    failed = together(faults(report))
    listed = [_fault(group) for group in failed[:MOST_FAULTS]]
    table = [
        "| scenario | verdict | calls passed | "
        + " | ".join(f"{title} p50 / p95 ms" for _, title in COLUMNS)
        + " | dead air s | MOS |",
        "|---|---|---:|" + "---:|" * (len(COLUMNS) + 2),
    ]
    return _fitted(head, ("### Failed assertions", listed, len(failed)), ("### Scenarios", table, report.scenarios))


def _fitted(
    head: list[str], failed: tuple[str, list[str], int], scenarios: tuple[str, list[str], list[ScenarioReport]]
) -> str:
    """Half of the room for what failed, at most, and all that is left for the table."""
    title, lines, count = failed
    out = list(head)
    if lines:
        kept = _within(lines, MAX_BYTES // 2)
        out += [title, "", *kept]
        out += [f"- … and {count - len(kept)} more in the report"] if count > len(kept) else []
        out.append("")
    title, table, reports = scenarios
    room = MAX_BYTES - _size([*out, title, "", *table]) - 200
    kept = _within((_row(one) for one in reports), room)
    out += [title, "", *table, *kept]
    out += ["", f"… and {len(reports) - len(kept)} more in the report"] if len(reports) > len(kept) else []
    return "\n".join(out) + "\n"


def _fault(group: list[Fault]) -> str:
    fault, more = group[0], len(group) - 1
    finding = fault.finding
    where = f" — {code(finding.where)}" if finding.where else ""
    times = f", and {more} more like it" if more else ""
    return f"- **{fault.kind}** {code(fault.title)}: {code(finding.message, MAX_MESSAGE)}{where}{times}"


def _row(one: ScenarioReport) -> str:
    cells = [code(one.name, 100), f"{SIGNS[one.verdict]} {one.verdict}"]
    if not one.calls:
        cells += ["–", code(one.reason, 200) if one.reason else "–", *["–"] * (len(COLUMNS) + 1)]
    else:
        cells.append(f"{one.passed}/{len(one.calls)}")
        cells += [f"{_figure(one, metric, 'p50')} / {_figure(one, metric, 'p95')}" for metric, _ in COLUMNS]
        cells += [_figure(one, "dead_air_max_s", "max"), _figure(one, "mos_e", "p50")]
    return f"| {' | '.join(cells)} |"


def load_summary(report: LoadReport) -> str:
    """The load as GitHub's Markdown: verdict, knee, a table of the windows."""
    said = (
        f"{_many(report.calls, 'call')} of {report.planned} planned, {report.failed} failed, {report.left_out} left "
        f"out, against {code(report.target)} in {report.seconds:.0f} s ({_when(report.began)})."
    )
    out = [
        f"## {SIGNS[report.verdict]} offhook load {code(report.name, 100)}: {report.verdict}",
        "",
        *([code(report.reason, MAX_MESSAGE), ""] if report.reason else []),
        said,
        "",
        f"**It bears {line(str(report.knee))}.**" if report.knee is not None else "How much it bears is not known.",
        "",
        "| figure | n | p50 | p90 | p95 | p99 | max |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, figures in report.figures.items():
        cells = [number(figures.get(which)) for which in ("n", "p50", "p90", "p95", "p99", "max")]
        out.append(f"| {code(name, 60)} | {' | '.join(cells)} |")
    out += ["", "| from s | calls at once | failed | v2v p95 ms | greeting p95 ms | packet gap p99 ms | limits |"]
    out += ["|---:|---:|---:|---:|---:|---:|---|"]
    rows = []
    for window in report.windows[:MOST_WINDOWS]:
        known = any(window.figures.get(name) is not None for name in report.limits)
        said = "doubtful" if window.doubtful else "kept" if known else "–"
        if window.broken and not window.doubtful:
            said = code("; ".join(window.broken), 200)
        cells = [f"{window.start:.0f}", f"{window.calls:.1f}", str(window.failed)]
        cells += [number(window.figures.get(name)) for name in ("v2v_p95", "greeting_p95", "packet_gap_p99")]
        rows.append(f"| {' | '.join([*cells, said])} |")
    kept = _within(rows, MAX_BYTES - _size(out) - 200)
    out += kept
    out += ["", f"… and {len(report.windows) - len(kept)} windows more"] if len(report.windows) > len(kept) else []
    return "\n".join(out) + "\n"


def code(text: str, limit: int = 200) -> str:
    """A stranger's words as a code span: no mention, link, image or HTML comes of them (GFM 6.1, 4.10)."""
    flat = line(text, limit)
    if not flat:
        return "–"
    fence = "`"
    while fence in flat:
        fence += "`"
    # Within a table a bar ends the cell, even in code.
    return f"{fence} {flat} {fence}".replace("|", "\\|") if "`" in flat else f"`{flat}`".replace("|", "\\|")


def _figure(one: ScenarioReport, metric: str, which: str) -> str:
    value = one.statistics.get(metric, {}).get(which)
    bad, better = METRICS[metric].bad, METRICS[metric].better
    beyond = value is not None and bad is not None and (value > bad if better == "low" else value < bad)
    return f"**{number(value)}**" if beyond else number(value)


def _within(lines: Iterable[str], room: int) -> list[str]:
    kept: list[str] = []
    for one in lines:
        room -= _size([one])
        if room < 0:
            break
        kept.append(one)
    return kept


def _size(lines: list[str]) -> int:
    return sum(len(one.encode()) + 1 for one in lines)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
