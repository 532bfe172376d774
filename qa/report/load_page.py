"""The page of a load: how much the target bears, and how its service went as more calls came. It needs no script."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from offhook.qa.report.html import document, isolated, verdict, words
from offhook.qa.report.plain import number
from offhook.qa.running.knee import Window
from offhook.qa.running.load import LoadReport
from offhook.qa.running.load_model import FIGURES

WIDTH: Final = 960
HEIGHT: Final = 190
LEFT: Final = 56
RIGHT: Final = 16
TOP: Final = 14
FOOT: Final = 26

MOST_POINTS: Final = 600
"""Windows drawn and listed; of more, the worst of each stretch is drawn, and every n-th listed."""

MOST_REASONS: Final = 100

_LIMIT: Final = re.compile(r"([<>=]{1,2})([0-9.e+-]{1,30})")

DRAWN: Final = (
    ("v2v_p95", "Answers, p95"),
    ("greeting_p95", "Greetings, p95"),
    ("packet_gap_p99", "Time between packets, p99"),
    ("failures", "Failed calls"),
)

Value = Callable[[Window], float | None]


def load_page(report: LoadReport) -> str:
    """The load as one HTML file."""
    body = [_head(report), _charts(report), _figures(report), _reasons(report), _windows(report), _processes(report)]
    return document(f"{report.verdict}: {report.name} {report.run_id}", "\n".join(body))


def _head(report: LoadReport) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.began))
    facts = [
        f"<b>{report.calls} of {report.planned}</b> calls made",
        f"<b>{report.failed}</b> failed",
        f"<b>{report.left_out}</b> left out, for there were as many as may be",
        f"<b>{report.cut}</b> cut short at the end",
        f"<b>{report.late}</b> not counted, for our own frames were late",
        f"against <b>{isolated(report.target, 300)}</b>",
        when,
        f"{number(report.seconds)} s",
    ]
    knee = report.knee
    said = "How much it bears is not known: no window says enough." if knee is None else f"It bears {knee}."
    cores = "" if knee is None or knee.per_core is None else f"<li><b>{number(knee.per_core)}</b> calls a core</li>"
    items = "".join(f"<li>{fact}</li>" for fact in facts) + cores
    reason = f"<p>{isolated(report.reason)}</p>" if report.reason else ""
    return (
        f"<header><h1>{verdict(report.verdict)} {isolated(report.name, 100)} "
        f'<span class="soft">{isolated(report.run_id, 100)}</span></h1>{reason}'
        f'<p class="knee-said">{words(said)}</p><ul class="facts">{items}</ul></header>'
    )


# --- charts ---


def _charts(report: LoadReport) -> str:
    windows = [window for window in report.windows if math.isfinite(window.start)]
    if not windows:
        return ""
    knee = None if report.knee is None else (report.knee.at, "knee" if report.knee.reached else "best")
    charts = [_chart("Calls at once", "", windows, lambda window: window.calls, None, knee)]
    for name, title in DRAWN:
        unit = FIGURES[name]
        if any(window.figures.get(name) is not None for window in windows):
            charts.append(_chart(title, unit, windows, _figure_of(name), _bound(report.limits.get(name, "")), knee))
    if any(window.cores is not None for window in windows):
        charts.append(_chart("Cores that the target used", "", windows, lambda window: window.cores, None, knee))
    charts.append(_chart("How late we were ourselves, p99", "ms", windows, lambda window: window.late_ms, None, knee))
    key = (
        '<p class="soft">By the second of the load. Dashed: the limit. Red: a window that broke one. Grey: doubtful '
        "windows, which say nothing about the target. Upright: where the best window began.</p>"
    )
    return f"<section><h2>Over time</h2>{key}{''.join(charts)}</section>"


def _figure_of(name: str) -> Value:
    return lambda window: window.figures.get(name)


def _bound(limit: str) -> float | None:
    """The value of `<=1500ms`, which is in the figure's unit."""
    found = _LIMIT.match(limit)
    try:
        value = float(found[2]) if found else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _chart(
    title: str, unit: str, windows: Sequence[Window], value: Value, bound: float | None, knee: tuple[float, str] | None
) -> str:
    points = [(window, known) for window in windows if (known := value(window)) is not None and math.isfinite(known)]
    if not points:
        return ""
    points = _thinned(points)
    first, last = windows[0].start, max(window.end for window in windows)
    top = _round_up(max([known for _, known in points] + ([bound] if bound is not None else [])))

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / max(last - first, 1e-9)

    def y(of: float) -> float:
        return TOP + (HEIGHT - TOP - FOOT) * (1 - of / top)

    parts = []
    for part in range(5):
        at = y(top * part / 4)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(top * part / 4)}</text>')
    step = _round_up((last - first) / 6)
    for part in range(7):
        if step * part <= last - first:
            at = x(first + step * part)
            parts.append(
                f'<text x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{number(first + step * part)} s</text>'
            )
    height = HEIGHT - TOP - FOOT
    for window in windows[:: math.ceil(len(windows) / MOST_POINTS)]:
        if window.doubtful:
            wide = max(1.0, x(window.end) - x(window.start))
            parts.append(
                f'<rect class="doubt" x="{x(window.start):.1f}" y="{TOP}" width="{wide:.1f}" height="{height}"/>'
            )
    if bound is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(bound):.1f}" y2="{y(bound):.1f}"/>')
    if knee is not None:
        mark, name = x(knee[0]), knee[1]
        end, aside = ("end", -4) if mark > WIDTH / 2 else ("start", 4)
        parts.append(f'<line class="knee" x1="{mark:.1f}" x2="{mark:.1f}" y1="{TOP}" y2="{TOP + height}"/>')
        parts.append(f'<text class="knee" x="{mark + aside:.1f}" y="{TOP + 10}" text-anchor="{end}">{name}</text>')
    path = "L".join(f"{x((window.start + window.end) / 2):.1f} {y(known):.1f}" for window, known in points)
    parts.append(f'<path class="line" d="M{path}"/>')
    for window, known in points:
        state = " doubtful" if window.doubtful else " broken" if window.broken else ""
        broken = f": {'; '.join(window.broken)}" if window.broken else ""
        told = f"{window.start:.0f} to {window.end:.0f} s, {window.calls:.1f} at once: {number(known, unit)}{broken}"
        centre = f'cx="{x((window.start + window.end) / 2):.1f}" cy="{y(known):.1f}"'
        parts.append(f'<circle class="dot{state}" {centre} r="3"><title>{words(told, 500)}</title></circle>')
    caption = words(f"{title}, {unit}" if unit else title)
    return (
        f'<figure class="chart"><figcaption>{caption}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{caption}; the table of windows has the figures">{"".join(parts)}</svg></figure>'
    )


