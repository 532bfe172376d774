"""The contract between a carrier's adapter and the gateway.

A carrier has two faces: it rings and takes orders (hang up, transfer, dial), and it carries one call's audio.
`Provider` is the first face, `MediaStream` the second. Calls arrive in one of three ways: a webhook comes before
the media socket (`WebhookProvider`: Twilio, Plivo), the media socket is itself the call (`SocketProvider`:
Asterisk, FreeSWITCH), or signalling has a protocol of its own (SIP). None does I/O on the media path: a
`MediaStream` takes messages and `now` and gives events, and gives the messages to send. The gateway owns
sockets, clocks and tasks. Only `CarrierControl` talks to the network.

How to add a carrier: `providers/README.md`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import msgspec
from pydantic import BaseModel

from offhook.codecs.audio import AudioFormat

# --- errors -----------------------------------------------------------------------


class CarrierError(Exception):
    """Something between us and a carrier went wrong.

    * CarrierError
        * CarrierProtocolError: the carrier (or whoever is at the socket) broke its own protocol.
        * CarrierAuthError: a webhook or an upgrade is not signed by the carrier.
        * CarrierUnavailable: the carrier's API did not answer, or answered 5xx, after the retries.
        * CarrierRefused: the carrier's API refused what we asked (4xx).
    """


class CarrierProtocolError(CarrierError):
    """The peer broke the carrier's protocol. Answered with 400."""


class CarrierAuthError(CarrierError):
    """The request is not signed by the carrier. Answered with 403; the text never goes to the peer."""


class CarrierUnavailable(CarrierError):
    """The carrier's API did not answer in time or failed, after every retry."""


class CarrierRefused(CarrierError):
    """The carrier's API understood and refused. `status` is its HTTP status, `code` its own error code."""

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


# --- the HTTP face ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CarrierRequest:
    """A webhook or a WebSocket upgrade, as it must be verified: by its public URL, never by its Host."""

    method: str
    "Upper case."
    url: str
    "The public URL the carrier was told: `public_url` + path + the raw query string; `wss://` for an upgrade."
    headers: Mapping[str, Sequence[str]]
    "Names in lower case; every value of a repeated header, in order."
    body: bytes = b""
    "Raw body, as received."

    def header(self, name: str) -> str | None:
        """The single value of a header; None when it is absent or was sent more than once."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class CarrierResponse:
    """What to answer a webhook with."""

    body: str
    content_type: str = "text/xml"
    status: int = 200


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call that rings, or an outbound call of ours that was answered and asks what to do."""

    carrier_call_id: str
    from_number: str
    "E.164 where the carrier gave a number, else what it gave (`client:…`, `sip:…`, `anonymous`)."
    to_number: str
    direction: Literal["inbound", "outbound"]
    fields: Mapping[str, str]
    "Every field the carrier sent, untouched; of a repeated field the last value."
    request_id: str = ""
    "The carrier's own key for repeats of this very request (Twilio's I-Twilio-Idempotency-Token), or empty."
    outbound_id: str = ""
    "For an outbound call: the id that `CarrierControl.dial` returned, where it differs from carrier_call_id."


CarrierCallStatus = Literal["queued", "ringing", "answered", "completed", "busy", "failed", "no-answer", "canceled"]


@dataclass(frozen=True, slots=True)
class CallStatusChanged:
    """A status callback: late, repeated and out of order by nature."""

    carrier_call_id: str
    status: CarrierCallStatus | None
    "None for a callback about something else (a stream event, say); its fields are still kept in the record."
    fields: Mapping[str, str]
    sequence: int | None = None
    "The carrier's own order, where it has one."
    cause: str = ""
    "The carrier's hang-up cause, in its own words."
    ended_by: Literal["caller", "callee", "carrier", "gateway", ""] = ""


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Answer the call and connect its audio to a media socket."""

    url: str
    "wss:// URL of the media socket, one-time token in the path, no query string."
    parameters: Mapping[str, str] = field(default_factory=dict)
    "Small non-secret strings that come back in StreamStarted.parameters."
    status_url: str = ""
    after_url: str = ""
    "Where the carrier asks how to go on when the stream has ended, where the carrier can."


@dataclass(frozen=True, slots=True)
class RejectAnswer:
    """Do not answer: the caller hears busy or a rejection."""

    reason: Literal["busy", "rejected"] = "busy"


@dataclass(frozen=True, slots=True)
class SayAnswer:
    """Answer, say a sentence in the carrier's own voice, hang up (or transfer when `then_dial` is set)."""

    text: str
    then_dial: str = ""


