"""One simulated call's audio: the caller's mouth and ear on one side, the carrier's media stream on the other.

Theory of operation
-------------------
A `Line` has no socket and no clock. Its owner calls `open` when the media socket is up and sends what it gives;
then calls `frame` whenever `frame_due` is reached and sends what that gives; hands over what the bot sends by
`receive`, and sends what `owed` gives whenever `next_owed` is reached. `stop` ends it.

There is one track clock: second 0 is `open`. Caller frame n leaves when second n·0.02 is reached and lies in the
track just before that moment, as with a phone that packs 20 ms before it sends them. The agent's channel is what
the carrier's play-out buffer plays, silence included, to the sample.
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

FRAME: Final = int(RATE * FRAME_S)

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


class Line:
    """The audio of one call. See the module's docstring for who calls what."""

    def __init__(self, side: CarrierSide) -> None:
        self._side = side
        self._to_carrier = Converter(L16_8K, side.format).convert
        self._to_ear = Converter(side.format, L16_8K).convert
        self._speech: deque[Samples] = deque()
        self._caller = bytearray()
        self._agent = bytearray()
        self._play_end = 0.0
        self.started = 0.0
        "Monotonic seconds of second 0 of the track."
        self.activity = LiveActivity()
        "Whether the agent speaks, as heard so far."
        self.arrivals: list[Arrival] = []
        self.dry: list[Span] = []
        self.left_at = array("d")
        self.lateness = array("d")
        "How late each frame was sent, seconds."
        self.lost_frames = 0
        self.on_arrival: Callable[[Arrival], None] | None = None

    # --- the caller's side ---

    def say(self, speech: Samples) -> Span:
        """Queue speech behind what is still to be said; gives where it will lie in the track."""
        start = len(self._caller) // 2 + sum(map(len, self._speech))
        if len(speech):
            self._speech.append(np.asarray(speech, np.int16))
        return Span(start / RATE, (start + len(speech)) / RATE)

    def hush(self) -> None:
        """Say no more of what is queued."""
        self._speech.clear()

    @property
    def saying(self) -> bool:
        """True while queued speech is left to be sent."""
        return bool(self._speech)

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
        """Start the stream and the track clock."""
        self.started = now
        return self._side.open(now)

    @property
    def frame_due(self) -> float:
        """When the next caller frame is to leave, in the owner's time."""
        return self.started + (len(self.left_at) + 1) * FRAME_S

    def frame(self, now: float) -> list[bytes]:
        """The next caller frame, 20 ms of speech or silence."""
        return [self._side.media(self._leaving(now)), *self.owed(now)]

    def lose_frame(self, now: float) -> None:
        """The next caller frame never reaches the bot, for the bot does not read."""
        self.lost_frames += 1
        self._side.lose(self._leaving(now))

    def dtmf(self, digit: str) -> bytes:
        """The caller presses a key."""
        return self._side.dtmf(digit)

    def stop(self, now: float) -> list[bytes]:
        """The caller hangs up, or the carrier ends the stream. The agent's channel ends here."""
        messages = self.owed(now)
        return messages + self._side.stop()

    def owed(self, now: float) -> list[bytes]:
        """What the carrier has to send by now besides media: marks, checkpoints. Plays out up to now, too."""
        heard = self._to_ear(self._side.play(now))
        self._agent += heard
        self.activity.feed(heard)
        return self._side.due(now)

    def next_owed(self) -> float | None:
        """When `owed` has something again, as far as is known."""
        return self._side.next_due()

    def receive(self, data: str | bytes, now: float) -> None:
        """Take a message of the bot: text as str, binary as bytes."""
        events = self._side.receive(data, now) if isinstance(data, str) else self._side.receive_binary(data, now)
        at = now - self.started
        for event in events:
            match event:
                case AudioQueued(seconds=seconds, plays_at=plays_at):
                    begins = plays_at - self.started
                    if self._play_end and begins > self._play_end + DRY_S:
                        self.dry.append(Span(self._play_end, begins))
                    self._play_end = begins + seconds
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

    def queued(self, now: float) -> float:
        """Seconds of agent audio that the caller has yet to hear."""
        return self._side.queued(now)

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
            stalls=[Span(left - late, left) for left, late in self._sent() if late > STALL_S],
            answered_at=answered_at - self.started,
        )

    def _sent(self) -> zip[tuple[float, float]]:
        return zip(self.left_at, self.lateness, strict=True)

    def _arrived(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if self.on_arrival is not None:
            self.on_arrival(arrival)

    def _leaving(self, now: float) -> bytes:
        self.lateness.append(max(0.0, now - self.frame_due))
        self.left_at.append(now - self.started)
        pcm = self._next_frame().tobytes()
        self._caller += pcm
        return self._to_carrier(pcm)

    def _next_frame(self) -> Samples:
        if not self._speech:
            return np.zeros(FRAME, np.int16)
        pieces, missing = [], FRAME
        while missing and self._speech:
            head = self._speech.popleft()
            pieces.append(head[:missing])
            if len(head) > missing:
                self._speech.appendleft(head[missing:])
            missing -= len(pieces[-1])
        return np.concatenate([*pieces, np.zeros(missing, np.int16)])