def _thinned(points: list[tuple[Window, float]]) -> list[tuple[Window, float]]:
    each = math.ceil(len(points) / MOST_POINTS)
    stretches = (points[at : at + each] for at in range(0, len(points), each))
    return [max(stretch, key=lambda point: point[1]) for stretch in stretches]


def _round_up(most: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten: its quarters are short to write."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 4, 5, 8, 10, 20) if step * power >= most)


# --- tables ---


def _figures(report: LoadReport) -> str:
    rows = []
    named = [(name, figures) for name, figures in report.figures.items()]
    named += [
        (f"v2v_ms of {part.name}: {part.failed} of {part.calls} failed", part.v2v_ms) for part in report.scenarios
    ]
    for name, figures in named:
        cells = [number(figures.get(which)) for which in ("n", "p50", "p90", "p95", "p99", "max")]
        rows.append([isolated(name, 200), *cells])
    limits = ", ".join(f"{name} {limit}" for name, limit in report.limits.items())
    said = f'<p class="soft">Good service was taken to be: {words(limits)}.</p>' if limits else ""
    table = _table(["in ms", "n", "p50", "p90", "p95", "p99", "max"], rows, "All calls")
    return f"<section><h2>All calls together</h2>{said}{table}</section>"


def _reasons(report: LoadReport) -> str:
    text = ""
    for title, reasons in (
        ("Why calls failed", report.failures),
        ("What went wrong in offhook itself", report.mistakes),
    ):
        most = sorted(reasons.items(), key=lambda reason: -reason[1])[:MOST_REASONS]
        if most:
            rows = [[isolated(why), str(times)] for why, times in most]
            text += f"<section><h2>{title}</h2>{_table(['reason', 'calls'], rows, title)}</section>"
    return text


def _windows(report: LoadReport) -> str:
    step = max(1, math.ceil(len(report.windows) / MOST_POINTS))
    names = [name for name in FIGURES if any(window.figures.get(name) is not None for window in report.windows)]
    rows = []
    for window in report.windows[::step]:
        state = '<span class="soft">doubtful</span>' if window.doubtful else ""
        if window.broken:
            state += f'<span class="bad">{isolated("; ".join(window.broken), 500)}</span>'
        row = [number(window.start), number(window.calls), str(window.began), str(window.ended), str(window.failed)]
        row += [number(window.figures.get(name)) for name in names]
        row += [number(window.cores), number(window.late_ms), state or _kept(window, report)]
        rows.append(row)
    heads = ["from s", "at once", "began", "ended", "failed"]
    heads += [f"{name.replace('_', ' ')} {FIGURES[name]}" for name in names]
    heads += ["target's cores", "we are late ms", "limits"]
    return (
        f"<section><h2>Windows of time</h2>{_table(heads, rows, 'Windows of time', numeric=len(heads) - 1)}</section>"
    )


def _kept(window: Window, report: LoadReport) -> str:
    known = any(window.figures.get(name) is not None for name in report.limits)
    return '<span class="good">kept</span>' if known else "–"


def _processes(report: LoadReport) -> str:
    rows = [
        [
            str(one.pid),
            str(one.calls),
            number(one.late_p99_ms),
            number(one.late_max_ms),
            str(one.frames),
            number(one.frames_late_p99_ms),
        ]
        for one in report.processes
    ]
    heads = ["process", "calls", "late p99 ms", "late max ms", "frames", "frames late p99 ms"]
    table = _table(heads, rows, "Our own processes") if rows else ""
    machine = "".join(
        f"<li>{words(str(name), 60)} <b>{isolated(str(value), 200)}</b></li>" for name, value in report.machine.items()
    )
    return f'<footer><h2>Made with</h2>{table}<ul class="facts">{machine}</ul></footer>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, *, numeric: int | None = None) -> str:
    """A table whose first column is words and the others are numbers, or the first `numeric` are; cells are HTML."""

    def right(column: int) -> str:
        return ' class="n"' if (column > 0 if numeric is None else column < numeric) else ""

    head = "".join(f'<th scope="col"{right(column)}>{words(text)}</th>' for column, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(f'<td{right(column)}>{cell}</td>' for column, cell in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{words(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