@dataclass(frozen=True, slots=True)
class DialAnswer:
    """Connect the caller to another number (cold transfer). `caller_id` is shown to the callee when set."""

    to: str
    caller_id: str = ""
    timeout: int = 30
    "Seconds the callee's phone rings."


@dataclass(frozen=True, slots=True)
class HangUpAnswer:
    """End the call."""


@dataclass(frozen=True, slots=True)
class AcceptAnswer:
    """Answer the call; its audio needs no address of ours, for it comes with the call itself."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    "What the agent wants the carrier to be told with the answer."


Answer = StreamAnswer | AcceptAnswer | RejectAnswer | SayAnswer | DialAnswer | HangUpAnswer


# --- the media face -----------------------------------------------------------------


class StreamEvent(msgspec.Struct, frozen=True):
    """Something the carrier's media socket told us."""


class CallOffered(StreamEvent, frozen=True):
    """A call rings on a socket that is the call itself. Given at most once, before StreamStarted."""

    incoming: IncomingCall


class StreamStarted(StreamEvent, frozen=True):
    """The carrier's `start`: audio follows. Given exactly once a stream."""

    stream_id: str
    carrier_call_id: str
    format: AudioFormat
    parameters: dict[str, str]


class MediaReceived(StreamEvent, frozen=True):
    """Audio of the caller, as the carrier packed it (usually 20 ms)."""

    payload: bytes
    "In the stream's negotiated format, untouched."
    lost_ms: int = 0
    "Audio that the carrier's own counters say is missing before this payload."


class DtmfReceived(StreamEvent, frozen=True):
    """The caller pressed a key."""

    digit: str
    "One of 0-9, A-D, * or #."
    duration_ms: int = 0
    "How long the key was held; 0 when the carrier does not say."


class MarkReached(StreamEvent, frozen=True):
    """Everything queued before the mark has been played to the caller, or was cleared unheard."""

    name: str
    cleared: bool
    "True when a clear, not playing, brought the mark back."


class HoldChanged(StreamEvent, frozen=True):
    """The caller put us on hold, or took us back. On hold nothing is heard from either side."""

    held: bool


class ClearConfirmed(StreamEvent, frozen=True):
    """The carrier says that it has emptied its buffer."""


class MessagesDue(StreamEvent, frozen=True):
    """Messages the stream held back that may go now, or that time has made due; sent as they are, in order."""

    messages: tuple[bytes, ...]


class StreamEnded(StreamEvent, frozen=True):
    """The stream is over. Given exactly once, whether `stop`, a close, or both arrived."""

    reason: Literal["stop", "transport-lost", "protocol-error"]
    detail: str = ""
    "The carrier's own cause, such as `Q.850 16 Normal call clearing`; for the record."


class ProtocolFault(StreamEvent, frozen=True):
    """The peer sent something wrong that does not end the call. Counted by `kind`, logged once a kind a call."""

    kind: str
    "Closed list, low cardinality: see FAULT_KINDS."
    detail: str
    "For the log; at most 200 characters, no audio."
    close_code: int = 0
    "When not 0 this stream cannot go on: close the socket with this RFC 6455 code."


FAULT_KINDS = frozenset(
    {
        "bad-json",  # not JSON, or JSON that is no object
        "bad-message",  # a known event whose fields have wrong types or are missing
        "bad-base64",
        "unknown-event",
        "binary-message",
        "media-before-start",
        "second-start",
        "wrong-stream-id",
        "unknown-mark",
        "bad-dtmf",
        "unsupported-format",  # ends the stream: it is never decoded as something else
        "wrong-call",  # the start names another call than the token: ends the stream
        "odd-length",
        "carrier-error",  # the carrier reports an error of its own
        "after-stop",
        "flood",  # more than twice real time for seconds on end
        "bad-packet",  # RTP: no packet, or lengths in it that exceed it
        "bad-rtcp",
        "bad-payload",  # a codec cannot have made it
        "unknown-payload",  # a payload type that was not agreed on
        "wrong-source",  # from an address that is not the peer's
        "srtp",  # not authentic, or received before
    }
)
"""Every `kind` a ProtocolFault may carry; metrics are labelled with it."""


