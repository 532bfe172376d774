"""Twilio Media Streams, both sides of the WebSocket.

Source: Twilio's documentation of the Media Streams WebSocket messages, and of `<Stream>`.

`TwilioStream` is the gateway's side. `TwilioCarrierSide` is Twilio's: it builds what Twilio sends, holds the
play-out buffer, and notes what Twilio would complain about; how a simulator drives it stands in
`providers/carrier_side.py`. For Twilio:

    side = TwilioCarrierSide(account_sid="AC…", call_sid="CA…", parameters={"tenant": "acme"})
    side.open(now)        # connected, start
    side.media(frame)     # 160 bytes of μ-law
    side.dtmf("5")
    side.receive(b'{"event":"media",…}', now)
    side.due(now)         # marks: played out, or brought back by a clear
    side.stop()           # stop

Order: `connected`, `start`, then `media`, `dtmf` and `mark` in any mixture, `stop`, close. Twilio gives a mark
back when everything queued before it was played, or at once when `clear` empties the buffer; the two cannot
be told apart on the wire, so the gateway's side remembers what it had cleared. A clear is not acknowledged
either; we send a mark of our own right behind it, whose echo is the acknowledgement.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from offhook.codecs.audio import PCMU, AudioFormat
from offhook.providers.base import ClearConfirmed, StreamEvent
from offhook.providers.carrier_side import (
    AudioQueued,
    CarrierEvent,
    CarrierFault,
    CarrierSide,
    Cleared,
    MarkAsked,
    PlayoutBuffer,
)
from offhook.providers.json_stream import JsonStream, MediaBody, fault_kind, utf8_excerpt

MAX_QUEUED: Final = 600.0
"""Seconds Twilio's play-out buffer holds; beyond it audio is dropped with warning 31931."""

CLEAR_MARK: Final = "offhook-clear-"
"""Prefix of the marks we send behind a clear; the gateway's own names must not begin with it."""

PROTOCOL_ERROR: Final = "31924"
OVERFLOW: Final = "31931"
MALFORMED: Final = "31950"


# --- the messages -------------------------------------------------------------------


class MediaFormat(msgspec.Struct, rename="camel"):
    """What the stream carries, as the carrier names it."""

    encoding: str
    sample_rate: int
    channels: int = 1


class StartBody(msgspec.Struct, rename="camel", kw_only=True):
    """Who calls, and in which format."""

    stream_sid: str = ""
    account_sid: str = ""
    call_sid: str
    tracks: Sequence[str] = ("inbound",)
    custom_parameters: dict[str, str] = {}
    media_format: MediaFormat


class DtmfBody(msgspec.Struct):
    """One key."""

    digit: str | int = ""
    track: str = "inbound_track"


class MarkBody(msgspec.Struct):
    """A mark's name."""

    name: str


class StopBody(msgspec.Struct, rename="camel"):
    """Which call the stream belonged to."""

    account_sid: str = ""
    call_sid: str = ""


class Connected(msgspec.Struct, tag_field="event", tag="connected"):
    """The socket is open."""

    protocol: str = "Call"
    version: str = "1.0.0"


class _Message(msgspec.Struct, tag_field="event", kw_only=True, omit_defaults=True):
    """What the other messages have. Sequence numbers are written, not read: TCP keeps the order."""

    sequence_number: str | int = msgspec.field(name="sequenceNumber", default="")
    stream_id: str = msgspec.field(name="streamSid", default="")


class Start(_Message, tag="start", kw_only=True):
    """Audio follows."""

    start: StartBody


class Media(msgspec.Struct, tag_field="event", tag="media"):
    """Audio, in either direction."""

    media: MediaBody
    stream_id: str = msgspec.field(name="streamSid", default="")


class Dtmf(_Message, tag="dtmf", kw_only=True):
    """The caller pressed a key."""

    dtmf: DtmfBody


class Mark(_Message, tag="mark", kw_only=True):
    """To Twilio: tell me when you have got here. From Twilio: I have."""

    mark: MarkBody


class Stop(_Message, tag="stop", kw_only=True):
    """No more audio."""

    stop: StopBody = msgspec.field(default_factory=StopBody)


