"""Pieces of pages that hold everything in themselves: no network, no font, no script but our own.

What strangers said gets in by `words` and `embedded` alone. Beside that, the page forbids itself by its
Content-Security-Policy (W3C CSP 3) every script but the one whose hash it names, and to load anything but recordings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from html import escape
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.report.plain import MAX_TEXT, finite, number, shown

_UNSAFE_JSON: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, script: str = "") -> str:
    """A whole page in our style.

    Args:
        title: a stranger's words, perhaps.
        body: HTML.
        script: runs at the end of the body.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; media-src 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{words(title, 200)}</title>\n<style>\n{asset('page.css')}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def words(text: str, limit: int = MAX_TEXT) -> str:
    """A stranger's words as HTML text, or in quotes as an attribute's value."""
    return escape(shown(text, limit))


def isolated(text: str, limit: int = MAX_TEXT) -> str:
    """A stranger's words as an element: their direction of writing changes nothing around them."""
    return f"<bdi>{words(text, limit)}</bdi>"


def embedded(name: str, value: Any) -> str:
    """JSON in the page, for the script to find by `name`; no `</script>` or `<!--` can be in it."""
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'<script type="application/json" id="{name}">{text.translate(_UNSAFE_JSON)}</script>'


def relative(path: str) -> str:
    """A path below the page's folder as a link's address; empty for any other."""
    parts = path.split("/")
    if not path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        return ""
    return "./" + "/".join(quote(part, errors="replace") for part in parts)


def verdict(name: str) -> str:
    """A verdict as a badge."""
    return f'<span class="verdict {css(name)}">{escape(name)}</span>'


def css(verdict: str) -> str:
    """The CSS class of a verdict."""
    return verdict.replace(" ", "-")


def grade(metric: str, value: float | None) -> str:
    """`good`, `fair` or `bad` by the bounds of METRICS; empty where there are none."""
    bounds = METRICS.get(metric)
    if bounds is None or value is None or not bounds.better:
        return ""
    sign = 1 if bounds.better == "low" else -1
    if bounds.bad is not None and sign * value > sign * bounds.bad:
        return "bad"
    if bounds.good is not None:
        return "fair" if sign * value > sign * bounds.good else "good"
    return "good" if bounds.bad is not None else ""


def latency_bar(metric: str, p50: float | None, p95: float | None) -> str:
    """p50 as a solid bar on p95 as a pale one, with ticks at the bounds of good and bad; and the figures above."""
    if p50 is None or p95 is None or not (math.isfinite(p50) and math.isfinite(p95)):
        return '<td class="bar soft">–</td>'
    bounds = METRICS[metric]
    most = max(p95, (bounds.bad or 0) * 1.1, 1)
    ticks = "".join(
        f'<line class="tick" x1="{100 * at / most:.1f}" x2="{100 * at / most:.1f}" y1="0" y2="12"/>'
        for at in (bounds.good, bounds.bad)
        if at
    )
    title = f"p50 {number(p50)}, p95 {number(p95)} {bounds.unit}; good up to {bounds.good:g}, bad beyond {bounds.bad:g}"
    return (
        f'<td class="bar"><span class="{grade(metric, p50)}">{number(p50)}</span> / '
        f'<span class="{grade(metric, p95)}">{number(p95)}</span>'
        f'<svg viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{title}"><title>{title}</title>'
        f'<rect class="track" width="100" height="12"/>'
        f'<rect class="whole {grade(metric, p95)}" y="2" width="{max(0.0, 100 * p95 / most):.1f}" height="8"/>'
        f'<rect class="{grade(metric, p50)}" y="2" width="{max(0.0, 100 * p50 / most):.1f}" height="8"/>'
        f"{ticks}</svg></td>"
    )