class Binary(bytes):
    """A message that goes out as a binary WebSocket message; plain bytes go out as text."""

    __slots__ = ()


class MediaStream(ABC):
    """One carrier media socket, without the socket. Not thread-safe; never blocks.

    The gateway calls `receive` for every message and acts on the events in order; what the other methods
    return is sent as it is, one message an item, in order. Nothing is sent before `StreamStarted`.
    """

    silent: bool = False
    "True while no audio of the caller is expected, as on hold; the line then is not taken for dead."

    on_hold: bool = False
    "True while the caller has us on hold: nothing of ours is heard."

    paced: bool = False
    "True where we send at the pace of speech ourselves, and `backlog` says what waits."

    writable: bool = True
    "False while the peer has asked for no more audio; `media` then holds back what it is given and gives b''."

    format: AudioFormat
    "What the stream carries; valid after StreamStarted."
    stream_id: str
    "The carrier's id for the stream; empty before StreamStarted."

    last_heard: float = 0.0
    "When the peer last gave a sign of life that made no event, such as RTCP; loop time."

    def backlog(self) -> float:
        """Seconds of our audio that wait on our own side of the line; 0.0 where only the carrier holds any."""
        return 0.0

    @abstractmethod
    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        """Take one message. `str` or UTF-8 `bytes` of a text message. Never raises on bad input."""

    @abstractmethod
    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        """Take one binary message (most carriers never send one)."""

    @abstractmethod
    def closed(self, now: float) -> Sequence[StreamEvent]:
        """The socket is gone; gives StreamEnded unless it was given before."""

    @abstractmethod
    def media(self, payload: bytes) -> bytes:
        """One message that appends audio, in `format`, to the carrier's play-out queue.

        Empty when the stream keeps it for a later message (see MessagesDue); an empty message is not sent.
        """

    @abstractmethod
    def mark(self, name: str) -> bytes | None:
        """One message that asks to be told when everything before it was played; None: the carrier has no marks.

        Empty when the stream keeps it for later.
        """

    @abstractmethod
    def clear(self, now: float) -> Sequence[bytes]:
        """Messages that empty the carrier's queue; pending marks are from now on reported as cleared."""

    @abstractmethod
    def send_dtmf(self, digits: str) -> bytes | None:
        """One message that plays DTMF to the caller; None when the carrier cannot do it on the stream.

        Empty when the stream sees to it itself. Raises ValueError when too many keys wait already.
        """

    def quality(self) -> Mapping[str, float]:
        """How well the audio came through; empty: nobody knows.

        `packets_received`, `packets_sent`, `loss_percent`, `jitter_ms`, `mos`, `rtt_ms`, `remote_loss_percent`: those
        that are known.
        """
        return {}


class DirectStream(MediaStream):
    """A media socket that is the call: it rings with CallOffered and is answered or refused on the socket."""

    closing_hangs_up: bool = True
    "False where the call outlives its socket: then the control is told to hang up, too."

    @abstractmethod
    def accept(self, answer: AcceptAnswer, now: float) -> tuple[Sequence[bytes], Sequence[StreamEvent]]:
        """Answer the call: messages to send, and the events it makes (StreamStarted, if that is not yet to come)."""

    @abstractmethod
    def refuse(self, answer: Answer) -> Sequence[bytes]:
        """Messages that refuse the call; the socket is closed after them."""

    @abstractmethod
    def hang_up(self) -> Sequence[bytes]:
        """Messages that end the call; the socket is closed after them. Empty when closing is enough."""


# --- control ------------------------------------------------------------------------


