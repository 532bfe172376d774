"""What every way of calling gives: a line for the caller to speak on, and a log of what was on the wire.

Theory of operation
-------------------
A `Phone` reaches one target and carries any number of calls at once. `carry` places one: it rings, and from the answer
on sends a frame every 20 ms against absolute deadlines. After each frame, when all that has arrived by then was heard,
it calls `Operator.frame`, which looks at the line and may speak, press keys or hang up. Nothing of the caller runs
between frames, so a call goes the same way however busy the machine is.

There is one track clock a call. Second 0 is when the line opens: the 200 of SIP, the opening of the media stream.
Caller frame n holds what is spoken in the 20 ms before second (n+1)·0.02, and leaves then. The agent's audio lies where
it could first be heard: an RTP packet of a stretch of speech where its first packet came, the following ones by their
timestamps (a late one as soon as it came); audio of a stream where the carrier's play-out buffer played it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, Self, get_args

import numpy as np

from offhook.qa.activity import LiveActivity, Samples, Span
from offhook.qa.network.model import Delays
from offhook.qa.scenario.model import DtmfWay, Media, Target

Way = Literal["sip", "twilio", "plivo", "link"]

Ability = Literal["hold", "codec", "transfer", "rfc4733", "inband", "info"]
"""What a line can do beside speaking."""


class PhoneError(Exception):
    """A call could not be made as asked.

    * PhoneError
        * Unreachable: nobody answers at the target: no such host, connection refused, no response. Exit code 3.
        * Unable: this way of calling cannot do what the scenario asks for. Exit code 2.
    """


class Unreachable(PhoneError):
    """Nobody is there. The text names the target and the remedy."""


class Unable(PhoneError):
    """The scenario asks for something that this way of calling has not. The text names both."""


LineEventKind = Literal[
    "ringing",
    "answered",
    "refused",  # detail: the status
    "dtmf",  # keys that the agent pressed; detail: the keys
    "held",  # the agent put us on hold
    "resumed",
    "transfer",  # detail: number or URI
    "cleared",  # the agent emptied the play-out buffer
    "fault",  # the agent broke the protocol; detail: how
    "ended",
]


@dataclass(frozen=True, slots=True)
class LineEvent:
    """Something that happened on the line beside audio."""

    at: float
    "Seconds on the track clock; below 0 before the answer."
    kind: LineEventKind
    detail: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    "Of a transfer."


class Mouth:
    """What the caller says, a frame at a time. `qa.caller.mouth` has the one with noise and tones behind it."""

    saying = False
    "True while something of what was to be said is left."

    def frame(self) -> Samples | None:
        """The next 160 samples at 8 kHz; None: silence."""
        return None


class CallerLine(ABC):
    """One call as its caller sees it, once it was answered."""

    activity: LiveActivity
    "Whether the agent speaks, as heard so far."
    mouth: Mouth
    "Asked for every frame. The operator puts its own here."
    events: deque[LineEvent]
    "What happened and was not yet looked at; the operator takes it from the left."
    abilities: frozenset[Ability]

    @property
    @abstractmethod
    def seconds(self) -> float:
        """How much the caller has sent: the track clock."""

    @abstractmethod
    def press(self, digits: str, way: DtmfWay, tone: float, gap: float) -> None:
        """Press keys; `tone` and `gap` in seconds. `inband` is the mouth's affair, and not asked for here.

        Raises:
            Unable: the line has no such way.
        """

    @abstractmethod
    def hang_up(self) -> None:
        """End the call. The last frame may be this one."""

    def hold(self) -> None:
        """Put the agent on hold. Raises Unable."""
        raise Unable("this way of calling has no hold; use a sip: target")

    def resume(self) -> None:
        """Come back from hold. Raises Unable."""
        raise Unable("this way of calling has no hold; use a sip: target")

    def change_codec(self, codec: str) -> None:
        """Agree on another codec. Raises Unable."""
        raise Unable("this way of calling has one codec only; use a sip: target")


class Operator(Protocol):
    """Who makes the call: the scenario's machine, a test, a person at a terminal."""

    def frame(self, line: CallerLine) -> None:
        """Every 20 ms while the call is up, after the frame was sent. Must neither block nor raise."""

    def ended(self) -> None:
        """The call is over, or never came about; its log is about to be given."""


