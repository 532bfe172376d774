"""AudioSocket: Asterisk's audio over a bare TCP connection, which Asterisk opens.

A message is one byte of kind, two of length (big-endian) and the payload. The first names the call by a UUID; then
come audio, keys, and rarely a hang-up, for Asterisk mostly just closes. What goes back may be audio and a hang-up
and nothing else: anything else, and audio of no length too, makes Asterisk drop the call.

Theory of operation
-------------------
Asterisk plays what it is sent as it comes, and its application gives a call up that sends nothing for 2 s. So the
stream has a queue of its own, and whoever holds the connection takes one frame from it every 20 ms from the first
message on (`next_frame`): queued audio, or silence. An interruption empties the queue.

    waiting ──id──▶ ringing ──accept──▶ opening ──first audio, or FIRST_AUDIO──▶ open ──hang-up, error, close──▶ over

The call is up at Asterisk before it comes here; what the caller says while it rings here is not heard. Which rate
the channel has only its first audio shows, so an accepted call waits a moment for it and then takes 8 kHz.

Source: Asterisk's documentation of AudioSocket, and its source, which wins where the two differ.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from offhook.codecs.audio import FRAME_MS
from offhook.providers.asterisk.keys import key_tones
from offhook.providers.asterisk.rates import carried, rate_converter
from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    Binary,
    CallOffered,
    DirectStream,
    DtmfReceived,
    IncomingCall,
    MediaReceived,
    ProtocolFault,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.guard import FloodGuard

KIND_HANGUP: Final = 0x00
KIND_UUID: Final = 0x01
KIND_SILENCE: Final = 0x02
"""Of old libraries; nobody sends it any more."""
KIND_DTMF: Final = 0x03
KIND_ERROR: Final = 0xFF

RATES: Final = {
    0x10: 8000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
    0x17: 96_000,
    0x18: 192_000,
}
"""Kinds of audio and their rates in Hz: int16 mono, little-endian."""

KIND_OF_RATE: Final = {rate: kind for kind, rate in RATES.items()}

ERRORS: Final = {0x01: "hang-up", 0x02: "frame forwarding", 0x04: "memory"}
"""What the byte of an error message means."""

HEADER: Final = struct.Struct(">BH")

HANGUP: Final = HEADER.pack(KIND_HANGUP, 0)
"""After it Asterisk's application goes on in the dialplan; after a mere close it hangs the caller up."""

FIRST_AUDIO: Final = 0.2
"""Seconds an accepted call waits for audio that shows the rate: ten frames. A muted caller's never comes."""

MAX_QUEUED: Final = 10.0
"""Seconds of audio that may wait to be paced. Playout is 0.2 s ahead; more is a fault of ours and is dropped."""

DTMF_DIGITS: Final = frozenset("0123456789ABCD*#")

PROTOCOL_ERROR: Final = 1002
POLICY_VIOLATION: Final = 1008
"""RFC 6455 7.4.1; this is no WebSocket, but the line that closes it speaks of reasons so."""


def message(kind: int, payload: bytes = b"") -> bytes:
    """One message, as either side writes it. Raises ValueError for a payload over 65 535 bytes."""
    if len(payload) > 0xFFFF:
        raise ValueError(f"payload of {len(payload)} bytes, a message takes 65535")
    return HEADER.pack(kind, len(payload)) + payload


