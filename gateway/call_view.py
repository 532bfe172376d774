"""Call records for people and for programs: a list of calls, and one call with everything known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from offhook.gateway.journal import Entry
from offhook.gateway.latency import HEARING, STAGE_HEADS, STAGES
from offhook.gateway.logs import printable
from offhook.gateway.records import CallRecord

MEDIUM, WIDE = 100, 140
"""Columns of a terminal from which a list has more columns, and shows them in full."""
SHORT_ID: Final = 8
"""Letters of an id in a list; `calls show` takes the beginning of an id."""

MARKS: Final = (
    "caller_stopped",
    "turn_ended",
    "understood",
    "first_token",
    "reply_text",
    "reply_audio",
    "first_sent",
    "first_voiced",
    "first_heard",
)
"""The moments of a turn that the record keeps, in the order they should come."""

QUALITY: Final = (
    ("packets_received", "received", " packets"),
    ("packets_sent", "sent", ""),
    ("loss_percent", "lost", " %"),
    ("remote_loss_percent", "lost there", " %"),
    ("jitter_ms", "jitter", " ms"),
    ("rtt_ms", "round trip", " ms"),
    ("mos", "score", ""),
)
"""What is shown of a call's audio: the name in `media.quality`, the word before, the unit."""

STATUS_STYLE: Final = {
    "completed": "green",
    "live": "bold cyan",
    "failed": "bold red",
    "lost": "bold red",
    "refused": "yellow",
    "unanswered": "yellow",
}


@dataclass(frozen=True, slots=True)
class Line:
    """Something one side said."""

    at: float
    "Seconds since the call was offered."
    role: str
    text: str
    note: str = ""
    "What became of it, when it was not heard whole."


def conversation(events: Sequence[Entry]) -> list[Line]:
    """What was said, in order. Of the agent only utterances count, with how much of each was heard."""
    lines: list[Line] = []
    start = _start(events)
    for event in events:
        data, at = event.data, event.mono - start
        if event.event == "transcript":
            lines.append(Line(at, _text(data, "role"), _text(data, "text")))
        elif event.event == "utterance" and data.get("text"):
            heard, length = _number(data, "heard_ms"), _number(data, "length_ms")
            note = {
                "cut": f"cut after {heard / 1000:.1f} of {length / 1000:.1f} s",
                "dropped": "not heard",
            }.get(_text(data, "outcome"), "")
            lines.append(Line(max(0.0, at - heard / 1000), "agent", _text(data, "text"), note))
        elif event.event == "dtmf":
            lines.append(Line(at, "caller", _text(data, "digit"), "key"))
    return sorted(lines, key=lambda line: line.at)


def turns(events: Sequence[Entry]) -> list[dict[str, Any]]:
    """For every reply when it came and where its time went: at (s), total_ms, stages, hearing_ms, heard_ms, marks.

    `at` and `marks` are seconds since the call was offered; a mark that did not happen is left out.
    """
    start = _start(events)
    return [_turn(event, start) for event in events if event.event == "turn"]


def _turn(event: Entry, start: float) -> dict[str, Any]:
    data = event.data
    marks = {name: round(at - start, 3) for name in MARKS if (at := _number(data, name))}
    total, hearing = _number(data, "voice_to_voice_ms"), data.get("hearing_ms")
    known = total > 0 and isinstance(hearing, int | float)
    return {
        "at": marks.get("first_voiced", marks.get("first_sent", round(event.mono - start, 3))),
        "utterance": data.get("utterance"),
        "total_ms": total,
        "stages": {name: ms for name, ms in dict(data.get("stages") or {}).items() if isinstance(ms, int | float)},
        "hearing_ms": hearing if known else None,
        "heard_ms": round(total + _number(data, "hearing_ms"), 1) if known else None,
        "marks": marks,
    }


