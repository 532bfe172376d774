"""The record of one call, folded from its journal entries.

Pure: entries in, fields out. Entries may come again and out of order, since shipping may repeat itself and carriers
send status callbacks late; a record depends on the set of its entries only. (Two exceptions have their rule: the
first `call.ended` counts, and of the carrier's status callbacks the one it numbered highest.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from offhook.gateway.journal import Entry
from offhook.gateway.reasons import CallStatus

RECORDING: Final = "recording"
"""`recording_status` while it runs; afterwards the reason it stopped, `complete` as a rule."""


@dataclass(slots=True)
class CallRecord:
    """One row of `calls`. Moments are UTC by the wall clock, lengths are measured by the monotonic clock."""

    id: str
    node: str = ""
    carrier: str = ""
    carrier_call_id: str = ""
    direction: str = ""
    from_number: str = ""
    to_number: str = ""
    route: str = ""
    agent: str = ""
    status: str = CallStatus.LIVE.value
    reason: str = ""
    ended_by: str = ""
    detail: str = ""
    offered_at: datetime | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    ring_seconds: float | None = None
    "From the webhook to the first audio, or to the end of a call that had none."
    talk_seconds: float | None = None
    "Of audio; None: never answered, or still up."
    format: str = ""
    "Of the carrier's audio, such as pcmu/8000."
    transferred_to: str = ""
    carrier_status: str = ""
    carrier_cause: str = ""
    turns: int = 0
    voice_to_voice_p50_ms: float | None = None
    voice_to_voice_p95_ms: float | None = None
    utterances: int = 0
    barge_ins: int = 0
    digits: int = 0
    faults: int = 0
    agent_failures: int = 0
    service_faults: int = 0
    "Times a speech or language service did not do its work."
    takeovers: int = 0
    "Agents that went on with the call where another was lost."
    recording_status: str = ""
    "Empty: not recorded."
    recording_path: str = ""
    recording_seconds: float | None = None
    recording_bytes: int | None = None
    recording_sha256: str = ""
    events: int = 0
    last_at: datetime | None = None
    "Wall clock of the latest entry."

    def columns(self) -> dict[str, Any]:
        """Every field by its name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(slots=True)
