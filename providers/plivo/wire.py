"""Plivo audio streaming, both sides of the WebSocket.

Source: Plivo's documentation of the audio-streaming protocol and of the `<Stream>` XML element.

`PlivoStream` is the gateway's side. `PlivoCarrierSide` is Plivo's: it builds what Plivo sends, holds the
play-out buffer, and notes what Plivo would refuse; how a simulator drives it stands in
`providers/carrier_side.py`. For Plivo:

    side = PlivoCarrierSide(account_id="MA…", call_id="<call uuid>", format=PCMU, parameters={"tenant": "acme"})
    side.open(now)        # start; there is no `connected`
    side.media(frame)     # 160 bytes of μ-law, or linear PCM as `format` says
    side.dtmf("5")
    side.receive(b'{"event":"playAudio",…}', now)
    side.due(now)         # playedStream for checkpoints that were played, clearedAudio
    side.stop()           # nothing: Plivo just closes (`sends_stop=True` for the accounts that see a stop)

Plivo differs from Twilio where it matters most: a checkpoint that a clear overtakes is never acknowledged.
`clearedAudio` is, and brings them back on our side; should it not come within two seconds, they are given up
by themselves. Linear audio is little-endian. Closing the socket does not end the call.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat
from offhook.codecs.convert import Converter
from offhook.providers.base import ClearConfirmed, MediaReceived, ProtocolFault, StreamEvent
from offhook.providers.carrier_side import (
    AudioQueued,
    CarrierEvent,
    CarrierSide,
    Cleared,
    DtmfPlayed,
    MarkAsked,
    PlayoutBuffer,
)
from offhook.providers.json_stream import DTMF_DIGITS, JsonStream, MediaBody, fault_kind, utf8_excerpt

CLEAR_PATIENCE: Final = 2.0
"""Seconds we wait for `clearedAudio` before the cleared checkpoints count as gone."""

MAX_QUEUED: Final = 600.0
"""Seconds the simulated play-out buffer holds. Plivo documents no limit; a bot must not need more."""

FORMATS: Final[Mapping[tuple[str, int], AudioFormat]] = {
    ("audio/x-mulaw", 8000): PCMU,
    ("audio/x-l16", 8000): L16_8K,
    ("audio/x-l16", 16000): L16_16K,
}
"""Content type and sample rate → format. Plivo has no others."""

CONTENT_TYPES: Final = {format: content_type for (content_type, _), format in FORMATS.items()}
"Format → content type as the media messages name it."


# --- the messages -------------------------------------------------------------------


class MediaFormat(msgspec.Struct, rename="camel"):
    """What the stream carries; the encoding may carry a `;rate=` parameter."""

    encoding: str
    sample_rate: int


class StartBody(msgspec.Struct, rename="camel"):
    """Which call, and in which format."""

    call_id: str
    stream_id: str
    media_format: MediaFormat
    account_id: str = ""
    tracks: Sequence[str] = ("inbound",)


class DtmfBody(msgspec.Struct):
    """One key."""

    digit: str | int = ""
    track: str = "inbound"
    timestamp: str = "0"


class PlayBody(msgspec.Struct, rename="camel"):
    """Audio to play. No `;rate=` in this content type: the rate is a number of its own."""

    payload: bytes
    content_type: str
    sample_rate: int


class _Message(msgspec.Struct, tag_field="event", kw_only=True, omit_defaults=True):
    """What the other messages may have. Sequence numbers are written, not read: TCP keeps the order."""

    sequence_number: int | str = msgspec.field(name="sequenceNumber", default=0)
    stream_id: str = msgspec.field(name="streamId", default="")
    extra_headers: Any = None
    "A string in one of several shapes, an object, or null: see parse_extra_headers."


class Start(_Message, tag="start", kw_only=True):
    """Audio follows. The first message."""

    start: StartBody


class Media(msgspec.Struct, tag_field="event", tag="media"):
    """Audio of the caller."""

    media: MediaBody
    stream_id: str = msgspec.field(name="streamId", default="")


class Dtmf(_Message, tag="dtmf", kw_only=True):
    """The caller pressed a key."""

    dtmf: DtmfBody


class PlayedStream(_Message, tag="playedStream", kw_only=True):
    """A checkpoint was reached by playing."""

    name: str


class ClearedAudio(_Message, tag="clearedAudio"):
    """The play-out buffer is empty, its checkpoints are gone."""


class PlayFailed(_Message, tag="playFailed", kw_only=True):
    """Plivo could not play what we sent."""

    reason: Any = ""


class CarrierErrorMessage(_Message, tag="error", kw_only=True):
    """Plivo reports an error of its own."""

    reason: Any = ""


class Stop(_Message, tag="stop"):
    """No more audio. Most streams end without one."""


class PlayAudio(msgspec.Struct, tag_field="event", tag="playAudio"):
    """To Plivo: append audio to the play-out buffer."""

    media: PlayBody


class Checkpoint(_Message, tag="checkpoint", kw_only=True):
    """To Plivo: tell me when everything before this was played."""

    name: str


class ClearAudio(_Message, tag="clearAudio"):
    """To Plivo: forget what you have not played."""


class SendDtmf(_Message, tag="sendDTMF", kw_only=True):
    """To Plivo: play keys to the caller."""

    dtmf: str


# Not strict: numbers may come as strings.
_from_plivo = msgspec.json.Decoder(
    Start | Media | Dtmf | PlayedStream | ClearedAudio | PlayFailed | CarrierErrorMessage | Stop, strict=False
)
_from_gateway = msgspec.json.Decoder(PlayAudio | Checkpoint | ClearAudio | SendDtmf, strict=False)
_encode = msgspec.json.Encoder().encode


def parse_extra_headers(value: object) -> dict[str, str]:
    """Read the extra headers of a stream: `k=v;k2=v2`, `k=v,k2=v2`, JSON text, an object, or nothing at all."""
    if isinstance(value, str):
        if not value.lstrip().startswith("{"):
            pairs = (item.partition("=") for item in value.replace(";", ",").split(","))
            return {name.strip(): text.strip() for name, equals, text in pairs if equals and name.strip()}
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return {}
    if not isinstance(value, dict):
        return {}
    return {str(name): text if isinstance(text, str) else str(text) for name, text in value.items()}


def parse_format(encoding: str, rate: int) -> AudioFormat | None:
    """The format that a media format names; None when it is none of FORMATS."""
    return FORMATS.get((encoding.partition(";")[0].strip().lower(), rate))


# --- the gateway's side ---------------------------------------------------------------


class PlivoStream(JsonStream):
    """Gateway side of one audio-streaming socket. Bidirectional streams only."""

    def __init__(self, *, expect_call_id: str) -> None:
        super().__init__(expect_call_id=expect_call_id, carrier="Plivo", decoder=_from_plivo, media_type=Media)
        self._media_head = b""
        self._clear_deadline = 0.0
        "When the last clear is taken for done without an answer; 0: none under way."

    def _handle(self, message: Any, now: float) -> Sequence[StreamEvent]:
        if isinstance(message, Start):
            return self._handle_start(message)
        if message.stream_id not in ("", self.stream_id):
            return self._wrong_stream(message.stream_id)
        if isinstance(message, PlayedStream):
            return self._mark_echoed(message.name)
        if isinstance(message, ClearedAudio):
            self._clear_deadline = 0.0
            return (*self._forget_cleared(), ClearConfirmed())
        if isinstance(message, Dtmf):
            return self._dtmf(message.dtmf.digit)
        if isinstance(message, Stop):
            return self._end("stop")
        what = "could not play" if isinstance(message, PlayFailed) else "error"
        return (ProtocolFault("carrier-error", f"Plivo: {what}: {str(message.reason)[:150]!a}"[:200]),)

    def _handle_start(self, message: Start) -> Sequence[StreamEvent]:
        start, wanted = message.start, message.start.media_format
        format = parse_format(wanted.encoding, wanted.sample_rate)
        events = self._start(
            stream_id=start.stream_id,
            call_id=start.call_id,
            format=format,
            wanted=f"{wanted.encoding[:40]!a} at {wanted.sample_rate} Hz",
            parameters=parse_extra_headers(message.extra_headers),
        )
        if self._state == "open":
            self._media_head = b'{"event":"playAudio","media":{"contentType":"%b","sampleRate":%d,"payload":"' % (
                CONTENT_TYPES[self.format].encode(),
                self.format.rate,
            )
        return events

    def _heard(self, payload: bytes, lost_ms: int, now: float) -> Sequence[StreamEvent]:
        events: list[StreamEvent] = []
        if self._clear_deadline and now >= self._clear_deadline:
            self._clear_deadline = 0.0
            events += self._forget_cleared()
        if len(payload) % self.format.sample_bytes:
            # Cut, not carried over: half a sample kept would turn all that follows into noise.
            events.append(ProtocolFault("odd-length", f"{len(payload)} bytes of {self.format}"))
            payload = payload[:-1]
        if payload:
            events.append(MediaReceived(payload, lost_ms))
        return events

    def media(self, payload: bytes) -> bytes:
        return self._media_head + b2a_base64(payload, newline=False) + b'"}}'

    def mark(self, name: str) -> bytes:
        self._mark_sent(name)
        return _encode(Checkpoint(stream_id=self.stream_id, name=name))

    def clear(self, now: float) -> Sequence[bytes]:
        self._clear_sent()
        self._clear_deadline = now + CLEAR_PATIENCE
        return (_encode(ClearAudio(stream_id=self.stream_id)),)

    def send_dtmf(self, digits: str) -> bytes | None:
        """One message that plays keys; None when `digits` holds anything but 0-9, A-D, * and #."""
        return _encode(SendDtmf(dtmf=digits)) if digits and DTMF_DIGITS.issuperset(digits) else None


