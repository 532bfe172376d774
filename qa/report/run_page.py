"""The page of a run: what failed, the scenarios, and each call, drawn when it is opened.

Without a script there is still what failed, the table and, for each call, its assertions and links to its files. The
rest of a call is JSON in the page that `run.js` draws: two hundred calls of a minute are a few megabytes so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.report.faults import Fault, faults, together
from offhook.qa.report.html import (
    asset,
    css,
    document,
    embedded,
    grade,
    isolated,
    latency_bar,
    relative,
    verdict,
    words,
)
from offhook.qa.report.plain import number, shown
from offhook.qa.running.result import CallReport, Finding, RunReport, ScenarioReport, Verdict

MOST_CALLS: Final = 500
"""Calls in the page, those that did not pass first; all are in `calls/`."""

MOST_FAULTS: Final = 300
"""Assertions that failed, however often each."""

MOST_TIMES: Final = 40
"""Calls that are named in which the same assertion failed."""

MOST_FINDINGS: Final = 300
"""Of a call."""

MOST_RUNGS: Final = 300
"""Messages in a call's ladder."""

MOST_ITEMS: Final = 3_000
"""Entries of any other list of a call."""

MAX_MESSAGES: Final = 200_000
"""Characters of all messages of a call's ladder; beyond it they have only titles."""

_LEVELS: Final = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)

COLUMNS: Final = (("v2v_ms", "answer"), ("greeting_ms", "greeting"), ("barge_stop_ms", "barge-in stop"))


def run_page(report: RunReport, files: Mapping[tuple[str, int], str]) -> str:
    """The run as one HTML file.

    Args:
        report: the run.
        files: (scenario, number of the call) → its JSON, from the page's folder.
    """
    calls = [call for scenario in report.scenarios for call in scenario.calls]
    drawn = sorted(calls, key=lambda call: call.verdict == Verdict.PASS)[:MOST_CALLS]
    names = {id(call): f"call-{index}" for index, call in enumerate(drawn, 1)}
    metrics = {name: metric._asdict() for name, metric in METRICS.items()}
    body = [
        _head(report, calls),
        _faults(report, names),
        _scenarios(report, names),
        _statistics(report),
        _calls(drawn, len(calls), names, files),
        _foot(report),
        embedded("metrics", metrics),
    ]
    return document(f"{report.verdict}: {report.run_id}", "\n".join(body), asset("run.js"))


def _head(report: RunReport, calls: Sequence[CallReport]) -> str:
    passed = sum(call.verdict == Verdict.PASS for call in calls)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.began))
    late = report.machine.get("own_late_p99_ms")
    facts = [
        f"<b>{passed} of {len(calls)}</b> calls passed",
        f"<b>{len(report.scenarios)}</b> {'scenario' if len(report.scenarios) == 1 else 'scenarios'}",
        f"against <b>{isolated(report.target, 300)}</b>",
        when,
        f"{number(report.seconds)} s",
    ]
    if isinstance(late, int | float):
        facts.append(f"the caller's own frames were late by {number(late)} ms (p99)")
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    title = f"<h1>{verdict(report.verdict)} {isolated(report.run_id, 100)}</h1>"
    return f'<header>{title}<ul class="facts">{items}</ul></header>'


def _faults(report: RunReport, names: Mapping[int, str]) -> str:
    found = faults(report)
    other = faults(report, gate=False)
    if not found:
        text = '<h2 id="failed">Failed assertions</h2><p class="good">None.</p>'
    else:
        groups = together(found)
        rows = "".join(_fault(group, names) for group in groups[:MOST_FAULTS])
        left = len(groups) - MOST_FAULTS
        more = f'<p class="soft">… and {left} more</p>' if left > 0 else ""
        text = f'<h2 id="failed">Failed assertions ({len(found)})</h2><ol class="faults">{rows}</ol>{more}'
    if other:
        rows = "".join(_fault(group, names) for group in together(other)[:MOST_FAULTS])
        text += (
            f"<details><summary>{len(other)} more that do not count (<code>gate: false</code>)</summary>"
            f'<ol class="faults">{rows}</ol></details>'
        )
    return f"<section>{text}</section>"


def _fault(group: Sequence[Fault], names: Mapping[int, str]) -> str:
    fault = group[0]
    finding = fault.finding
    where = f'<code class="where">{words(finding.where, 500)}</code>' if finding.where else ""
    more = ""
    if len(group) > 1:
        links = ", ".join(_link(one, names, short=True) for one in group[1 : MOST_TIMES + 1])
        left = len(group) - 1 - MOST_TIMES
        links += f" and {left} more" if left > 0 else ""
        more = f'<span class="times">{len(group) - 1} more like it: {links}</span>'
    return (
        f'<li class="{css(fault.verdict)}"><span class="kind">{words(fault.kind)}</span>{_link(fault, names)}<br>'
        f"{isolated(finding.message)}{where}{more}</li>"
    )