class CallFold:
    """A record in the making."""

    record: CallRecord
    seen: set[int] = field(default_factory=set)
    last: Entry | None = None
    "The entry with the highest number."
    _offered_mono: float | None = None
    _answered_mono: float | None = None
    _ended_mono: float | None = None
    _ended_seq: int | None = None
    _latencies: list[float] = field(default_factory=list)
    _fault_events: int = 0
    _status_order: tuple[int, int] = (-1, -1)

    def apply(self, entry: Entry) -> bool:
        """Fold one entry in; False when it was there already."""
        if entry.seq in self.seen:
            return False
        self.seen.add(entry.seq)
        record = self.record
        record.events += 1
        if self.last is None or entry.seq > self.last.seq:
            self.last = entry
            record.last_at = moment(entry.at)
        if record.offered_at is None:
            record.offered_at = moment(entry.at)  # until call.offered says better
        handler = _HANDLERS.get(entry.event)
        if handler is not None:
            handler(self, entry, entry.data)
        return True

    def _offered(self, entry: Entry, data: dict[str, Any]) -> None:
        record = self.record
        record.offered_at, self._offered_mono = moment(entry.at), entry.mono
        record.from_number, record.to_number = text(data.get("from")), text(data.get("to"))
        for name in ("carrier", "carrier_call_id", "direction", "route", "agent"):
            setattr(record, name, text(data.get(name)))
        self._measure()

    def _answered(self, entry: Entry, data: dict[str, Any]) -> None:
        record = self.record
        record.answered_at, self._answered_mono = moment(entry.at), entry.mono
        record.format = text(data.get("format"))
        self._measure()

    def _ended(self, entry: Entry, data: dict[str, Any]) -> None:
        if self._ended_seq is not None and self._ended_seq < entry.seq:
            return
        self._ended_seq = entry.seq
        record = self.record
        # A call that nobody saw end was last alive at its last entry; the clock of that machine may be another one.
        record.ended_at = moment(data.get("last_at", entry.at))
        self._ended_mono = data.get("last_mono", entry.mono)
        for name in ("status", "reason", "ended_by", "detail"):
            setattr(record, name, text(data.get(name)))
        self._measure()
        faults = data.get("faults")
        if isinstance(faults, dict):
            record.faults = sum(count for count in faults.values() if isinstance(count, int))

    def _measure(self) -> None:
        offered, answered, ended = self._offered_mono, self._answered_mono, self._ended_mono
        rang_until = ended if answered is None else answered
        if offered is not None and rang_until is not None:
            self.record.ring_seconds = span(offered, rang_until)
        if answered is not None and ended is not None:
            self.record.talk_seconds = span(answered, ended)

    def _turn(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.turns += 1
        latency = data.get("voice_to_voice_ms")
        if isinstance(latency, int | float) and latency > 0:
            self._latencies.append(float(latency))
            self.record.voice_to_voice_p50_ms = percentile(self._latencies, 0.50)
            self.record.voice_to_voice_p95_ms = percentile(self._latencies, 0.95)

    def _utterance(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.utterances += 1

    def _barge_in(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.barge_ins += 1

    def _dtmf(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.digits += 1

    def _fault(self, entry: Entry, data: dict[str, Any]) -> None:
        self._fault_events += 1
        if self._ended_seq is None:
            self.record.faults = self._fault_events

    def _agent_failed(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.agent_failures += 1

    def _service_fault(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.service_faults += 1

    def _resumed(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.takeovers += 1

    def _transfer(self, entry: Entry, data: dict[str, Any]) -> None:
        if data.get("ok"):
            self.record.transferred_to = text(data.get("to"))

    def _recording_started(self, entry: Entry, data: dict[str, Any]) -> None:
        self.record.recording_path = text(data.get("path"))
        self.record.recording_status = self.record.recording_status or RECORDING

    def _recording_stopped(self, entry: Entry, data: dict[str, Any]) -> None:
        record = self.record
        record.recording_status = text(data.get("reason")) or "complete"
        record.recording_path = text(data.get("path")) or record.recording_path
        seconds, size = data.get("seconds"), data.get("bytes")
        record.recording_seconds = float(seconds) if isinstance(seconds, int | float) else None
        record.recording_bytes = size if isinstance(size, int) else None
        record.recording_sha256 = text(data.get("sha256"))

    def _carrier_status(self, entry: Entry, data: dict[str, Any]) -> None:
        sequence = data.get("sequence")
        order = (sequence if isinstance(sequence, int) else 0, entry.seq)
        if order > self._status_order and data.get("status"):
            self._status_order = order
            self.record.carrier_status = text(data.get("status"))
            self.record.carrier_cause = text(data.get("cause")) or self.record.carrier_cause


_HANDLERS: Final = {
    "call.offered": CallFold._offered,
    "call.answered": CallFold._answered,
    "call.ended": CallFold._ended,
    "turn": CallFold._turn,
    "utterance": CallFold._utterance,
    "barge_in": CallFold._barge_in,
    "dtmf": CallFold._dtmf,
    "fault": CallFold._fault,
    "agent.failed": CallFold._agent_failed,
    "service.fault": CallFold._service_fault,
    "resumed": CallFold._resumed,
    "transfer": CallFold._transfer,
    "recording.started": CallFold._recording_started,
    "recording.stopped": CallFold._recording_stopped,
    "carrier.status": CallFold._carrier_status,
}


def moment(seconds: float) -> datetime:
    """UTC of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def span(start: float, end: float) -> float:
    """Seconds between two monotonic moments; never negative, for a machine may have restarted in between."""
    return round(max(0.0, end - start), 3)


def text(value: Any) -> str:
    """Text of a field of an entry; None is empty."""
    return "" if value is None else str(value)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
