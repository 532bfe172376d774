"""One call's audio as its caller lives it: mouth and ear on one side, the carrier's media stream on the other.

Theory of operation
-------------------
A `Line` has no socket and no clock. Its owner calls `open` when the media socket is up and sends what it gives;
then calls `frame` whenever `frame_due` is reached and sends what that gives; hands over what the bot sends by
`receive`, and sends what `owed` gives whenever `next_owed` is reached. `stop` ends it.

There is one track clock: second 0 is `open`. Caller frame n leaves when second n·0.02 is reached and lies in the
track just before that moment, as with a phone that packs 20 ms before it sends them. The agent's channel is what
the carrier's play-out buffer plays, silence included, to the sample.

A line may outlive its stream: after `stop` the caller hears silence, and `attach` and `open` join the next stream to
the same track. Owners of such a line go on calling `frame` in between; it gives nothing to send then.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from offhook.codecs.audio import L16_8K
from offhook.codecs.convert import Converter
from offhook.providers.carrier_side import (
    AudioQueued,
    CarrierFault,
    CarrierSide,
    Cleared,
    DtmfPlayed,
    MarkAsked,
)
from offhook.qa.activity import RATE, LiveActivity, Samples, Span
from offhook.qa.measure import FRAME_S, Conversation
from offhook.qa.phones.base import Ability, CallerLine, LineEvent, LineEventKind, Mouth, Unable
from offhook.qa.scenario.model import DtmfWay

FRAME: Final = int(RATE * FRAME_S)

_SILENT_FRAME: Final = bytes(2 * FRAME)

MAX_EVENTS: Final = 1000
"""Events kept for somebody to look at; a bot that makes more has been described well enough."""

_EVENTS: Final[dict[str, LineEventKind]] = {"clear": "cleared", "dtmf": "dtmf", "fault": "fault"}
"""Arrivals that the caller is told of."""

STALL_S: Final = 0.005
"""A frame this much late is a stall of the simulator: a hole in the agent's audio at that time is not the bot's."""

DRY_S: Final = 0.005
"""A play-out buffer that was empty for less than this was not heard to be: frames sent on time jitter by 1 to 3 ms."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from the bot."""

    at: float
    "Seconds on the track clock."
    kind: str
    "media, mark, clear, dtmf or fault."
    seconds: float = 0.0
    "Audio it carried, or of a clear: audio it threw away."
    detail: str = ""
    "Name of the mark, digits, or what was wrong."


class SpeechQueue(Mouth):
    """Says one thing after the other, with nothing in between."""

    def __init__(self) -> None:
        self._speech: deque[Samples] = deque()
        self._at = 0
        "Samples of the first that were said."

    def say(self, speech: Samples) -> None:
        """Queue speech behind what is still to be said."""
        if len(speech):
            self._speech.append(np.ascontiguousarray(speech, np.int16))
            self.saying = True

    def hush(self) -> None:
        """Forget what was not said yet."""
        self._speech.clear()
        self._at = 0
        self.saying = False

    @property
    def left(self) -> int:
        """Samples that are still to be said."""
        return sum(map(len, self._speech)) - self._at

    def frame(self) -> Samples | None:
        if not self.saying:
            return None
        head, at = self._speech[0], self._at
        if len(head) - at > FRAME:
            self._at = at + FRAME
            return head[at : at + FRAME]
        pieces, missing = [], FRAME
        while missing and self._speech:
            piece = self._speech[0][self._at : self._at + missing]
            pieces.append(piece)
            missing -= len(piece)
            self._at += len(piece)
            if self._at == len(self._speech[0]):
                self._speech.popleft()
                self._at = 0
        self.saying = bool(self._speech)
        return np.concatenate([*pieces, np.zeros(missing, np.int16)])