def _link(fault: Fault, names: Mapping[int, str], *, short: bool = False) -> str:
    """The call of a fault, leading to its moment; `short`: only the call's number."""
    call, at = fault.call, fault.finding.at
    title = f"#{call.number}" if call is not None and short else isolated(fault.title, 200)
    name = names.get(id(call)) if call is not None else None
    if name is None:
        return title
    about = f' title="{words(fault.finding.message, 500)}"' if short else ""
    if at is None:
        return f'<a href="#{name}" data-call="{name}"{about}>{title}</a>'
    when = "" if short else f" at {number(at, 's')}"
    return f'<a href="#{name}" data-call="{name}" data-at="{at:.3f}"{about}>{title}{when}</a>'


def _scenarios(report: RunReport, names: Mapping[int, str]) -> str:
    heads = ["scenario", "verdict", "calls passed", *(f"{title} ms, p50 / p95" for _, title in COLUMNS)]
    heads += ["dead air, max s", "MOS"]
    cells = "".join(f'<th scope="col"{_right(head)}>{head}</th>' for head in heads)
    rows = "".join(_scenario(one, names) for one in report.scenarios)
    return (
        '<section><h2>Scenarios</h2><div class="wide" tabindex="0" role="region" aria-label="Scenarios"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _right(head: str) -> str:
    return ' class="n"' if head in ("calls passed", "dead air, max s", "MOS") else ""


def _scenario(one: ScenarioReport, names: Mapping[int, str]) -> str:
    name = isolated(one.name, 100)
    first = next((names[id(call)] for call in one.calls if id(call) in names), None)
    if first is not None:
        name = f'<a href="#{first}" data-call="{first}">{name}</a>'
    cells = [f'<td class="name" title="{words(one.file, 500)}">{name}</td>', f"<td>{verdict(one.verdict)}</td>"]
    if not one.calls:
        cells.append(f'<td colspan="{len(COLUMNS) + 3}" class="soft">{isolated(one.reason)}</td>')
    else:
        power = (
            "" if one.pass_k is None or len(one.calls) < 2 else f'<br><span class="soft">pass^k {one.pass_k:.2f}</span>'
        )
        cells.append(f'<td class="n">{one.passed} of {len(one.calls)}{power}</td>')
        for metric, _ in COLUMNS:
            figures = one.statistics.get(metric, {})
            cells.append(latency_bar(metric, figures.get("p50"), figures.get("p95")))
        for metric, which in (("dead_air_max_s", "max"), ("mos_e", "p50")):
            value = one.statistics.get(metric, {}).get(which)
            cells.append(f'<td class="n {grade(metric, value)}">{number(value)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _statistics(report: RunReport) -> str:
    rows = []
    for name, figures in report.statistics.items():
        metric = METRICS.get(name)
        if metric is None or not figures.get("n"):
            continue
        low, high = figures.get("p95_low"), figures.get("p95_high")
        sure = f"{number(low)} to {number(high)}" if low is not None and high is not None else ""
        cells = "".join(f'<td class="n">{number(figures.get(which))}</td>' for which in ("n", "p50", "p90"))
        cells += f'<td class="n {grade(name, figures.get("p95"))}">{number(figures.get("p95"))}</td>'
        cells += f'<td class="n soft">{sure}</td>'
        cells += "".join(f'<td class="n">{number(figures.get(which))}</td>' for which in ("p99", "max"))
        rows.append(
            f'<tr><td><code>{name}</code></td>{cells}<td class="soft">{metric.unit.replace("pct", "%")}</td>'
            f'<td class="soft">{words(metric.meaning)}</td></tr>'
        )
    if not rows:
        return ""
    heads = ("n", "p50", "p90", "p95", "p95, 95 % sure", "p99", "max")
    cells = "".join(f'<th scope="col" class="n">{head}</th>' for head in heads)
    return (
        "<section><h2>All calls together</h2><details><summary>Percentiles of every metric</summary>"
        '<div class="wide" tabindex="0" role="region" aria-label="Percentiles"><table><thead><tr>'
        f'<th scope="col">metric</th>{cells}<th scope="col">unit</th><th scope="col">what it is</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details></section>"
    )


def _calls(
    drawn: Sequence[CallReport], made: int, names: Mapping[int, str], files: Mapping[tuple[str, int], str]
) -> str:
    if not drawn:
        return ""
    verdicts = sorted({str(call.verdict) for call in drawn})
    options = "".join(f'<option value="{css(one)}">{one}</option>' for one in verdicts)
    tools = (
        '<div class="tools" id="tools" hidden><label>Show <select><option value="">all</option>'
        f'{options}</select></label><label><span class="vh">Search</span><input type="search" '
        'placeholder="scenario, number, what failed"></label><output class="soft"></output></div>'
    )
    without = (
        "<noscript><p>Waveforms, ladders and measurements need JavaScript; the JSON beside has all.</p></noscript>"
    )
    listed = "\n".join(_call(call, names[id(call)], files.get((call.scenario, call.number), "")) for call in drawn)
    more = (
        f'<p class="soft">… and {made - len(drawn)} more, in the folder <code>calls</code></p>'
        if made > len(drawn)
        else ""
    )
    return f"<section><h2>Calls</h2>{tools}{without}{listed}{more}</section>"


def _call(call: CallReport, name: str, file: str) -> str:
    failed = [one for one in call.findings if one.failed]
    facts = [f'<span class="name">{isolated(call.scenario, 100)} #{call.number}</span>', f"{number(call.seconds, 's')}"]
    answers = call.metrics.get("v2v_ms")
    if isinstance(answers, list) and answers:
        median = float(np.median(answers))
        facts.append(f'answers in <span class="{grade("v2v_ms", median)}">{number(median, "ms")}</span>')
    if call.ended:
        facts.append(isolated(call.ended, 100))
    said = "".join(f"<span>{fact}</span>" for fact in facts)
    first = f'<span class="first">{isolated(failed[0].message, 300)}</span>' if failed else ""
    links = [
        f'<a href="{address}"{down}>{what}</a>'
        for address, what, down in (
            (relative(call.audio), "recording (WAV)", ""),
            (relative(call.capture), "capture (pcap)", " download"),
            (relative(file), "all of it (JSON)", ""),
        )
        if address
    ]
    about = f"<li>way <b>{words(call.way)}</b></li><li>to <b>{isolated(call.target, 300)}</b></li>"
    about += f"<li>status <b>{call.status}</b></li>" if call.status else ""
    about += f"<li>call ID <b>{isolated(call.call_id, 200)}</b></li>" + "".join(f"<li>{link}</li>" for link in links)
    listed = "".join(f"<li>{_sentence(one)}</li>" for one in failed[:MOST_FINDINGS])
    without = f'<noscript><ul class="checks">{listed}</ul></noscript>' if listed else ""
    return (
        f'<details class="call" id="{name}" data-verdict="{css(call.verdict)}"><summary>{verdict(call.verdict)}{said}'
        f'{first}</summary><div class="body"><ul class="facts">{about}</ul>{without}<div class="view"></div></div>'
        f"{embedded(f'data-{name}', _data(call))}</details>"
    )


def _sentence(finding: Finding) -> str:
    where = f' <code class="soft">{words(finding.where, 500)}</code>' if finding.where else ""
    return f'<span class="mark bad">✗</span>{isolated(finding.message)}{where}'


def _data(call: CallReport) -> dict[str, Any]:
    """What `run.js` draws a call from."""
    left = MAX_MESSAGES
    rungs = []
    for rung in call.ladder[:MOST_RUNGS]:
        text = shown(str(rung.get("text", "")))
        left -= len(text)
        rungs.append(
            {
                "at": rung.get("at", 0.0),
                "out": bool(rung.get("out")),
                "again": bool(rung.get("again")),
                "title": shown(str(rung.get("title", "")), 200),
                "text": text if left >= 0 else "",
            }
        )
    findings = [
        {
            "kind": one.kind,
            "ok": one.ok,
            "gate": one.gate,
            "at": one.at,
            "message": shown(one.message),
            "where": shown(one.where, 500),
        }
        for one in call.findings[:MOST_FINDINGS]
    ]
    return {
        "seconds": call.seconds,
        "peaks": {side: levels(call.peaks.get(side, [])) for side in ("caller", "agent")},
        "turns": _shown(call.turns),
        "timeline": _shown(call.timeline),
        "ladder": rungs,
        "ladder_left_out": max(0, len(call.ladder) - MOST_RUNGS),
        "findings": findings,
        "metrics": {name: _shown(value) for name, value in call.metrics.items() if name in METRICS},
        "audio": relative(call.audio),
    }


def levels(peaks: Sequence[float]) -> str:
    """Peaks of 0 to 1 as one character each: 64 steps of their square root, so that quiet speech is seen."""
    values = np.nan_to_num(np.asarray(peaks, np.float64))
    steps = np.rint(np.sqrt(np.clip(values, 0, 1)) * 63).astype(np.intp)
    return bytes(_LEVELS[steps]).decode("ascii")


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {str(key): _shown(item) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value[:MOST_ITEMS]]
    return value


def _foot(report: RunReport) -> str:
    items = "".join(
        f"<li>{words(str(name), 60)} <b>{isolated(str(value), 200)}</b></li>" for name, value in report.machine.items()
    )
    return f'<footer><h2>Made with</h2><ul class="facts">{items}</ul></footer>'