class Clear(_Message, tag="clear"):
    """To Twilio: forget what you have not played."""


# Not strict: numbers may come as strings.
_from_twilio = msgspec.json.Decoder(Connected | Start | Media | Dtmf | Mark | Stop, strict=False)
_from_gateway = msgspec.json.Decoder(Media | Mark | Clear, strict=False)
_encode = msgspec.json.Encoder().encode


# --- the gateway's side ---------------------------------------------------------------


class TwilioStream(JsonStream):
    """Gateway side of one Media Streams socket. Bidirectional streams only."""

    def __init__(self, *, expect_call_id: str) -> None:
        super().__init__(expect_call_id=expect_call_id, carrier="Twilio", decoder=_from_twilio, media_type=Media)
        self._media_head = b""
        self._clears = 0

    def _handle(self, message: Any, now: float) -> Sequence[StreamEvent]:
        if isinstance(message, Connected):
            return ()
        if isinstance(message, Start):
            return self._handle_start(message)
        if message.stream_id not in ("", self.stream_id):
            return self._wrong_stream(message.stream_id)
        if isinstance(message, Stop):
            return self._end("stop")
        if isinstance(message, Dtmf):
            return self._dtmf(message.dtmf.digit)
        return self._handle_mark(message.mark.name)

    def _handle_start(self, message: Start) -> Sequence[StreamEvent]:
        start = message.start
        stream_id = message.stream_id or start.stream_sid
        wanted = start.media_format
        # Twilio documents μ-law only; anything newer is refused rather than played as noise.
        known = wanted == MediaFormat("audio/x-mulaw", 8000, 1)
        events = self._start(
            stream_id=stream_id,
            call_id=start.call_sid,
            format=PCMU if known else None,
            wanted=f"{wanted.encoding[:40]!a} at {wanted.sample_rate} Hz, {wanted.channels} channels",
            parameters=start.custom_parameters,
        )
        self._media_head = b'{"event":"media","streamSid":%b,"media":{"payload":"' % _encode(self.stream_id)
        return events

    def _handle_mark(self, name: str) -> Sequence[StreamEvent]:
        if not name.startswith(CLEAR_MARK):
            return self._mark_echoed(name)
        if name != f"{CLEAR_MARK}{self._clears}":  # an older clear's: a newer one is on its way
            return ()
        # Twilio has brought back every mark that the clear took before this one.
        return (*self._forget_cleared(), ClearConfirmed())

    def media(self, payload: bytes) -> bytes:
        return self._media_head + b2a_base64(payload, newline=False) + b'"}}'

    def mark(self, name: str) -> bytes:
        self._mark_sent(name)
        return _encode(Mark(stream_id=self.stream_id, mark=MarkBody(name)))

    def clear(self, now: float) -> Sequence[bytes]:
        self._clear_sent()
        self._clears += 1
        behind = Mark(stream_id=self.stream_id, mark=MarkBody(f"{CLEAR_MARK}{self._clears}"))
        return (_encode(Clear(stream_id=self.stream_id)), _encode(behind))

    def send_dtmf(self, digits: str) -> None:
        """Twilio plays no keys on a stream."""
        return


# --- Twilio's side --------------------------------------------------------------------


