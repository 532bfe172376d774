"""Traces of calls for an OpenTelemetry collector: one trace a call, one span a turn and its stages below it.

Theory of operation
-------------------
Spans are made from what the journal is told, a moment later and by a thread of this module's own: the event loop pays
one append an entry. The journal's entries have both clocks, so the marks of a turn, which are monotonic, become
moments of the wall clock here. The SDK's batch thread exports; every queue on the way is bounded, and when the
collector is away spans are lost, counted, and mentioned once.

The id of a trace is the id of its call: logs, records and traces are joined by it. Numbers of callers and what was
said stay out of traces.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from offhook.gateway.config_sections import Tracing
from offhook.gateway.journal import Entry
from offhook.gateway.latency import HEARING, STAGES
from offhook.gateway.reasons import CallStatus

log = structlog.get_logger("offhook.gateway.tracing")

INTERVAL: Final = 0.25
"""Seconds between two looks at the queue."""

MAX_ENTRIES: Final = 20_000
"""Journal entries that wait to become spans; some hundred busy calls' worth of a thread that does not get to run."""

MAX_FAULTS: Final = 64
"""Faults of services kept until the turn they belong to is known."""

EXPORT_TIMEOUT: Final = 5.0
"""Seconds one export may take, retries included; nothing but the end of the process waits for it."""

CLOSE_BUDGET: Final = 3.0
"""Seconds the last spans have to leave when the gateway stops."""

_CALL_ID: Final = re.compile(r"[0-9a-f]{32}")

_CALL: Final = {
    "carrier": "offhook.carrier",
    "carrier_call_id": "offhook.carrier_call_id",
    "direction": "offhook.direction",
    "route": "offhook.route",
    "agent": "offhook.agent",
}
_END: Final = {"status": "offhook.status", "reason": "offhook.reason", "ended_by": "offhook.ended_by"}
_EVENTS: Final = frozenset(
    {"agent.failed", "agent.lost", "barge_in", "carrier.order_failed", "dtmf.send", "fault", "resumed", "transfer"}
)
"""Journal entries that become events of the call's span. `dtmf` is not among them: callers type secrets."""

_PRIVATE: Final = frozenset({"digits", "to", "traceback"})
"""Fields of theirs that stay out."""


@dataclass(slots=True)
class _Trace:
    """A call that is up."""

    span: Span
    offered_at: int
    faults: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