class Line(CallerLine):
    """The audio of one call. See the module's docstring for who calls what.

    Args:
        side: the carrier's side of the stream; None: there is none yet.
        keep_media: whether `arrivals` gets an entry for every message of audio.
        abilities: what the owner lets the caller do.
    """

    def __init__(
        self,
        side: CarrierSide | None = None,
        *,
        keep_media: bool = True,
        abilities: frozenset[Ability] = frozenset({"rfc4733", "inband"}),
    ) -> None:
        self.abilities = abilities
        self._queue = SpeechQueue()
        self.mouth: Mouth = self._queue
        self.events: deque[LineEvent] = deque(maxlen=MAX_EVENTS)
        self.on_event: Callable[[LineEvent], None] | None = None
        self.on_control: Callable[[bytes], None] | None = None
        "Gets every message to the bot that is no audio."
        self.on_hang_up: Callable[[], None] | None = None
        self.pressed: list[tuple[float, str]] = []
        "Track second and key, of the keys that were pressed."
        self._keys: deque[tuple[float, str]] = deque()
        "Still to be pressed, and when."
        self._keep_media = keep_media
        self._caller = bytearray()
        self._agent = bytearray()
        self._play_end = 0.0
        self.started = 0.0
        "Monotonic seconds of second 0 of the track."
        self.opened = False
        "There is a track clock."
        self.activity = LiveActivity()
        "Whether the agent speaks, as heard so far."
        self.arrivals: list[Arrival] = []
        self.dry: list[Span] = []
        self.left_at = array("d")
        self.lateness = array("d")
        "How late each frame was sent, seconds."
        self.lost_frames = 0
        self.on_arrival: Callable[[Arrival], None] | None = None
        self._side: CarrierSide | None = None
        if side is not None:
            self.attach(side)

    def attach(self, side: CarrierSide) -> None:
        """Join a stream to the line; `open` begins it."""
        self._side = side
        self._to_carrier = Converter(L16_8K, side.format).convert
        self._to_ear = Converter(side.format, L16_8K).convert
        # A resampler must see silence, too, or speech would begin with what it holds of the speech before.
        self._silence = self._to_carrier(_SILENT_FRAME) if side.format.rate == RATE else None

    # --- the caller's side ---

    def say(self, speech: Samples) -> Span:
        """Queue speech behind what is still to be said; gives where it will lie in the track."""
        start = len(self._caller) // 2 + self._queue.left
        self._queue.say(speech)
        return Span(start / RATE, (start + len(speech)) / RATE)

    def hush(self) -> None:
        """Say no more of what is queued."""
        self._queue.hush()

    @property
    def saying(self) -> bool:
        """True while queued speech is left to be sent."""
        return self._queue.saying

    def press(self, digits: str, way: DtmfWay, tone: float, gap: float) -> None:
        """Press keys as messages of the carrier, one after the other; see `CallerLine`."""
        if way != "rfc4733":
            raise Unable(f"a carrier's stream has no keys by {way}; write `by: rfc4733` for its own message, or inband")
        at = max(self.seconds, self._keys[-1][0] + tone + gap if self._keys else 0.0)
        for digit in digits:
            self._keys.append((at, digit))
            at += tone + gap

    def hang_up(self) -> None:
        """End the call, as far as the owner of the line has it in hand."""
        if self.on_hang_up is not None:
            self.on_hang_up()

    @property
    def caller(self) -> Samples:
        """What the caller said so far."""
        return np.frombuffer(bytes(self._caller), np.int16)

    @property
    def agent(self) -> Samples:
        """What the caller heard so far."""
        return np.frombuffer(bytes(self._agent), np.int16)

    @property
    def seconds(self) -> float:
        """How much the caller has sent."""
        return len(self._caller) / 2 / RATE

    # --- the wire ---

    def open(self, now: float) -> list[bytes]:
        """Start the stream, and with the first one the track clock."""
        assert self._side is not None
        if not self.opened:
            self.begin(now)
        else:
            self._hear_nothing(now)
        self._play_end = 0.0
        return self._controlled(self._side.open(now))

    def begin(self, now: float) -> None:
        """Start the track clock, where there is no stream yet."""
        self.started, self.opened = now, True

    @property
    def frame_due(self) -> float:
        """When the next caller frame is to leave, in the owner's time."""
        return self.started + (len(self.left_at) + 1) * FRAME_S

    def frame(self, now: float) -> list[bytes]:
        """The next caller frame, 20 ms of speech or silence, and then what else is owed."""
        payload = self._leaving(now)
        side = self._side
        if side is None:
            self._hear_nothing(now)
            return []
        messages = [side.media(payload)]
        if self._keys and self._keys[0][0] <= self.seconds - FRAME_S:
            messages.append(self.dtmf(self._keys.popleft()[1]))
        return messages + self.owed(now)

    def lose_frame(self, now: float) -> None:
        """The next caller frame never reaches the bot, for the bot does not read."""
        self.lost_frames += 1
        payload = self._leaving(now)
        if self._side is not None:
            self._side.lose(payload)

    def dtmf(self, digit: str) -> bytes:
        """The caller presses a key."""
        assert self._side is not None
        self.pressed.append((self.seconds, digit))
        return self._controlled([self._side.dtmf(digit)])[0]

    def stop(self, now: float) -> list[bytes]:
        """The caller hangs up, or the carrier ends the stream. What is left of the agent's audio is not heard."""
        messages = self.owed(now)
        side, self._side = self._side, None
        return messages + (self._controlled(side.stop()) if side is not None else [])

    def owed(self, now: float) -> list[bytes]:
        """What the carrier has to send by now besides media: marks, checkpoints. Plays out up to now, too."""
        side = self._side
        if side is None:
            return []
        heard = self._to_ear(side.play(now))
        self._agent += heard
        self.activity.feed(heard)
        return self._controlled(side.due(now))

    def _controlled(self, messages: list[bytes]) -> list[bytes]:
        if self.on_control is not None:
            for message in messages:
                self.on_control(message)
        return messages

    def _hear_nothing(self, now: float) -> None:
        """Silence from where the last stream ended up to now."""
        missing = L16_8K.size(max(0.0, now - self.started)) - len(self._agent)
        if missing > 0:
            silence = bytes(missing)
            self._agent += silence
            self.activity.feed(silence)

    def next_owed(self) -> float | None:
        """When `owed` has something again, as far as is known."""
        return self._side.next_due() if self._side is not None else None

    def receive(self, data: str | bytes, now: float) -> None:
        """Take a message of the bot: text as str, binary as bytes."""
        side = self._side
        if side is None:
            return
        events = side.receive(data, now) if isinstance(data, str) else side.receive_binary(data, now)
        at = now - self.started
        for event in events:
            match event:
                case AudioQueued(seconds=seconds, plays_at=plays_at):
                    begins = plays_at - self.started
                    if self._play_end and begins > self._play_end + DRY_S:
                        self.dry.append(Span(self._play_end, begins))
                    self._play_end = begins + seconds
                    if self._keep_media:
                        self._arrived(Arrival(at, "media", seconds))
                case MarkAsked(name=name):
                    self._arrived(Arrival(at, "mark", detail=name))
                case Cleared(dropped=dropped):
                    self._play_end = 0.0  # what comes next is a new utterance, not the end of a hole
                    self._arrived(Arrival(at, "clear", dropped))
                case DtmfPlayed(digits=digits):
                    self._arrived(Arrival(at, "dtmf", detail=digits))
                case CarrierFault(kind=kind, detail=detail, code=code):
                    self._arrived(Arrival(at, "fault", detail=f"{kind} {code}: {detail}"))

    def happened(self, kind: LineEventKind, detail: str = "", at: float | None = None) -> None:
        """Tell the caller of something; `at` on the track clock, by default now."""
        event = LineEvent(self.seconds if at is None else at, kind, detail)
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def queued(self, now: float) -> float:
        """Seconds of agent audio that the caller has yet to hear."""
        return self._side.queued(now) if self._side is not None else 0.0

    def conversation(self, answered_at: float) -> Conversation:
        """All of it, for measuring. `answered_at`: when the bot answered the webhook, in the owner's time."""
        caller, agent = self.caller, self.agent
        length = max(len(caller), len(agent))
        return Conversation(
            caller=np.concatenate([caller, np.zeros(length - len(caller), np.int16)]),
            agent=np.concatenate([agent, np.zeros(length - len(agent), np.int16)]),
            left_at=self.left_at,
            clears=[arrival.at for arrival in self.arrivals if arrival.kind == "clear"],
            dry=self.dry,
            stalls=self.stalls,
            answered_at=answered_at - self.started,
        )

    @property
    def stalls(self) -> list[Span]:
        """Where the simulator itself was late."""
        sent = zip(self.left_at, self.lateness, strict=True)
        return [Span(left - late, left) for left, late in sent if late > STALL_S]

    def _arrived(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if arrival.kind in _EVENTS:
            self.happened(_EVENTS[arrival.kind], arrival.detail, arrival.at)
        if self.on_arrival is not None:
            self.on_arrival(arrival)

    def _leaving(self, now: float) -> bytes:
        """Say the next frame: into the track, and as the carrier packs it."""
        late = now - self.frame_due
        self.lateness.append(late if late > 0 else 0.0)
        self.left_at.append(now - self.started)
        samples = self.mouth.frame()
        if samples is None:
            self._caller += _SILENT_FRAME
            if self._side is None:
                return b""
            return self._silence if self._silence is not None else self._to_carrier(_SILENT_FRAME)
        pcm = samples.tobytes()
        self._caller += pcm
        return self._to_carrier(pcm) if self._side is not None else b""