def record_json(record: CallRecord) -> dict[str, Any]:
    """A record as JSON has it: moments in ISO 8601, UTC."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.columns().items()
    }


def call_json(record: CallRecord, events: Sequence[Entry]) -> dict[str, Any]:
    """Everything about one call."""
    start = _start(events)
    return {
        "call": record_json(record),
        "conversation": [
            {"at": round(line.at, 3), "role": line.role, "text": line.text, "note": line.note}
            for line in conversation(events)
        ],
        "turns": turns(events),
        "events": [
            {"seq": event.seq, "at": round(event.mono - start, 3), "event": event.event, "data": event.data}
            for event in events
        ],
    }


def print_calls(console: Console, records: Sequence[CallRecord]) -> None:
    """A line a call, newest first; a narrow terminal gets fewer columns."""
    medium, wide = console.width >= MEDIUM, console.width >= WIDE
    party = 24 if wide else 16 if medium else 14
    numbers = ("talked", "turns", "p95 ms")
    names = ["started", "from", "to", "agent", "talked", "turns", "p95 ms", "outcome", "id"]
    shown = names if medium else [name for name in names if name not in ("agent", "turns", "p95 ms")]
    table = Table(box=None, pad_edge=False, padding=(0, 2 if medium else 1, 0, 0), header_style="bold")
    for name in shown:
        table.add_column(name, no_wrap=True, justify="right" if name in numbers else "left", min_width=len(name))
    table.columns[-1].min_width = SHORT_ID
    for record in records:
        outcome = f"{record.status} {record.reason}" if wide else record.reason or record.status
        cells: dict[str, str | Text] = {
            "started": _when(record.offered_at, "%Y-%m-%d %H:%M:%S" if wide else "%m-%d %H:%M"),
            "from": Text(_cut(record.from_number, party)),
            "to": Text(_cut(record.to_number, party)),
            "agent": Text(_cut(record.agent, 16)),
            "talked": "" if record.talk_seconds is None else _clock(record.talk_seconds),
            "turns": str(record.turns or ""),
            "p95 ms": _rounded(record.voice_to_voice_p95_ms),
            "outcome": Text(printable(outcome), STATUS_STYLE.get(record.status, "")),
            "id": record.id[:SHORT_ID],
        }
        table.add_row(*[cells[name] for name in shown])
    console.print(table)


def print_call(console: Console, record: CallRecord, events: Sequence[Entry]) -> None:
    """One call: what it was, what was said, where the time went, what happened."""
    _print_summary(console, record, events)
    _print_conversation(console, conversation(events))
    _print_turns(console, turns(events))
    _print_events(console, events)


def _print_summary(console: Console, record: CallRecord, events: Sequence[Entry]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, *parts: str | Text) -> None:
        shown = [part for part in parts if part]
        if shown:
            table.add_row(name, Text(" · ").join(Text(p) if isinstance(p, str) else p for p in shown))

    row("call", Text(record.id, "bold"))
    row("parties", f"{printable(record.from_number) or 'unknown'} → {printable(record.to_number) or 'unknown'}")
    fields = next((event.data.get("fields") for event in events if event.event == "call.offered"), None)
    trunk = _text(fields, "trunk") if isinstance(fields, dict) else ""
    carrier = f"{record.carrier} {trunk}".strip()
    row("carrier", printable(carrier), record.direction, printable(record.carrier_call_id))
    row("route", f"{printable(record.route)} → {printable(record.agent) or 'no agent'}" if record.route else "")
    row(
        "time",
        _when(record.offered_at, "%Y-%m-%d %H:%M:%S %Z"),
        f"rang {record.ring_seconds:.1f} s" if record.ring_seconds is not None else "",
        f"talked {record.talk_seconds:.1f} s" if record.talk_seconds is not None else "",
        record.format,
    )
    outcome = Text(record.status, STATUS_STYLE.get(record.status, ""))
    row(
        "outcome",
        outcome,
        record.reason,
        f"by {record.ended_by}" if record.ended_by else "",
        printable(record.detail),
    )
    row("transferred", printable(record.transferred_to))
    row("carrier says", printable(record.carrier_status), printable(record.carrier_cause))
    if record.voice_to_voice_p50_ms is not None:
        latency = f"p50 {_rounded(record.voice_to_voice_p50_ms)} ms, p95 {_rounded(record.voice_to_voice_p95_ms)} ms"
        row("voice to voice", latency, _counted(record.turns, "turn"))
    counts = [
        (record.barge_ins, "barge-in"),
        (record.faults, "fault"),
        (record.agent_failures, "agent failure"),
        (record.takeovers, "take-over"),
        (record.service_faults, "service fault"),
    ]
    row("counted", *(_counted(count, word) for count, word in counts if count))
    if record.recording_status:
        row(
            "recording",
            record.recording_status,
            f"{record.recording_seconds:.1f} s" if record.recording_seconds is not None else "",
            f"{record.recording_bytes / 1e6:.1f} MB" if record.recording_bytes else "",
            printable(record.recording_path),
        )
    quality = next((event.data for event in reversed(events) if event.event == "media.quality"), {})
    row("audio", *(f"{word} {_number(quality, name):g}{unit}" for name, word, unit in QUALITY if name in quality))
    row("node", printable(record.node))
    console.print(table)


def _print_conversation(console: Console, lines: Sequence[Line]) -> None:
    if not lines:
        return
    console.print("\nConversation", style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        said = Text(printable(line.text))
        if line.note:
            said.append(f"  ({line.note})", "yellow")
        table.add_row(_clock(line.at, 1), Text(line.role, "cyan" if line.role == "agent" else "magenta"), said)
    console.print(table)


def _print_turns(console: Console, found: Sequence[dict[str, Any]]) -> None:
    if not found:
        return
    console.print("\nTurns, in ms", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("at", justify="right")
    wide = console.width >= MEDIUM
    for stage in STAGES:
        table.add_column(stage if wide else STAGE_HEADS[stage], justify="right", no_wrap=True)
    table.add_column("total", justify="right", style="bold")
    table.add_column(HEARING if wide else STAGE_HEADS[HEARING], justify="right", no_wrap=True)
    for turn in found:
        stages = [_rounded(turn["stages"].get(stage)) for stage in STAGES]
        hearing = _rounded(turn["hearing_ms"])
        table.add_row(_clock(turn["at"], 1), *stages, _rounded(turn["total_ms"] or None) or "—", hearing)
    console.print(table)


def _print_events(console: Console, events: Sequence[Entry]) -> None:
    console.print("\nEvents", style="bold")
    start = _start(events)
    width = max((len(event.event) for event in events), default=0)
    for event in events:
        data = ", ".join(f"{name}={_value(value)}" for name, value in event.data.items() if value not in ("", None, {}))
        line = Text(f"{_clock(event.mono - start, 3):>9}  ", "dim")
        line.append(f"{printable(event.event):<{width}}  ", "none")
        line.append(printable(data).replace("\n", "\\n"))
        line.truncate(console.width, overflow="ellipsis")
        console.print(line, no_wrap=True)


def _start(events: Sequence[Entry]) -> float:
    return events[0].mono if events else 0.0


def _text(data: dict[str, Any], name: str) -> str:
    return str(data.get(name) or "")


def _cut(text: str, width: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _number(data: dict[str, Any], name: str) -> float:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(item)}" for name, item in value.items()) + "}"
    return str(value)


def _when(moment: datetime | None, form: str) -> str:
    return moment.astimezone().strftime(form) if moment is not None else ""


def _clock(seconds: float, digits: int = 0) -> str:
    """0:41, or 0:41.2 with a digit."""
    minutes, rest = divmod(round(max(0.0, seconds), digits), 60)
    return f"{int(minutes)}:{rest:0{digits + 3 if digits else 2}.{digits}f}"


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