@dataclass(frozen=True, slots=True)
class CallOrder:
    """One call to be made."""

    target: Target
    media: Media
    call_id: str
    "Distinct for each call of a run; part of file names."
    seed: int = 1
    "Of whatever is random in the line: tags, sequence numbers, the network's faults (with `media.network.seed`)."
    timeout: float = 90.0
    "Seconds after which the call is ended, ringing included."
    keep_packets: bool = True
    "Whether the log gets packets and ladder; not at load."


@dataclass(frozen=True, slots=True)
class WirePacket:
    """A datagram or message as it was on the wire, for the capture."""

    at: float
    "Unix seconds."
    out: bool
    "True: from the caller."
    local: tuple[str, int]
    remote: tuple[str, int]
    data: bytes
    kind: Literal["sip", "rtp", "rtcp"] = "rtp"


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the ladder: one SIP message, HTTP request or answer, or message that is no audio."""

    at: float
    "Seconds on the track clock."
    out: bool
    title: str
    "Such as `INVITE`, `200 OK`, `POST /twilio/voice`, `clear`."
    text: str = ""
    "The whole message, secrets taken out."
    again: bool = False
    "A retransmission."


@dataclass(slots=True)
class Arrivals:
    """The agent's RTP packets in the order they came, one entry a packet in each list."""

    at: array[float] = field(default_factory=lambda: array("d"))
    "Seconds on the track clock, by the kernel's time stamp where there is one."
    sequence: array[int] = field(default_factory=lambda: array("i"))
    "0 to 65535."
    timestamp: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("i"))
    "Bytes of payload."
    ssrc: array[int] = field(default_factory=lambda: array("q"))
    ticks: int = 160
    "Timestamp ticks of an ordinary packet."
    clock: int = 8000
    "Ticks a second."


@dataclass(slots=True)
class CallLog:
    """What is left of a call. Plain data: it may be pickled to another process."""

    call_id: str
    way: Way
    target: str
    began: float
    "Unix seconds at which the INVITE or the webhook left."
    status: int = 0
    "The final status of SIP, or HTTP's of the webhook or of the media socket's upgrade; 0: none came."
    answered: bool = False
    setup_ms: float | None = None
    "From the INVITE or webhook to the answer."
    pdd_ms: float | None = None
    "From the INVITE to the first 180 or 183."
    answered_at: float = 0.0
    "Track second from which a greeting counts; as a rule 0 or a little below."
    seconds: float = 0.0
    "How long the line was up."
    ended_by: Literal["", "agent", "caller", "network", "timeout"] = ""
    ended_how: str = ""
    codec: str = ""
    caller: Samples = field(default_factory=lambda: np.zeros(0, np.int16))
    "8 kHz, as it left (before the codec)."
    agent: Samples = field(default_factory=lambda: np.zeros(0, np.int16))
    "8 kHz, as it was heard, as long as `caller`."
    left_at: Sequence[float] = ()
    "Track second at which each caller frame really left."
    lateness: Sequence[float] = ()
    "Seconds that each caller frame left late."
    due: int = 0
    "Frames that should have left."
    clears: Sequence[float] = ()
    dry: Sequence[Span] = ()
    "Where the agent's audio ran dry and came again: holes, if it was speaking."
    stalls: Sequence[Span] = ()
    "Where this program itself was late."
    arrivals: Arrivals | None = None
    "None where there is no RTP."
    pressed: list[tuple[float, str]] = field(default_factory=list)
    "Track second and key, of the caller's keys."
    events: list[LineEvent] = field(default_factory=list)
    "All of them."
    ladder: list[Rung] = field(default_factory=list)
    packets: list[WirePacket] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    "What the agent did against the protocol."
    network_s: float = 0.0
    "Mean one-way delay that `media.network` added; round trips have it twice."
    added_out: Delays | None = None
    "What it added to each of the caller's packets, by the track second at which they left. None: `network_s`."
    added_back: Delays | None = None
    "What it added to the agent's audio, by the track second from which on that was heard. None: `network_s`."
    lost_frames: int = 0
    "Caller frames that never left, or that a bot which does not read never got."


class Phone(ABC):
    """A way to one target, for any number of calls. An asynchronous context manager."""

    way: Way
    abilities: ClassVar[frozenset[Ability]] = frozenset(get_args(Ability))
    "What its lines can do at most; with less, a scenario that needs more is refused before anybody is called."

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close what is open."""

    @abstractmethod
    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        """Make a call and see it through to its end.

        Raises:
            Unreachable: nobody is at the target.
            Unable: the order asks for what this way has not.
        """
