"""The media socket of FreeSWITCH's modules and of jambonz, as far as it comes towards us.

Source: jambonz/freeswitch-modules (mod_audio_fork, 2024-10), jambonz-feature-server, jambonz's documentation of
`listen`, amigniter/mod_audio_stream (2026-01).

Theory of operation
-------------------
FreeSWITCH connects as the WebSocket client. One text message says what the call is (`metadata.py`), and binary
messages of linear PCM follow, little-endian, usually 20 ms each; with `stereo` the caller is left, and only he is
heard. The socket ends by closing. In between come text messages: keys, marks, finished clips. What goes the other
way depends on the module and is in `playback.py`. The order of the states is

    waiting ──first text──▶ offered ──accept──▶ open ──closed, fatal fault──▶ over

or straight from waiting to open for a socket that belongs to a call known already (jambonz's webhook came
first). Audio counts only while open. The modules give no clock, so what the way out owes by time (the silence
behind an utterance, a clear that is not confirmed) is looked at when the caller's audio comes: 50 times a second.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal
from uuid import uuid4

import msgspec

from offhook.codecs.audio import RATES, AudioFormat
from offhook.providers import numbers
from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    CallOffered,
    DirectStream,
    DtmfReceived,
    IncomingCall,
    MediaReceived,
    ProtocolFault,
    RejectAnswer,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.freeswitch.metadata import FROM_KEYS, TO_KEYS, Metadata, read, unescaped
from offhook.providers.guard import FloodGuard
from offhook.providers.json_stream import (
    DTMF_DIGITS,
    MAX_MESSAGE,
    MESSAGE_TOO_BIG,
    POLICY_VIOLATION,
    UNSUPPORTED_DATA,
    fault_kind,
    utf8_excerpt,
)

CLOCK: Final = 8
"""RTP timestamp units in a millisecond: what jambonz counts the length of a key in."""

MAX_DTMF_MS: Final = 60_000
"""The longest key press that is believed."""

JAMBONZ_KEYS: Final = frozenset(
    {
        *("sampleRate", "mixType", "callSid", "direction", "from", "to", "callId", "sbcCallid", "sipStatus"),
        *("sipReason", "callStatus", "accountSid", "applicationSid", "traceId", "customerData", "originatingSipIp"),
        *("originatingSipTrunkName", "fsSipAddress", "apiBaseUrl", "fsPublicIp", "callerName", "callerId"),
        *("parentCallSid", "duration"),
    }
)
"""Keys of jambonz's own in the first message; what else is there, the application gave."""

_encode = msgspec.json.Encoder().encode


class EventData(msgspec.Struct):
    """The `data` of a mark or of a finished clip."""

    name: str = ""
    id: str = ""
    event: str = ""


class Message(msgspec.Struct):
    """Any text message after the first."""

    type: str = ""
    event: str = ""
    dtmf: str = ""
    duration: str | float = ""
    data: EventData | None = None


_from_peer = msgspec.json.Decoder(Message).decode


