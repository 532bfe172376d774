"""The part of a media stream that all carriers with JSON text messages share.

A carrier's `wire.py` declares its messages as tagged msgspec structs and derives its gateway side from
`JsonStream`, which decodes, guards against floods, keeps the marks in order, and sees to it that a stream
starts once and ends once. The order of the states is

    waiting ──start──▶ open ──stop, closed, fatal fault──▶ over

and audio counts only while open. Everything a peer can do wrong becomes a `ProtocolFault`; nothing raises.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from offhook.codecs.audio import AudioFormat
from offhook.providers.base import (
    DtmfReceived,
    MarkReached,
    MediaReceived,
    MediaStream,
    ProtocolFault,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.guard import FloodGuard

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message. A frame of 20 ms is under 1 kB; the socket's own limit is the same."""

MAX_LOST_MS: Final = 10_000
"""The longest hole we report: a counter that jumps further is broken, not behind."""

MAX_PENDING_MARKS: Final = 1000
"""Marks waiting for their echo. At one a frame that is twenty seconds; older ones are given up."""

DTMF_DIGITS: Final = frozenset("0123456789ABCD*#")

UNSUPPORTED_DATA: Final = 1003
"""RFC 6455 7.4.1, for audio we cannot read."""
POLICY_VIOLATION: Final = 1008
"""RFC 6455 7.4.1, for a stream that is not the one we asked for, or that floods us."""
MESSAGE_TOO_BIG: Final = 1009
"""RFC 6455 7.4.1."""


class MediaBody(msgspec.Struct):
    """Audio inside a media message. Numbers may come as numbers or as strings."""

    payload: bytes
    "msgspec decodes and validates the base64."
    track: str = "inbound"
    chunk: int | None = None
    "Counts from 1, one a message and track."


def fault_kind(error: Exception) -> str:
    """Which of FAULT_KINDS a decoding error is.

    msgspec names the place of every validation error; that, not the rest of its wording, is what counts.
    """
    if not isinstance(error, msgspec.ValidationError):
        return "bad-json"  # malformed, not UTF-8, or nested without end
    text = str(error)
    if "`$.event`" in text or "required field `event`" in text:
        return "unknown-event"
    if "base64" in text:
        return "bad-base64"
    return "bad-message" if "`$" in text or "required field" in text else "bad-json"


def utf8_excerpt(data: bytes | str, size: int = 60) -> str:
    """The head of a message for a log line: printable, short, without audio."""
    text = data[: size * 4].decode("utf-8", "replace") if isinstance(data, bytes) else data[: size * 4]
    head, _, _ = text.partition('"payload"')
    return ascii(head[:size])


