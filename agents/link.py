"""The agent link: the one message set between the gateway and whoever answers the call.

Theory of operation
-------------------
A call is offered to an agent while it rings. The agent says `Ready` (or `Refuse`), the gateway answers the
phone and says `Answered`, and from then on caller audio flows to the agent and agent audio to the caller
until one side ends it: the gateway says `Over`, once, always last.

Audio is binary, everything else is a JSON event tagged by `type`. Caller audio arrives as the carrier packed
it, 20 ms a message as a rule. Agent audio belongs to the utterance opened by the last `Speak` until `Spoken`
closes it; audio outside any utterance is a live stream (an echo, a relay), sent on with nothing remembered.
Every utterance is reported exactly once by `UtteranceEnded`: played, cut (heard_ms of it were heard) or
dropped (none of it was).

Three carriages, one meaning:

* in process: the message objects themselves are handed over (`isolation: inline`);
* Unix socket: many calls share one stream of frames, `!IIB` = body length, call number, kind (0 event,
  1 audio), then the body. Call number 0 is the host itself (`HostConfig`, `HostReady`, `Beat`);
* WebSocket: one call a socket; text message = event, binary message = audio.

Times (`at`, and the marks of `Turn`) are seconds of CLOCK_MONOTONIC, which processes of one machine share. A
remote agent leaves them out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

VERSION: Final = 1

MAX_BODY: Final = 1 << 20
"""Bytes of one link message. A minute of μ-law is 480 kB; more than this is a broken peer."""

EVENT: Final = 0
AUDIO: Final = 1


class LinkError(Exception):
    """The peer broke the link's rules; the text names the field and what was expected."""