class CarrierControl(ABC):
    """Orders to a carrier about one call, by its API. Runs off the event loop, with timeout and retry.

    Raises (every method): CarrierUnavailable after the retries, CarrierRefused on a 4xx that is not
    "already ended".
    """

    @abstractmethod
    async def hang_up(self, carrier_call_id: str) -> None:
        """End the call. A call that is already over is success."""

    @abstractmethod
    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        """Cold transfer of a live call; its media stream ends. `fetch_url` serves the answer's markup, for
        carriers that fetch instead of taking it inline."""

    @abstractmethod
    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        """Place an outbound call; returns the carrier's id of it (see IncomingCall.outbound_id).

        A carrier without webhooks has no use for the URLs.
        """

    @abstractmethod
    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        """Play DTMF by the API; False when this carrier cannot do it without ending the stream."""

    @abstractmethod
    async def check(self) -> str:
        """Ask the carrier who we are; returns a line for a human (account name). For `offhook check`."""

    async def close(self) -> None:
        """Let go of connections and threads."""


# --- the provider -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Webhook:
    """One HTTP path a carrier posts to."""

    path: str
    "Below public_url, such as /twilio/voice."
    kind: Literal["incoming", "status", "after"]
    "incoming: a call rings; status: a callback; after: the stream of a call ended, how to go on?"
    purpose: str
    "A few words for the person who pastes the URL at the carrier."


class Provider(ABC):
    """One carrier, however its calls arrive."""

    name: ClassVar[str]
    "The key under `carriers:` and the first segment of every path."
    Settings: ClassVar[type[BaseModel]]
    "The model of the section under `carriers:`; secrets are SecretStr."

    control: CarrierControl

    @abstractmethod
    def __init__(self, settings: BaseModel) -> None:
        """Take the validated Settings. No I/O."""


class WebhookProvider(Provider):
    """A carrier that asks a webhook what to do with a call: signatures, markup, media stream and API."""

    webhooks: ClassVar[Sequence[Webhook]]
    media_path: ClassVar[str]
    "Path of the media socket, ending in `/{token}`."
    subprotocols: ClassVar[Sequence[str]] = ()
    "Those of the media socket that we speak, best first."

    @abstractmethod
    def verify(self, request: CarrierRequest) -> None:
        """Raise CarrierAuthError unless the webhook is signed by the carrier. Constant-time compare."""

    @abstractmethod
    def verify_upgrade(self, request: CarrierRequest) -> None:
        """Raise CarrierAuthError unless the upgrade is signed; a carrier that signs none of them passes
        (the one-time token then is what authenticates)."""

    @abstractmethod
    def incoming(self, request: CarrierRequest) -> IncomingCall:
        """Read an incoming-call webhook. Raises CarrierProtocolError naming the missing field."""

    @abstractmethod
    def status(self, request: CarrierRequest) -> CallStatusChanged:
        """Read a status callback. Raises CarrierProtocolError naming the missing field."""

    @abstractmethod
    def answer(self, answer: Answer) -> CarrierResponse:
        """The markup for an answer."""

    @abstractmethod
    def stream(self, *, expect_call_id: str) -> MediaStream:
        """A fresh stream for a socket whose token belongs to this call; another call's start ends it."""


class SocketProvider(Provider):
    """A carrier (a PBX, as a rule) whose media WebSocket is itself the incoming call."""

    socket_path: ClassVar[str]
    "Path of the media socket below public_url, such as /asterisk/media. The path may go on after it with a slash."
    subprotocols: ClassVar[Sequence[str]]
    "Those we speak, best first; of those the peer offers one is chosen, and none offered is fine."

    ticket_path: ClassVar[str] = ""
    "Where a dialplan announces a call before it comes, and gets what to open it with; empty: nowhere."

    def ticket(self, request: CarrierRequest, now: float) -> CarrierResponse:
        """Answer a request to `ticket_path`. Raises CarrierAuthError or CarrierProtocolError."""
        raise CarrierProtocolError("calls of this carrier need no announcement")

    @abstractmethod
    def verify_upgrade(self, request: CarrierRequest) -> None:
        """Raise CarrierAuthError unless the peer may open a call (password, bearer token). Constant-time compare."""

    @abstractmethod
    def open(self, request: CarrierRequest) -> DirectStream:
        """A fresh stream for an upgrade that was verified."""