class MessageReader:
    """Cuts what a connection delivers into messages. Holds at most one message and what was just fed."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Kind and payload of every message that is complete now."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            kind, size = HEADER.unpack_from(data, at)
            body = at + HEADER.size
            if body + size > end:
                break
            at = body + size
            yield kind, data[body:at]
        self._rest = data[at:]


class AudioSocketStream(DirectStream):
    """Gateway side of one connection, without the connection. See the module for how it works.

    `receive_binary` takes what was read from TCP, cut anyhow; an empty piece lets time pass. Messages to send are
    of two sorts: Binary is audio in `format` and must go through `queue`, everything else goes out as it is.
    """

    # Nothing comes from a caller who is muted or on hold; that the peer is gone TCP itself tells.
    silent = True

    paced = True

    def __init__(
        self,
        redeem: Callable[[str, float], IncomingCall | None],
        *,
        tones: bool = True,
        register: Callable[[str, AudioSocketStream], None] | None = None,
    ) -> None:
        """Wait for the id.

        Args:
            redeem: the call that an id (`8-4-4-4-12`) and the time stand for, or None.
            tones: whether keys are sent by their sound.
            register: is told the carrier's id of the call and this stream, once the call is known.
        """
        self.stream_id = ""
        self.channel = ""
        "The caller's channel at Asterisk, where the dialplan has told it."
        self.media_channel = ""
        "The channel that carries the audio, where there is one of its own."
        self.leaving = False
        "The next frame is a hang-up, and the connection is to be closed after it."
        self._redeem, self._tones, self._register = redeem, tones, register
        self._state: Literal["waiting", "ringing", "opening", "open", "over"] = "waiting"
        self._reader = MessageReader()
        self._guard = FloodGuard(2 * RATES[0x10])
        self._call: IncomingCall | None = None
        self._kind_in = 0
        "Kind of the audio that comes in; 0 before the first."
        self._opens_at = 0.0
        self._queue = bytearray()
        self._send_at(8000)

    # --- what comes in

    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        return self.receive_binary(data.encode("utf-8", "replace") if isinstance(data, str) else data, now)

    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        if self._state == "over":
            return ()
        events: list[StreamEvent] = []
        for kind, payload in self._reader.feed(data):
            if kind in RATES and self._state != "waiting":
                self._audio(kind, payload, now, events)
            else:
                self._other(kind, payload, now, events)
            if self.over:
                return events
        if self._state == "opening" and now >= self._opens_at:
            self._open(events)
        return events

    def closed(self, now: float) -> Sequence[StreamEvent]:
        if self._state == "over":
            return ()
        self._state = "over"
        return (StreamEnded("transport-lost"),)

    def _audio(self, kind: int, payload: bytes, now: float, events: list[StreamEvent]) -> None:
        if kind != self._kind_in:
            self._receive_at(kind)
        if self._state == "opening":
            self._open(events)
        if not self._guard.admit(len(payload), now):
            self._flood(now, events)
            return
        if len(payload) % 2:
            events.append(ProtocolFault("odd-length", f"audio of {len(payload)} bytes"))
            payload = payload[:-1]
        if self._state == "open" and (heard := self._convert_in(payload)):
            events.append(MediaReceived(heard))

    def _other(self, kind: int, payload: bytes, now: float, events: list[StreamEvent]) -> None:
        if not self._guard.admit(0, now):
            self._flood(now, events)
        elif self._state == "waiting":
            self._first(kind, payload, now, events)
        elif kind == KIND_DTMF:
            digit = payload.decode("latin-1").upper()
            if digit in DTMF_DIGITS:
                events.append(DtmfReceived(digit))
            else:
                events.append(ProtocolFault("bad-dtmf", f"digit {digit[:20]!a} is none of 0-9, A-D, * and #"))
        elif kind == KIND_HANGUP:
            self._end("stop", "", events)
        elif kind == KIND_ERROR:
            what = ERRORS.get(payload[0], f"code {payload[0]}") if payload else "no code"
            events.append(ProtocolFault("carrier-error", f"Asterisk reports an error: {what}"))
            self._end("stop", f"AudioSocket error: {what}", events)
        elif kind == KIND_UUID:
            events.append(ProtocolFault("second-start", "a second id on one connection"))
        elif kind != KIND_SILENCE:
            events.append(ProtocolFault("unknown-event", f"message of kind {kind:#04x}, {len(payload)} bytes"))

    def _first(self, kind: int, payload: bytes, now: float, events: list[StreamEvent]) -> None:
        if kind != KIND_UUID or len(payload) != 16:
            detail = f"first message is of kind {kind:#04x} with {len(payload)} bytes, not a UUID"
            self._fatal("bad-message", detail, PROTOCOL_ERROR, events)
            return
        id = str(uuid.UUID(bytes=payload))
        call = self._redeem(id, now)
        if call is None:
            # The id itself is a secret until it is used.
            self._fatal("wrong-call", "the id was not issued, was used before, or is too old", POLICY_VIOLATION, events)
            return
        self._state, self._call, self.stream_id = "ringing", call, id
        self.channel = call.fields.get("channel", "")
        if self._register is not None:
            self._register(call.carrier_call_id, self)
        events.append(CallOffered(call))

    def _open(self, events: list[StreamEvent]) -> None:
        assert self._call is not None
        rate = RATES[self._kind_in or 0x10]
        self._state, self.format = "open", carried(rate)
        self._send_at(rate)
        self._receive_at(self._kind_in or 0x10)
        events.append(StreamStarted(self.stream_id, self._call.carrier_call_id, self.format, dict(self._call.fields)))

    def _receive_at(self, kind: int) -> None:
        """Take audio of this kind from now on; it changes at most when it was guessed at first."""
        self._kind_in = kind
        self._guard = FloodGuard(2 * RATES[kind])
        if self._state == "open":
            self._convert_in = rate_converter(RATES[kind], self.format.rate)

    def _send_at(self, rate: int) -> None:
        self._convert_out = rate_converter(carried(rate).rate, rate)
        self._frame = rate * FRAME_MS // 1000 * 2
        self._header = HEADER.pack(KIND_OF_RATE[rate], self._frame)
        self._silence = self._header + bytes(self._frame)
        self._seconds_a_byte = 1 / (2 * rate)
        self._max_queued = int(MAX_QUEUED * rate) * 2

    def _flood(self, now: float, events: list[StreamEvent]) -> None:
        if self._guard.hopeless(now):
            self._fatal("flood", "more than twice real time for 10 s", POLICY_VIOLATION, events)
        else:
            events.append(ProtocolFault("flood", "more than twice real time; the excess is dropped"))

    def _fatal(self, kind: str, detail: str, close_code: int, events: list[StreamEvent]) -> None:
        events.append(ProtocolFault(kind, detail, close_code))
        self._end("protocol-error", "", events)

    def _end(self, reason: Literal["stop", "protocol-error"], detail: str, events: list[StreamEvent]) -> None:
        self._state = "over"
        events.append(StreamEnded(reason, detail))

    # --- what goes out

    @property
    def over(self) -> bool:
        """True once the call has ended; nothing more comes, and nothing goes out."""
        return self._state == "over"

    @property
    def awaits_time(self) -> bool:
        """True while an empty piece of input should be given from time to time."""
        return self._state == "opening"

    def queue(self, audio: bytes) -> None:
        """Let audio in `format` wait for its turn; what does not fit into MAX_QUEUED is dropped."""
        if self._state == "open":
            room = self._max_queued - len(self._queue)
            self._queue += self._convert_out(audio)[: max(0, room)]

    def backlog(self) -> float:
        """Seconds of audio that wait for their turn."""
        return len(self._queue) * self._seconds_a_byte

    def next_frame(self) -> bytes:
        """What is to be sent now, once every 20 ms: 20 ms of audio in one message; empty when nothing may be."""
        if self.leaving:
            return HANGUP
        if self._state in ("waiting", "over"):
            return b""
        queue, frame = self._queue, self._frame
        if not queue:
            return self._silence
        audio = bytes(queue[:frame])
        del queue[:frame]
        if len(audio) < frame:
            audio = audio.ljust(frame, b"\0")
        return self._header + audio

    def accept(self, answer: AcceptAnswer, now: float) -> tuple[Sequence[bytes], Sequence[StreamEvent]]:
        events: list[StreamEvent] = []
        if self._state == "ringing":
            self._state, self._opens_at = "opening", now + FIRST_AUDIO
            if self._kind_in:
                self._open(events)
        return (), events

    def refuse(self, answer: Answer) -> Sequence[bytes]:
        return (HANGUP,)

    def hang_up(self) -> Sequence[bytes]:
        return (HANGUP,)

    def leave(self) -> None:
        """Give the call back to the dialplan with the next frame."""
        self.leaving = True

    def media(self, payload: bytes) -> bytes:
        return Binary(payload)

    def mark(self, name: str) -> bytes | None:
        """None: the queue is played by our own clock."""
        return None

    def clear(self, now: float) -> Sequence[bytes]:
        self._queue.clear()
        return ()

    def send_dtmf(self, digits: str) -> bytes | None:
        """Let the keys' sound wait for its turn; None when they are not to be sent by sound.

        A message with a key would make Asterisk drop the call.
        """
        if not self._tones or self._state != "open":
            return None
        self.queue(key_tones(digits, self.format))
        return b""