class Message(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """Base of every event on the link."""


# --- gateway to agent ----------------------------------------------------------------


class CallInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who calls whom, as the agent may know it."""

    id: str
    "offhook's own call id."
    from_number: str
    to_number: str
    carrier: str
    direction: Literal["inbound", "outbound"] = "inbound"
    fields: dict[str, str] = {}
    "What the carrier said about the call, every field."
    parameters: dict[str, str] = {}


class Offer(Message, frozen=True, tag="offer"):
    """A call rings; say Ready or Refuse."""

    call: CallInfo
    agent: str
    "The name under `agents:` in the configuration."
    settings: dict[str, Any]
    "The agent's section of the configuration without the keys that are the gateway's."
    format: str
    "Audio format of the link in both directions, such as pcmu/8000."
    kind: str = ""
    "The agent's kind, for the host that must find its class."
    history: list[dict[str, Any]] = []
    "What an earlier agent of this call had put into `Context`: the call goes on from there."
    version: int = VERSION


class Answered(Message, frozen=True, tag="answered"):
    """The call is up and audio flows."""

    at: float = 0.0
    format: str = ""
    "Set when the carrier negotiated another format than the offer named; it holds from now on."


class Dtmf(Message, frozen=True, tag="dtmf"):
    """The caller pressed a key: one of 0-9, A-D, * or #."""

    digit: str


class Held(Message, frozen=True, tag="held"):
    """The caller put the call on hold, or is back. What is said meanwhile waits."""

    held: bool


class UtteranceStarted(Message, frozen=True, tag="utterance.started"):
    """The first audio of an utterance went to the carrier."""

    utterance: int
    at: float = 0.0


class UtteranceEnded(Message, frozen=True, tag="utterance.ended"):
    """An utterance is over, exactly once."""

    utterance: int
    outcome: Literal["played", "cut", "dropped"]
    heard_ms: int
    "How much of it the caller heard."
    length_ms: int
    "How long it was, as far as the agent had sent it."


class OrderRefused(Message, frozen=True, tag="order.refused"):
    """An order of the agent's was not carried out; the call goes on."""

    order: Literal["transfer", "dtmf.send"]
    reason: str


class Over(Message, frozen=True, tag="over"):
    """The call has ended, or the gateway has taken it away from this agent. Always the last message."""

    reason: str


# --- agent to gateway ----------------------------------------------------------------


class Ready(Message, frozen=True, tag="ready"):
    """Answer the phone."""

    format: str = ""
    "Over WebSocket only: the format this agent wants to hear and speak, if not the offered one."


class Refuse(Message, frozen=True, tag="refuse"):
    """This agent does not take the call, or gives it up for good; the route's fallback does."""

    reason: str


class Speak(Message, frozen=True, tag="speak"):
    """Open an utterance; audio follows. Ids are the agent's own, never used twice in a call."""

    utterance: int
    text: str = ""


class Spoken(Message, frozen=True, tag="spoken"):
    """No more audio for this utterance."""

    utterance: int


class Clear(Message, frozen=True, tag="clear"):
    """Stop speaking now: everything queued or playing is cut."""


class HangUp(Message, frozen=True, tag="hangup"):
    """End the call, by default after the last word has been heard."""

    reason: str = ""
    after_speech: bool = True


class Transfer(Message, frozen=True, tag="transfer"):
    """Connect the caller to a number the route allows, by default after the last word has been heard."""

    to: str
    after_speech: bool = True


class SendDtmf(Message, frozen=True, tag="dtmf.send"):
    """Play DTMF to the caller, where the carrier can."""

    digits: str


class Transcript(Message, frozen=True, tag="transcript"):
    """What one side said, for the record. An agent's text names its utterance so that only what was heard counts."""

    role: Literal["caller", "agent"]
    text: str
    utterance: int = 0
    at: float = 0.0


class Turn(Message, frozen=True, tag="turn"):
    """Where the time of one reply went. Zero: that stage did not happen."""

    utterance: int
    "The first utterance of the reply."
    caller_stopped: float = 0.0
    "When the last voiced caller frame arrived."
    turn_ended: float = 0.0
    "When the agent decided that the caller's turn is over."
    understood: float = 0.0
    "Final transcript."
    first_token: float = 0.0
    "First token of the reply out of the language model."
    reply_text: float = 0.0
    "First sentence of the reply, complete enough to be spoken."
    reply_audio: float = 0.0
    "First audio of the reply out of the synthesiser."


class Note(Message, frozen=True, tag="note"):
    """Anything the agent wants in the call record, under a name of its own."""

    name: str
    data: dict[str, Any] = {}


class Context(Message, frozen=True, tag="context"):
    """The conversation so far, for the journal; an agent that takes the call over gets it as `Offer.history`."""

    start: int
    "Messages before this one stay, those from here on are replaced."
    messages: list[dict[str, Any]] = []
    "In the shape of OpenAI's chat messages."


class Bed(Message, frozen=True, tag="bed"):
    """Sound under everything that is said, in a loop, until the next Bed: ambience, hold music, ringback.

    It is heard while nobody speaks as well; it never counts as speech.
    """

    sound: str = ""
    "Digest of the audio; empty: silence."
    audio: bytes = b""
    "The loop in the link's format; left out when this call has had it already."
    gain: float = 1.0


class Attributes(Message, frozen=True, tag="attributes"):
    """What the carrier is to be told about the call, such as SIP headers with the answer, a transfer or the hang-up."""

    values: dict[str, str]
    "Attribute of the trunk's `attributes`, or name of a header that the trunk passes on → value."


class Service(Message, frozen=True, tag="service"):
    """What a speech or language service did, for metrics and the record."""

    role: Literal["stt", "llm", "tts"]
    service: str
    ttfb_ms: float = 0.0
    "Time to the first result; 0 when there was none."
    fault: str = ""
    "Kind of the fault; empty: it went well."
    detail: str = ""


class Failed(Message, frozen=True, tag="failed"):
    """The agent raised. The caller gets the apology and the fallback."""

    error: str
    traceback: str = ""


# --- host level (call number 0 on a Unix socket) ---------------------------------------


class HostConfig(Message, frozen=True, tag="host.config"):
    """The first message to a fresh host."""

    name: str
    kinds: list[str]
    "Agent kinds to import before saying HostReady, so that no call pays for it."
    beat_interval: float
    "Seconds between two Beats."
    log_level: str = "info"
    path: list[str] = []
    "Folders to find `module:Class` agents in, after the installed packages."
    warm: list[dict[str, Any]] = []
    "Settings of the agents this host will run, one a kind in `kinds`, so that models are loaded beforehand."


class HostReady(Message, frozen=True, tag="host.ready"):
    """Imports done, calls may come."""

    pid: int


class Beat(Message, frozen=True, tag="host.beat"):
    """The host lives."""

    at: float
    loop_lag_ms: float
    rss_bytes: int
    calls: int


class Retire(Message, frozen=True, tag="host.retire"):
    """Exit when the last call is over."""


ToAgent = Offer | Answered | Dtmf | Held | UtteranceStarted | UtteranceEnded | OrderRefused | Over
FromAgent = (
    Ready
    | Refuse
    | Speak
    | Spoken
    | Clear
    | HangUp
    | Transfer
    | SendDtmf
    | Transcript
    | Turn
    | Note
    | Context
    | Bed
    | Attributes
    | Service
    | Failed
)
ToHost = HostConfig | Retire
FromHost = HostReady | Beat

_encoder = msgspec.json.Encoder()
_to_agent: msgspec.json.Decoder[ToAgent | ToHost] = msgspec.json.Decoder(ToAgent | ToHost)
_from_agent: msgspec.json.Decoder[FromAgent | FromHost] = msgspec.json.Decoder(FromAgent | FromHost)

encode = _encoder.encode
"""A message as JSON bytes."""


def decode_to_agent(data: bytes | str) -> ToAgent | ToHost:
    """Read an event that the gateway sent. Raises LinkError."""
    try:
        return _to_agent.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"bad message from the gateway: {error}") from error


def decode_from_agent(data: bytes | str) -> FromAgent | FromHost:
    """Read an event that an agent sent. Raises LinkError."""
    try:
        return _from_agent.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"bad message from the agent: {error}") from error


# --- framing on a stream socket ----------------------------------------------------------

_HEAD = struct.Struct("!IIB")
HEAD_SIZE: Final = _HEAD.size


def frame(call: int, kind: int, body: bytes) -> bytes:
    """One frame: head and body."""
    return _HEAD.pack(len(body), call, kind) + body


class FrameReader:
    """Cuts a byte stream into frames.

    Raises LinkError from `feed` on a body over MAX_BODY or an unknown kind; the stream cannot go on then.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Give (call number, kind, body) for every frame completed by `data`."""
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        try:
            while size - at >= HEAD_SIZE:
                length, call, kind = _HEAD.unpack_from(data, at)
                if length > MAX_BODY:
                    raise LinkError(f"link frame of {length} bytes; the limit is {MAX_BODY}")
                if kind > AUDIO:
                    raise LinkError(f"link frame of unknown kind {kind}")
                end = at + HEAD_SIZE + length
                if end > size:
                    break
                yield call, kind, data[at + HEAD_SIZE : end]
                at = end
        finally:
            self._rest = data[at:]