class TwilioCarrierSide(CarrierSide):
    """Twilio's side of one Media Streams socket.

    Args:
        account_sid, call_sid, stream_sid: as they stand in the messages.
        parameters: the `<Parameter>`s of the answer.
        bidirectional: False for `<Start><Stream>`, which only listens: whatever the bot sends is a fault.
    """

    MAX_QUEUED = MAX_QUEUED

    def __init__(
        self,
        *,
        account_sid: str,
        call_sid: str,
        stream_sid: str = "",
        parameters: Mapping[str, str] | None = None,
        format: AudioFormat = PCMU,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(call_id=call_sid, stream_id=stream_sid or "MZ" + call_sid[2:], format=format)
        self.account_sid, self.parameters, self.bidirectional = account_sid, dict(parameters or {}), bidirectional
        self._sequence = 0
        self._chunk = 0
        self._sent = 0
        "Bytes of caller audio so far."
        self._media_tail = b'"},"streamSid":%b}' % _encode(self.stream_id)
        self._logged: set[str] = set()

    def open(self, now: float) -> list[bytes]:
        self._playout = PlayoutBuffer(self.format, now, self.MAX_QUEUED)
        encoding = {"pcmu": "audio/x-mulaw", "pcma": "audio/x-alaw", "l16": "audio/x-l16"}[self.format.encoding]
        start = StartBody(
            stream_sid=self.stream_id,
            account_sid=self.account_sid,
            call_sid=self.call_id,
            custom_parameters=self.parameters,
            media_format=MediaFormat(encoding, self.format.rate),
        )
        return [_encode(Connected()), _encode(Start(**self._head(), start=start))]

    def media(self, payload: bytes) -> bytes:
        self._sequence += 1
        self._chunk += 1
        self._sent += len(payload)
        head = (
            b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d","payload":"'
            % (self._sequence, self._chunk, self.format.duration(self._sent) * 1000)
        )
        return head + b2a_base64(payload, newline=False) + self._media_tail

    def lose(self, payload: bytes) -> None:
        self._chunk += 1
        self._sent += len(payload)

    def dtmf(self, digit: str) -> bytes:
        return _encode(Dtmf(**self._head(), dtmf=DtmfBody(digit)))

    def stop(self) -> list[bytes]:
        return [_encode(Stop(**self._head(), stop=StopBody(self.account_sid, self.call_id)))]

    def due(self, now: float) -> list[bytes]:
        reached = self._playout.take_reached(now) if self._playout else []
        return [_encode(Mark(**self._head(), mark=MarkBody(name))) for name in reached]

    def receive(self, data: bytes | str, now: float) -> list[CarrierEvent]:
        try:
            message = _from_gateway.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            kind = fault_kind(error)
            detail = f"{error}: {utf8_excerpt(data)}"
            code = MALFORMED if kind in ("bad-json", "bad-base64") else PROTOCOL_ERROR
            return [self._complain(kind, detail, now, code)]
        if self._playout is None:
            return [self._complain("sent-before-start", f"{utf8_excerpt(data)} before start", now, "")]
        if not self.bidirectional:
            detail = "a stream opened by <Start> takes no messages"
            return [self._complain("not-bidirectional", detail, now, PROTOCOL_ERROR)]
        if message.stream_id != self.stream_id:
            return [self._complain("wrong-stream-id", f"streamSid {message.stream_id[:60]!a}", now, "")]
        if isinstance(message, Media):
            return self._queue(message.media.payload, self._playout, now)
        if isinstance(message, Mark):
            self._playout.push_mark(message.mark.name, now)
            return [MarkAsked(now, message.mark.name)]
        dropped = self._playout.clear(now)
        return [Cleared(now, dropped)]

    def receive_binary(self, data: bytes, now: float) -> list[CarrierEvent]:
        return [self._complain("binary-message", f"{len(data)} bytes sent as a binary message", now, MALFORMED)]

    def _queue(self, payload: bytes, playout: PlayoutBuffer, now: float) -> list[CarrierEvent]:
        events: list[CarrierEvent] = []
        if payload.startswith((b"RIFF", b"ID3")):
            events.append(self._complain("audio-header", "a file header inside the audio: send bare samples", now, ""))
        size = len(payload) - len(payload) % self.format.sample_bytes
        if size != len(payload):
            events.append(self._complain("odd-length", f"{len(payload)} bytes are no whole samples", now, ""))
        plays_at = playout.push(payload[:size], now)
        if plays_at is None:
            detail = f"more than {self.MAX_QUEUED:g} s queued; the audio is dropped"
            return [*events, self._complain("overflow", detail, now, OVERFLOW)]
        return [*events, AudioQueued(now, self.format.duration(size), plays_at)]

    def _head(self) -> dict[str, Any]:
        self._sequence += 1
        return {"sequence_number": str(self._sequence), "stream_id": self.stream_id}

    def _complain(self, kind: str, detail: str, now: float, code: str) -> CarrierFault:
        """Note a fault; the warnings that Twilio logs once a stream carry their number once."""
        if code in self._logged:
            code = ""
        elif code in (MALFORMED, OVERFLOW):
            self._logged.add(code)
        return self.fault(kind, detail, now, code)