class Tracer:
    """Makes and exports the traces of one process.

    Args:
        settings: the section `tracing` of the configuration, with an endpoint.
    """

    def __init__(self, settings: Tracing) -> None:
        # The SDK's own complaints come with every batch; `_Exporter` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._sample = settings.sample
        self._ids = _CallIds()
        resource = Resource.create({"service.name": settings.service_name, "service.version": version("offhook")})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._exporter = _Exporter(OTLPSpanExporter(settings.endpoint, headers=headers, timeout=EXPORT_TIMEOUT))
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("offhook", version("offhook"))
        self._calls: dict[str, _Trace] = {}
        self._entries: deque[Entry] = deque()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Spans that were not exported, and entries that were not made into spans."""
        return self._exporter.lost + self._dropped

    def entry(self, entry: Entry) -> None:
        """Take what the journal was told. Never blocks."""
        if len(self._entries) < MAX_ENTRIES:
            self._entries.append(entry)
        else:
            self._dropped += 1

    async def close(self) -> None:
        """Export what there is, within CLOSE_BUDGET, and end every thread."""
        self._closing.set()
        ending = asyncio.create_task(asyncio.to_thread(self._close), name="tracing-close")
        await asyncio.wait([ending], timeout=CLOSE_BUDGET)
        if not ending.done():
            self._exporter.give_up()
        await ending

    def _close(self) -> None:
        self._thread.join()
        self._provider.shutdown()

    # --- the thread

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(INTERVAL)
            while self._entries:
                entry = self._entries.popleft()
                try:
                    self._take(entry)
                except Exception:  # the root of a thread: one odd entry must not end the traces of all calls
                    self._dropped += 1
                    log.exception("an entry could not be traced", name=entry.event, call_id=entry.call)

    def _take(self, entry: Entry) -> None:
        if entry.event == "call.offered":
            self._offered(entry)
            return
        found = self._calls.get(entry.call)
        if found is None:
            return  # not sampled, or of a process before us
        data, at = entry.data, _nanoseconds(entry.at)
        if entry.event == "turn":
            self._turn(found, entry)
        elif entry.event == "call.answered":
            self._child(found.span, "ring", found.offered_at, at)
            found.span.set_attribute("offhook.format", str(data.get("format", "")))
        elif entry.event == "service.fault":
            found.faults.append((at, _attributes(data)))
            if len(found.faults) > MAX_FAULTS:
                found.faults.pop(0)
        elif entry.event == "agent.note" and data.get("name") == "function":
            self._function(found, data.get("data"), at)
        elif entry.event == "call.ended":
            self._ended(found, entry)
        elif entry.event in _EVENTS:
            found.span.add_event(entry.event, _attributes(data), at)

    def _offered(self, entry: Entry) -> None:
        if not _CALL_ID.fullmatch(entry.call) or int(entry.call[:8], 16) >= self._sample * 2**32:
            return
        self._ids.call = int(entry.call, 16)
        at = _nanoseconds(entry.at)
        attributes = {name: str(entry.data.get(key, "")) for key, name in _CALL.items()}
        span = self._tracer.start_span("call", Context(), SpanKind.SERVER, attributes, start_time=at)
        self._calls[entry.call] = _Trace(span, at)

    def _turn(self, found: _Trace, entry: Entry) -> None:
        data = entry.data
        total, hearing = _number(data, "voice_to_voice_ms"), _number(data, "hearing_ms")
        if not total:
            return  # a reply to nothing
        start = _nanoseconds(entry.at - entry.mono + _number(data, "caller_stopped"))
        end = start + _of_ms(total + hearing)
        for at, fault in found.faults:
            if at < start:
                found.span.add_event("service.fault", fault, at)
        faults = [(at, fault) for at, fault in found.faults if at >= start]
        found.faults.clear()
        attributes = {
            "offhook.utterance": int(_number(data, "utterance")),
            "offhook.voice_to_voice_ms": total,
            "offhook.voice_to_ear_ms": round(total + hearing, 1),
        }
        turn = self._tracer.start_span("turn", _below(found.span), attributes=attributes, start_time=start)
        for at, fault in faults:
            turn.add_event("service.fault", fault, at)
        stages = data.get("stages")
        times = dict(stages) if isinstance(stages, Mapping) else {}
        if hearing:
            times[HEARING] = hearing
        at = start
        for stage in (*STAGES, HEARING):
            if stage in times:
                until = at + _of_ms(_number(times, stage))
                self._child(turn, stage, at, until)
                at = until
        turn.end(end)

    def _function(self, found: _Trace, note: Any, at: int) -> None:
        if not isinstance(note, Mapping):
            return
        start = at - _of_ms(1000 * max(0.0, _number(note, "seconds")))
        ok = note.get("ok", True) is True
        self._child(found.span, f"function {note.get('function', '')}"[:100], start, at, ok=ok)

    def _ended(self, found: _Trace, entry: Entry) -> None:
        del self._calls[entry.call]
        span = found.span
        for at, fault in found.faults:
            span.add_event("service.fault", fault, at)
        span.set_attributes({name: str(entry.data.get(key, "")) for key, name in _END.items()})
        span.set_attribute("offhook.talk_seconds", _number(entry.data, "seconds"))
        if entry.data.get("status") in (CallStatus.FAILED, CallStatus.LOST):
            span.set_status(Status(StatusCode.ERROR, str(entry.data.get("detail", ""))[:200]))
        span.end(_nanoseconds(entry.at))

    def _child(self, parent: Span, name: str, start: int, end: int, *, ok: bool = True) -> None:
        span = self._tracer.start_span(name, _below(parent), start_time=start)
        if not ok:
            span.set_status(StatusCode.ERROR)
        span.end(end)


class _CallIds(RandomIdGenerator):
    """Gives the next trace the id of its call. Used by one thread."""

    call = 0

    def generate_trace_id(self) -> int:
        return self.call


class _Exporter(SpanExporter):
    """Counts what is lost, and says it once."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter: SpanExporter = exporter
        self._failing = False
        self._over = False
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE if self._over else self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self.lost += len(spans)
        if failed != self._failing and not self._over:
            self._failing = failed
            if failed:
                log.warning("traces cannot be exported; they are lost until they can")
            else:
                log.info("traces are exported again", lost=self.lost)
        return result

    def give_up(self) -> None:
        """Wait for the collector no longer; what is not exported is lost."""
        if not self._over:
            self._over = True
            self._exporter.shutdown()

    def shutdown(self) -> None:
        self.give_up()


def _below(span: Span) -> Context:
    return trace.set_span_in_context(span, Context())


def _attributes(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain fields of an entry that may leave the house."""
    return {
        name: value[:500] if isinstance(value, str) else value
        for name, value in data.items()
        if isinstance(value, str | bool | int | float) and value != "" and name not in _PRIVATE
    }


def _number(data: Mapping[str, Any], name: str) -> float:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _of_ms(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