# --- Plivo's side ---------------------------------------------------------------------


class PlivoCarrierSide(CarrierSide):
    """Plivo's side of one audio-streaming socket.

    Args:
        account_id, call_id, stream_id: as they stand in the messages.
        parameters: the `extraHeaders` of the answer.
        format: what `contentType` of the answer asked for; one of FORMATS.
        bidirectional: False when the answer did not ask for it: whatever the bot sends is a fault.
        sends_stop: whether this Plivo says `stop` before it closes.
    """

    MAX_QUEUED = MAX_QUEUED

    def __init__(
        self,
        *,
        account_id: str,
        call_id: str,
        stream_id: str = "",
        parameters: Mapping[str, str] | None = None,
        format: AudioFormat = PCMU,
        bidirectional: bool = True,
        sends_stop: bool = False,
    ) -> None:
        super().__init__(call_id=call_id, stream_id=stream_id or f"s-{call_id}", format=format)
        self.account_id, self.bidirectional, self.sends_stop = account_id, bidirectional, sends_stop
        self.parameters = dict(parameters or {})
        self._extra_headers = ";".join(f"{name}={value}" for name, value in self.parameters.items())
        self._sequence = 0
        self._chunk = 0
        self._sent = 0
        "Bytes of caller audio so far."
        self._owed: list[_Message] = []
        self._converters: dict[AudioFormat, Converter] = {}
        ids = _encode(self.stream_id), _encode(self._extra_headers)
        self._media_tail = b'"},"streamId":%b,"extra_headers":%b}' % ids

    def open(self, now: float) -> list[bytes]:
        self._playout = PlayoutBuffer(self.format, now, self.MAX_QUEUED)
        start = StartBody(
            call_id=self.call_id,
            stream_id=self.stream_id,
            media_format=MediaFormat(CONTENT_TYPES[self.format], self.format.rate),
            account_id=self.account_id,
        )
        return [_encode(self._numbered(Start(start=start, extra_headers=self._extra_headers)))]

    def media(self, payload: bytes) -> bytes:
        self._sequence += 1
        self._chunk += 1
        self._sent += len(payload)
        head = (
            b'{"event":"media","sequenceNumber":%d,"media":{"track":"inbound","chunk":%d,"timestamp":"%d","payload":"'
            % (self._sequence, self._chunk, self.format.duration(self._sent) * 1000)
        )
        return head + b2a_base64(payload, newline=False) + self._media_tail

    def lose(self, payload: bytes) -> None:
        self._chunk += 1
        self._sent += len(payload)

    def dtmf(self, digit: str) -> bytes:
        at = str(int(self.format.duration(self._sent) * 1000))
        message = Dtmf(stream_id=self.stream_id, dtmf=DtmfBody(digit, timestamp=at), extra_headers=self._extra_headers)
        return _encode(self._numbered(message))

    def stop(self) -> list[bytes]:
        return [_encode(self._numbered(Stop(stream_id=self.stream_id)))] if self.sends_stop else []

    def due(self, now: float) -> list[bytes]:
        if self._playout:
            self._owe_played(self._playout, now)
        owed, self._owed = self._owed, []
        return [_encode(self._numbered(message)) for message in owed]

    def next_due(self) -> float | None:
        return 0.0 if self._owed else super().next_due()

    def receive(self, data: bytes | str, now: float) -> list[CarrierEvent]:
        try:
            message = _from_gateway.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            kind = fault_kind(error)
            if kind == "bad-base64" and self._playout:
                self._owed.append(PlayFailed(stream_id=self.stream_id, reason="payload is not base64"))
            return [self.fault(kind, f"{error}: {utf8_excerpt(data)}", now)]
        if self._playout is None:
            return [self.fault("sent-before-start", f"{utf8_excerpt(data)} before start", now)]
        if not self.bidirectional:
            return [self.fault("not-bidirectional", "the stream was not opened with bidirectional=true", now)]
        if isinstance(message, PlayAudio):
            return self._queue(message.media, self._playout, now)
        if isinstance(message, SendDtmf):
            if not message.dtmf or not DTMF_DIGITS.issuperset(message.dtmf.upper()):
                return [self.fault("bad-dtmf", f"dtmf {message.dtmf[:40]!a}", now)]
            return [DtmfPlayed(now, message.dtmf)]
        if message.stream_id != self.stream_id:
            return [self.fault("wrong-stream-id", f"streamId {message.stream_id[:60]!a}", now)]
        if isinstance(message, Checkpoint):
            self._playout.push_mark(message.name, now)
            return [MarkAsked(now, message.name)]
        self._owe_played(self._playout, now)
        dropped = self._playout.clear(now, return_marks=False)
        self._owed.append(ClearedAudio())
        return [Cleared(now, dropped)]

    def _queue(self, body: PlayBody, playout: PlayoutBuffer, now: float) -> list[CarrierEvent]:
        format = parse_format(body.content_type, body.sample_rate)
        if format is None:
            self._owed.append(PlayFailed(stream_id=self.stream_id, reason="unsupported content type"))
            return [self.fault("bad-format", f"{body.content_type[:40]!a} at {body.sample_rate} Hz", now)]
        events: list[CarrierEvent] = []
        if body.content_type != CONTENT_TYPES[format]:
            detail = f"contentType {body.content_type[:40]!a}: no parameter belongs here, sampleRate has the rate"
            events.append(self.fault("bad-format", detail, now))
        payload = body.payload
        if payload.startswith((b"RIFF", b"ID3")):
            events.append(self.fault("audio-header", "a file header inside the audio: send bare samples", now))
        if odd := len(payload) % format.sample_bytes:
            events.append(self.fault("odd-length", f"{len(payload)} bytes are no whole samples", now))
            payload = payload[:-odd]
        if format != self.format:
            if format not in self._converters:
                self._converters[format] = Converter(format, self.format)
            payload = self._converters[format].convert(payload)
        plays_at = playout.push(payload, now)
        if plays_at is None:
            detail = f"more than {self.MAX_QUEUED:g} s queued; the audio is dropped"
            return [*events, self.fault("overflow", detail, now)]
        return [*events, AudioQueued(now, self.format.duration(len(payload)), plays_at)]

    def _owe_played(self, playout: PlayoutBuffer, now: float) -> None:
        self._owed += [PlayedStream(name=name) for name in playout.take_reached(now)]

    def _numbered(self, message: _Message) -> _Message:
        self._sequence += 1
        message.sequence_number = self._sequence
        return message
