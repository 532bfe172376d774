"""chan_websocket: a channel of Asterisk whose audio is a WebSocket, and the socket is the call.

Theory of operation
-------------------
    waiting ──MEDIA_START──▶ ringing ──accept──▶ open ──close, fault──▶ over

MEDIA_START says which channel this is and what audio it has; who calls, the dialplan says in the socket's address or
in channel variables. `accept` sends ANSWER, which answers a channel dialled with the option `n` and does nothing to
one that is up already. Audio is in binary messages with nothing around it, control in text messages.

Asterisk cuts what it gets into frames of its own and throws away what is left of a message, so every message is
filled up with silence to whole frames; only the last of an utterance ever needs it. (Of audio whose rate is
converted the rest waits for the next message.) It queues 20 s and says
MEDIA_XOFF long before: until MEDIA_XON `writable` is False and audio that comes all the same is held back here.

FLUSH_MEDIA drops the queue with the marks in it, and Asterisk never speaks of those again: they are reported as
cleared with whatever the socket says next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from offhook.codecs.audio import FRAME_MS
from offhook.providers.asterisk.calls import CHANNEL, call_fields, incoming_call
from offhook.providers.asterisk.keys import key_tones
from offhook.providers.asterisk.rates import G711, SLIN, carried, rate_converter
from offhook.providers.asterisk.wire import MAX_BINARY, BadText, MediaEvent, build_command, parse_event
from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    Binary,
    CallOffered,
    DirectStream,
    DtmfReceived,
    IncomingCall,
    MarkReached,
    MediaReceived,
    ProtocolFault,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.guard import FloodGuard

MAX_PENDING_MARKS: Final = 1000
"""Marks waiting for their event; as many frames as Asterisk queues. Older ones are given up."""

XOFF_PATIENCE: Final = 30.0
"""Seconds without MEDIA_XON after which the channel is taken for stuck: its queue lasts 20."""

MAX_HELD: Final = 20.0
"""Seconds of audio held back at most, as long as Asterisk's own queue; the surplus is dropped."""

DTMF_DIGITS: Final = frozenset("0123456789ABCD*#")

UNSUPPORTED_DATA: Final = 1003
POLICY_VIOLATION: Final = 1008
"""RFC 6455 7.4.1."""