class JsonStream(MediaStream):
    """Gateway side of a media socket that speaks JSON text messages."""

    def __init__(
        self, *, expect_call_id: str, carrier: str, decoder: msgspec.json.Decoder[Any], media_type: type[Any]
    ) -> None:
        """Wait for the start.

        Args:
            expect_call_id: the carrier's id of the call this socket belongs to.
            carrier: its name, for the text of faults.
            decoder: of everything the carrier sends.
            media_type: the struct of a media message: `media: MediaBody` and `stream_id: str`, empty when absent.
        """
        self.stream_id = ""
        self._expect_call_id = expect_call_id
        self._carrier = carrier
        self._decode = decoder.decode
        self._media_type = media_type
        self._state: Literal["waiting", "open", "over"] = "waiting"
        self._guard = FloodGuard(8000)
        self._next_chunk = 1
        self._marks: deque[str] = deque()
        "Sent, not echoed, not cleared; oldest first."
        self._cleared_marks: deque[str] = deque()
        "Sent before the last clear, not echoed yet."

    # --- the contract ---

    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        if len(data) > MAX_MESSAGE:
            return self._fatal("bad-message", f"message of {len(data)} bytes, limit {MAX_MESSAGE}", MESSAGE_TOO_BIG)
        try:
            message = self._decode(data)
        # ValueError: not UTF-8 (bytes), or lone surrogates (str). RecursionError: nested without end.
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            if not self._guard.admit(0, now):
                return self._flood(now)
            if self._state == "over":
                return self._after_stop()
            return (ProtocolFault(fault_kind(error), f"{error}: {utf8_excerpt(data)}"[:200]),)
        if type(message) is not self._media_type or self._state != "open":
            if not self._guard.admit(0, now):
                return self._flood(now)
            if self._state == "over":
                return self._after_stop()
            if type(message) is self._media_type:
                return (ProtocolFault("media-before-start", "audio before start"),)
            return self._handle(message, now)

        # The hot path: 50 times a second for every call.
        if message.stream_id != self.stream_id and message.stream_id:
            return self._wrong_stream(message.stream_id)
        body = message.media
        if body.track != "inbound":
            return ()
        payload = body.payload
        if not self._guard.admit(len(payload), now):
            return self._flood(now)
        chunk = body.chunk
        if chunk == self._next_chunk:
            self._next_chunk += 1
            return self._heard(payload, 0, now)
        if chunk is None:
            return self._heard(payload, 0, now)
        missing = chunk - self._next_chunk
        self._next_chunk = chunk + 1
        if missing < 0:  # TCP keeps the order, so it is the counter that is wrong, not the audio
            fault = ProtocolFault("bad-message", f"chunk {chunk} came after {chunk - missing - 1}"[:200])
            return (fault, *self._heard(payload, 0, now))
        lost = min(missing, MAX_LOST_MS) * self.format.duration(len(payload)) * 1000
        return self._heard(payload, min(round(lost), MAX_LOST_MS), now)

    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        if not self._guard.admit(0, now):
            return self._flood(now)
        return (ProtocolFault("binary-message", f"{len(data)} bytes; {self._carrier} sends text"),)

    def closed(self, now: float) -> Sequence[StreamEvent]:
        return self._end("transport-lost")

    # --- for the carriers ---

    @abstractmethod
    def _handle(self, message: Any, now: float) -> Sequence[StreamEvent]:
        """Everything but audio, while the stream is not over."""

    def _heard(self, payload: bytes, lost_ms: int, now: float) -> Sequence[StreamEvent]:
        return (MediaReceived(payload, lost_ms),) if payload else ()

    def _start(
        self, *, stream_id: str, call_id: str, format: AudioFormat | None, wanted: str, parameters: dict[str, str]
    ) -> Sequence[StreamEvent]:
        """Open the stream. `format` None: one we do not carry, described by `wanted`."""
        if self._state != "waiting":
            return (ProtocolFault("second-start", f"start of {stream_id[:60]!a} on an open stream"),)
        if call_id != self._expect_call_id:
            detail = f"start names call {call_id[:60]!a}, this socket is for {self._expect_call_id[:60]!a}"
            return self._fatal("wrong-call", detail, POLICY_VIOLATION)
        if format is None:
            return self._fatal("unsupported-format", f"cannot read {wanted}"[:200], UNSUPPORTED_DATA)
        self._state, self.stream_id, self.format = "open", stream_id, format
        self._guard = FloodGuard(format.rate * format.sample_bytes)
        return (StreamStarted(stream_id, call_id, format, parameters),)

    def _end(self, reason: Literal["stop", "transport-lost", "protocol-error"]) -> Sequence[StreamEvent]:
        """End the stream, once."""
        if self._state == "over":
            return ()
        self._state = "over"
        return (StreamEnded(reason),)

    def _fatal(self, kind: str, detail: str, close_code: int) -> Sequence[StreamEvent]:
        return (ProtocolFault(kind, detail, close_code), *self._end("protocol-error"))

    def _flood(self, now: float) -> Sequence[StreamEvent]:
        if self._guard.hopeless(now) and self._state != "over":
            return self._fatal("flood", "more than twice real time for 10 s", POLICY_VIOLATION)
        return (ProtocolFault("flood", "more than twice real time; the excess is dropped"),)

    def _after_stop(self) -> Sequence[StreamEvent]:
        return (ProtocolFault("after-stop", "message after the stream ended"),)

    def _wrong_stream(self, stream_id: str) -> Sequence[StreamEvent]:
        return (ProtocolFault("wrong-stream-id", f"message for stream {stream_id[:60]!a}"),)

    def _dtmf(self, digit: object) -> Sequence[StreamEvent]:
        text = str(digit).upper()
        if text not in DTMF_DIGITS:
            return (ProtocolFault("bad-dtmf", f"digit {text[:20]!a} is none of 0-9, A-D, * and #"),)
        return (DtmfReceived(text),)

    def _mark_sent(self, name: str) -> None:
        self._marks.append(name)
        if len(self._marks) > MAX_PENDING_MARKS:
            self._marks.popleft()

    def _clear_sent(self) -> None:
        """Marks not echoed so far will never be reported as played."""
        self._cleared_marks.extend(self._marks)
        self._marks.clear()
        while len(self._cleared_marks) > MAX_PENDING_MARKS:
            self._cleared_marks.popleft()

    def _mark_echoed(self, name: str) -> Sequence[StreamEvent]:
        for marks, cleared in ((self._cleared_marks, True), (self._marks, False)):
            if name in marks:
                marks.remove(name)
                return (MarkReached(name, cleared),)
        return (ProtocolFault("unknown-mark", f"mark {name[:60]!a} was never sent, or came back before"),)

    def _forget_cleared(self) -> Sequence[StreamEvent]:
        """Report every mark that a clear took and that the carrier has not brought back."""
        events = tuple(MarkReached(name, True) for name in self._cleared_marks)
        self._cleared_marks.clear()
        return events