class FreeswitchStream(DirectStream):
    """One socket of FreeSWITCH's. Derive the way out from it.

    Args:
        query: facts from the URL; the first message overrules them.
        number: the called number where neither says it.
        rate: samples a second where neither says it.
        mix: likewise the mix type.
        audio_first: whether a socket may begin with audio and say nothing about its call.
        expect_call_id: for a socket whose token belongs to a call that a webhook announced.
        new_id: names a call that has no id of its own.
    """

    closing_hangs_up = False

    def __init__(
        self,
        *,
        query: Mapping[str, str] | None = None,
        number: str = "",
        rate: int = 8000,
        mix: str = "mono",
        audio_first: bool = False,
        expect_call_id: str = "",
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.stream_id = ""
        self._query, self._number, self._rate, self._mix = query or {}, number, rate, mix
        self._audio_first, self._expect_call_id, self._new_id = audio_first, expect_call_id, new_id
        self._metadata = Metadata({})
        self._state: Literal["waiting", "offered", "open", "over"] = "waiting"
        self._guard = FloodGuard(16_000)
        self._channels = 1
        self._carry = b""
        "What of the last binary message was less than a sample of every channel."
        self._owing = False
        "Whether the way out may owe something by time; `_due` is asked then."

    # --- the contract: towards us ---

    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        if len(data) > MAX_MESSAGE:
            return self._fatal("bad-message", f"message of {len(data)} bytes, limit {MAX_MESSAGE}", MESSAGE_TOO_BIG)
        if not self._guard.admit(0, now):
            return self._flood(now)
        if self._state == "over":
            return (ProtocolFault("after-stop", "message after the stream ended"),)
        if self._state == "waiting":
            return self._first(read(data, self._query))
        try:
            message = _from_peer(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return (ProtocolFault(fault_kind(error), f"{error}: {utf8_excerpt(data)}"[:200]),)
        if message.event == "dtmf":
            return self._key(message)
        events = self._message(message, now) if self._state == "open" else None
        if events is None:
            return (ProtocolFault("unknown-event", f"type {message.type[:40]!a}: {utf8_excerpt(data)}"[:200]),)
        return events

    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        if not self._guard.admit(len(data), now):
            return self._flood(now)
        if self._state != "open":
            return self._early_audio(data)
        if self._channels != 1 or self._carry or len(data) & 1:
            data = self._caller_of(data)
        if not self._owing:
            return (MediaReceived(data),) if data else ()
        due = self._due(now)
        return (MediaReceived(data), *due) if data else due

    def closed(self, now: float) -> Sequence[StreamEvent]:
        return self._end("transport-lost")

    def accept(self, answer: AcceptAnswer, now: float) -> tuple[Sequence[bytes], Sequence[StreamEvent]]:
        if self._state != "offered":
            raise ValueError(f"accept: the call is {self._state}, not offered")
        messages = (_encode({"type": "json", "data": dict(answer.attributes)}),) if answer.attributes else ()
        return messages, self._start(dict(self._metadata.values))

    def refuse(self, answer: Answer) -> Sequence[bytes]:
        reason = answer.reason if isinstance(answer, RejectAnswer) else "refused"
        return (_encode({"type": "disconnect", "data": {"reason": reason}}),)

    def hang_up(self) -> Sequence[bytes]:
        return (b'{"type":"disconnect"}',)

    def send_dtmf(self, digits: str) -> None:
        """Not on the stream; the control can."""

    # --- for the ways out ---

    @abstractmethod
    def _message(self, message: Message, now: float) -> Sequence[StreamEvent] | None:
        """A text message while open that is no key; None for one that means nothing."""

    def _due(self, now: float) -> Sequence[StreamEvent]:
        """What time has made due; asked while `_owing`, which it clears when nothing is left to wait for."""
        return ()

    # --- inside ---

    def _first(self, metadata: Metadata) -> Sequence[StreamEvent]:
        rate, channels = metadata.rate(self._rate), metadata.channels(self._mix)
        if rate not in RATES or not channels:
            wanted = f"sampleRate {metadata.rate(self._rate)}, mixType {metadata.first(('mixType',))[:20]!a}"
            return self._fatal("unsupported-format", f"cannot read {wanted}", UNSUPPORTED_DATA)
        call_id = metadata.call_id
        if self._expect_call_id and call_id != self._expect_call_id:
            detail = f"first message names call {call_id!a}, this socket is for {self._expect_call_id[:60]!a}"
            return self._fatal("wrong-call", detail[:200], POLICY_VIOLATION)
        self._metadata, self.format, self._channels = metadata, AudioFormat("l16", rate), channels
        self.stream_id = call_id = call_id or self._new_id()
        self._guard = FloodGuard(rate * 2 * channels)
        if self._expect_call_id:
            given = {key: unescaped(value) for key, value in metadata.values.items() if key not in JAMBONZ_KEYS}
            return self._start(given)
        self._state = "offered"
        incoming = IncomingCall(
            carrier_call_id=call_id,
            from_number=numbers.normalise(metadata.first(FROM_KEYS)),
            to_number=numbers.normalise(metadata.first(TO_KEYS) or self._number),
            direction="outbound" if metadata.values.get("direction") == "outbound" else "inbound",
            fields=dict(metadata.values),
        )
        return (CallOffered(incoming),)

    def _start(self, parameters: dict[str, str]) -> Sequence[StreamEvent]:
        self._state = "open"
        return (StreamStarted(self.stream_id, self.stream_id, self.format, parameters),)

    def _early_audio(self, data: bytes) -> Sequence[StreamEvent]:
        """Audio while not open: dropped while it rings; before anything was said it may be the beginning."""
        if self._state == "over":
            return (ProtocolFault("after-stop", "audio after the stream ended"),)
        if self._state == "offered" or not data:
            return ()
        if self._audio_first:
            return self._first(Metadata(self._query))
        detail = "audio before the first text message: give the module metadata, or set audio_first"
        return self._fatal("media-before-start", detail, POLICY_VIOLATION)

    def _caller_of(self, data: bytes) -> bytes:
        """The caller's samples; what is left over waits for the next message."""
        data = self._carry + data
        whole = len(data) - len(data) % (2 * self._channels)
        self._carry, data = data[whole:], data[:whole]
        return data if self._channels == 1 else memoryview(data).cast("h")[::2].tobytes()

    def _key(self, message: Message) -> Sequence[StreamEvent]:
        digit = message.dtmf.upper()
        if digit not in DTMF_DIGITS:
            return (ProtocolFault("bad-dtmf", f"digit {digit[:20]!a} is none of 0-9, A-D, * and #"),)
        return (DtmfReceived(digit, dtmf_ms(message.duration)),)

    def _end(self, reason: Literal["transport-lost", "protocol-error"]) -> Sequence[StreamEvent]:
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


def dtmf_ms(duration: str | float) -> int:
    """How long a key was held, in milliseconds, from RTP timestamp units; 0 when that is not said.

    >>> dtmf_ms("1600"), dtmf_ms(800), dtmf_ms("long")
    (200, 100, 0)
    """
    if isinstance(duration, str):
        if not duration.isascii() or not duration.isdigit() or len(duration) > 9:
            return 0
        duration = int(duration)
    return int(min(max(duration, 0) / CLOCK, MAX_DTMF_MS))