class MediaChannelStream(DirectStream):
    """Gateway side of one chan_websocket. See the module for how it works."""

    # Asterisk sends no audio while its caller is muted or on hold; that it is gone the socket's pings tell.
    silent = True

    def __init__(
        self,
        parameters: Mapping[str, str],
        *,
        number: str = "",
        marks: bool = True,
        tones: bool = True,
        register: Callable[[str, MediaChannelStream], None] | None = None,
    ) -> None:
        """Wait for MEDIA_START.

        Args:
            parameters: of the socket's address.
            number: the called number of a call that names none.
            marks: whether this Asterisk knows MARK_MEDIA (20.18, 22.8, 23.2).
            tones: whether keys are sent by their sound.
            register: is told the carrier's id of the call and this stream, once the call is known.
        """
        self.stream_id = ""
        self.channel = ""
        "The caller's channel at Asterisk, where the dialplan has told it."
        self.media_channel = ""
        "The channel that this socket is."
        self._parameters, self._number, self._register = parameters, number, register
        self._with_marks, self._tones = marks, tones
        self._state: Literal["waiting", "ringing", "open", "over"] = "waiting"
        self._json = False
        self._guard = FloodGuard(8000)
        self._call: IncomingCall | None = None
        self._marks: deque[str] = deque()
        "Sent, not reported, not cleared; oldest first."
        self._cleared: deque[str] = deque()
        "Taken by a clear, not reported yet."
        self._late: deque[str] = deque(maxlen=MAX_PENDING_MARKS)
        "Reported as cleared; Asterisk may have reported them when the clear was on its way."
        self._xoff_at: float | None = None
        self._held = b""

    # --- what comes in

    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        if self._state == "over":
            return (ProtocolFault("after-stop", "message after the stream ended"),)
        if not self._guard.admit(0, now):
            return self._flood(now)
        try:
            event = parse_event(data)
        except BadText as error:
            return (ProtocolFault("unknown-event" if error.unknown else "bad-message", str(error)[:200]),)
        return (*self._take_cleared(), *self._handle(event, now))

    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        if self._state != "open":
            if self._state == "ringing":
                return ()
            kind = "after-stop" if self._state == "over" else "media-before-start"
            return (ProtocolFault(kind, f"{len(data)} bytes of audio"),)
        if not self._guard.admit(len(data), now):
            return self._flood(now)
        if self._xoff_at is not None and now - self._xoff_at >= XOFF_PATIENCE:
            return self._fatal("carrier-error", f"no MEDIA_XON within {XOFF_PATIENCE:g} s", POLICY_VIOLATION)
        audio = self._convert_in(data)
        if self._cleared:
            return (*self._take_cleared(), MediaReceived(audio))
        return (MediaReceived(audio),) if audio else ()

    def closed(self, now: float) -> Sequence[StreamEvent]:
        return self._end("transport-lost")

    def _handle(self, event: MediaEvent, now: float) -> Sequence[StreamEvent]:
        match event.name:
            case "MEDIA_START":
                return self._start(event)
            case "DTMF_END":
                digit = event.fields.get("digit", "").upper()
                if digit not in DTMF_DIGITS:
                    return (ProtocolFault("bad-dtmf", f"digit {digit[:20]!a} is none of 0-9, A-D, * and #"),)
                return (DtmfReceived(digit),)
            case "MEDIA_MARK_PROCESSED":
                return self._mark_processed(event.id)
            case "MEDIA_XOFF":
                self.writable = False
                self._xoff_at = now if self._xoff_at is None else self._xoff_at
            case "MEDIA_XON":
                self.writable, self._xoff_at = True, None
            case "ERROR":
                text = event.fields.get("error_text", "")
                return (ProtocolFault("carrier-error", f"Asterisk reports an error: {text}"[:200]),)
        return ()

    def _start(self, event: MediaEvent) -> Sequence[StreamEvent]:
        if self._state != "waiting":
            return (ProtocolFault("second-start", "MEDIA_START on a channel that has started"),)
        fields = event.fields
        id = fields.get("connection_id") or fields.get("channel_id", "")
        if not id:
            return self._fatal("bad-message", "MEDIA_START without connection_id", POLICY_VIOLATION)
        self._json = event.json
        name = fields.get("format", "")
        if name in G711:
            self.format = G711[name]
            rate = self.format.rate
        elif name in SLIN:
            rate = SLIN[name]
            self.format = carried(rate)
        else:
            detail = f"format {name[:40]!a}: dial the channel with c(ulaw), c(alaw) or c(slin16)"
            return self._fatal("unsupported-format", detail, UNSUPPORTED_DATA)
        self._set_wire(rate, fields.get("optimal_frame_size", ""))
        call = incoming_call(id, call_fields(self._parameters, event.variables), self._number)
        self._state, self._call, self.stream_id = "ringing", call, id
        self.channel = call.fields.get(CHANNEL, "")
        self.media_channel = fields.get("channel_id", "")
        if self._register is not None:
            self._register(call.carrier_call_id, self)
        return (CallOffered(call),)

    def _set_wire(self, rate: int, frame_size: str) -> None:
        wire_sample = self.format.sample_bytes
        own = rate * FRAME_MS // 1000 * wire_sample
        told = int(frame_size) if frame_size.isascii() and frame_size.isdigit() and len(frame_size) < 6 else 0
        # A frame that is no whole number of samples, or longer than a message, is no frame.
        self._frame = told if 0 < told <= MAX_BINARY and told % wire_sample == 0 else own
        self._most = MAX_BINARY // self._frame * self._frame
        self._hush = self.format.silence[:1]
        self._max_held = int(MAX_HELD * rate) * wire_sample
        self._guard = FloodGuard(rate * wire_sample)
        self._converts = rate != self.format.rate
        self._convert_in = rate_converter(rate, self.format.rate)
        self._convert_out = rate_converter(self.format.rate, rate)

    def _mark_processed(self, name: str) -> Sequence[StreamEvent]:
        if name in self._marks:
            self._marks.remove(name)
            return (MarkReached(name, False),)
        if name in self._late:
            self._late.remove(name)
            return ()
        return (ProtocolFault("unknown-mark", f"mark {name[:60]!a} was never sent, or came back before"),)

    def _take_cleared(self) -> Sequence[StreamEvent]:
        if not self._cleared:
            return ()
        events = [MarkReached(name, True) for name in self._cleared]
        self._late.extend(self._cleared)
        self._cleared.clear()
        return events

    def _flood(self, now: float) -> Sequence[StreamEvent]:
        if self._guard.hopeless(now):
            return self._fatal("flood", "more than twice real time for 10 s", POLICY_VIOLATION)
        return (ProtocolFault("flood", "more than twice real time; the excess is dropped"),)

    def _fatal(self, kind: str, detail: str, close_code: int) -> Sequence[StreamEvent]:
        # Closing the socket hangs the channel up.
        return (ProtocolFault(kind, detail, close_code), *self._end("protocol-error"))

    def _end(self, reason: Literal["transport-lost", "protocol-error"]) -> Sequence[StreamEvent]:
        if self._state == "over":
            return ()
        self._state = "over"
        return (StreamEnded(reason),)

    # --- what goes out

    def accept(self, answer: AcceptAnswer, now: float) -> tuple[Sequence[bytes], Sequence[StreamEvent]]:
        if self._state != "ringing":
            return (), ()
        assert self._call is not None
        self._state = "open"
        call = self._call
        started = StreamStarted(self.stream_id, call.carrier_call_id, self.format, dict(call.fields))
        return (build_command("ANSWER", json=self._json),), (started,)

    def refuse(self, answer: Answer) -> Sequence[bytes]:
        return self.hang_up()

    def hang_up(self) -> Sequence[bytes]:
        return () if self._state == "waiting" else (build_command("HANGUP", json=self._json),)

    def media(self, payload: bytes) -> bytes:
        """One binary message of whole frames, at most MAX_BINARY; empty, and not to be sent, when all is held back.

        What does not fit, and what comes while Asterisk wants nothing, goes out with the next audio.
        """
        data = self._convert_out(payload)
        if self._held:
            data, self._held = self._held + data, b""
        if not self.writable:
            self._held = data[: self._max_held]
            return Binary()
        if len(data) > self._most:
            data, self._held = data[: self._most], data[self._most :][: self._max_held]
        if over := len(data) % self._frame:
            if self._converts:  # pieces vary by a few samples: silence between them would be heard
                data, self._held = data[:-over], data[-over:]
            else:
                data += self._hush * (self._frame - over)
        return Binary(data)

    def mark(self, name: str) -> bytes | None:
        """As in MediaStream. Raises ValueError for a name that is too long for Asterisk, or has spaces."""
        if not self._with_marks:
            return None
        message = build_command("MARK_MEDIA", name, json=self._json)
        self._marks.append(name)
        if len(self._marks) > MAX_PENDING_MARKS:
            self._marks.popleft()
        return message

    def clear(self, now: float) -> Sequence[bytes]:
        self._held = b""
        self._cleared.extend(self._marks)
        self._marks.clear()
        while len(self._cleared) > MAX_PENDING_MARKS:
            self._cleared.popleft()
        return (build_command("FLUSH_MEDIA", json=self._json),)

    def send_dtmf(self, digits: str) -> bytes | None:
        """The keys' sound in one message; None when it fits into none, or keys are not to be sent by sound."""
        if not self._tones or self._state != "open" or not self.writable:
            return None
        sound = self.media(key_tones(digits, self.format))
        if self.held >= self._frame:
            self._held = b""
            return None
        return sound

    def leave(self) -> None:
        """Nothing: when the channel is hung up, the dialplan goes on by itself."""

    @property
    def held(self) -> int:
        """Bytes of audio held back, as Asterisk takes them."""
        return len(self._held)
