"""The carrier's half of a media socket, without the socket: what simulators and tests ring us with.

Theory of operation
-------------------
A `CarrierSide` is one call's media stream as the carrier runs it. It is sans-I/O: the owner gives it `now`
(monotonic seconds) and the messages that came from the bot, and sends what it returns. A simulator's loop:

    side = TwilioCarrierSide(account_sid=..., call_sid=..., parameters=stream.parameters)
    for message in side.open(now): send(message)              # connected, start
    every 20 ms:
        send(side.media(frame))                               # the caller's voice, 20 ms
        for message in side.due(now): send(message)           # marks, checkpoints, clearedAudio
        heard += side.play(now)                               # what the caller heard since last time
    on a text message from the bot:   events = side.receive(data, now)
    on a binary message from the bot: events = side.receive_binary(data, now)
    for message in side.stop(): send(message)                 # the caller hangs up; then close the socket

What the bot sends goes into a play-out buffer that drains in real time from `open` on. `play` gives every
sample since the last call of `play`, silence where nothing was queued, so the bytes given add up to the time
that passed: position in them divided by the rate is seconds since `open`. Marks fall due by that clock and
are given by `due`, encoded, in order; `next_due` says when to look again, for a simulator that sleeps.
Sequence numbers are counted as messages are built, so send them in the order you got them.

A bot that breaks the protocol gets a `CarrierFault`: returned by `receive` among the events and kept in
`faults`, with the number the carrier would log it under where it has numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Final

from offhook.codecs.audio import AudioFormat

MAX_FAULTS: Final = 1000
"""Faults kept for one stream; a bot that makes more has been described well enough."""

FAULT_KINDS: Final = frozenset(
    {
        "bad-json",  # not JSON, or JSON that is no object
        "bad-message",  # a known event whose fields have wrong types or are missing
        "bad-base64",
        "unknown-event",
        "binary-message",
        "sent-before-start",
        "wrong-stream-id",
        "not-bidirectional",  # the markup asked for a stream that only listens
        "overflow",  # more queued than the carrier holds
        "odd-length",
        "audio-header",  # a WAV or MP3 header inside the audio: the caller hears a click
        "bad-format",  # audio of a kind the carrier does not play
        "bad-dtmf",
        "bad-markup",  # the answer, not the stream: see markup.py
    }
)
"""Every `kind` a CarrierFault may carry."""


@dataclass(frozen=True, slots=True)
class CarrierFault:
    """Something the bot did wrong, as the carrier would log it."""

    kind: str
    "One of FAULT_KINDS."
    detail: str
    code: str = ""
    "The carrier's own number, such as 31924; empty where it has none."
    at: float = 0.0
    "Monotonic seconds."


@dataclass(frozen=True, slots=True)
class AudioQueued:
    """The bot sent audio; it was appended to the play-out buffer."""

    at: float
    seconds: float
    "How long this piece lasts."
    plays_at: float
    "When the caller hears its first sample, unless it is cleared before."


@dataclass(frozen=True, slots=True)
class MarkAsked:
    """The bot asked to be told when everything queued so far has been played."""

    at: float
    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The bot emptied the play-out buffer."""

    at: float
    dropped: float
    "Seconds of audio the caller never heard."


@dataclass(frozen=True, slots=True)
class DtmfPlayed:
    """The bot had keys played to the caller."""

    at: float
    digits: str


CarrierEvent = AudioQueued | MarkAsked | Cleared | DtmfPlayed | CarrierFault
"""What `receive` gives back."""


class PlayoutBuffer:
    """A carrier's play-out buffer: a FIFO of audio and marks that drains in real time, to the sample.

    Args:
        format: what the buffer holds.
        start: monotonic seconds at which its clock begins.
        limit: seconds of audio it holds at most.
    """

    def __init__(self, format: AudioFormat, start: float, limit: float) -> None:
        self.format = format
        self._start = start
        self._limit = format.size(limit)
        self._queue: deque[bytes | str] = deque()
        "Audio as bytes, marks as str."
        self._mark_at: deque[int] = deque()
        "Where on the clock the marks in `_queue` lie: it cannot run dry before them."
        self._queued = 0
        "Bytes of audio in `_queue`."
        self._offset = 0
        "Bytes of the head of `_queue` that have been played."
        self._clock = 0
        "Bytes played so far, silence included."
        self._advanced = float("-inf")
        "The latest `now`."
        self._heard: list[bytes] = []
        self._reached: list[str] = []
        self._silence = format.silence

    def push(self, payload: bytes, now: float) -> float | None:
        """Append whole samples; gives when the first will be heard, or None when the buffer is full."""
        self.advance(now)
        if self._queued + len(payload) > self._limit:
            return None
        plays_at = self._time(self._clock + self._queued)
        if payload:
            self._queue.append(payload)
            self._queued += len(payload)
        return max(plays_at, now)

    def push_mark(self, name: str, now: float) -> None:
        """Append a mark; with nothing queued it is reached at once."""
        self.advance(now)
        self._queue.append(name)
        self._mark_at.append(self._clock + self._queued)
        self._collect_marks()

    def clear(self, now: float, *, return_marks: bool = True) -> float:
        """Forget everything queued; gives the seconds dropped. Waiting marks count as reached, or are lost."""
        self.advance(now)
        dropped = self.format.duration(self._queued)
        if return_marks:
            self._reached += [item for item in self._queue if isinstance(item, str)]
        self._queue.clear()
        self._mark_at.clear()
        self._queued = self._offset = 0
        return dropped

    def advance(self, now: float) -> None:
        """Play up to `now`."""
        if now <= self._advanced:
            return
        self._advanced = now
        want = self.format.size(max(0.0, now - self._start)) - self._clock
        if want <= 0:
            return
        self._clock += want
        while want and self._queue:
            head = self._queue[0]
            if isinstance(head, str):
                self._collect_marks()
                continue
            piece = head[self._offset : self._offset + want]
            self._heard.append(piece)
            want -= len(piece)
            self._queued -= len(piece)
            self._offset += len(piece)
            if self._offset == len(head):
                self._queue.popleft()
                self._offset = 0
        if want:
            frames, rest = divmod(want, len(self._silence))
            self._heard.append(self._silence * frames + self._silence[:rest])
        self._collect_marks()

    def take_heard(self, now: float) -> bytes:
        """Everything played since the last call."""
        self.advance(now)
        heard = b"".join(self._heard)
        self._heard.clear()
        return heard

    def take_reached(self, now: float) -> list[str]:
        """Marks reached since the last call, in order."""
        self.advance(now)
        reached, self._reached = self._reached, []
        return reached

    def next_mark(self) -> float | None:
        """When the first waiting mark will be reached, if nothing is cleared; None with no mark waiting."""
        if self._reached:
            return self._time(self._clock)
        return self._time(self._mark_at[0]) if self._mark_at else None

    def queued(self, now: float) -> float:
        """Seconds of audio not yet played."""
        self.advance(now)
        return self.format.duration(self._queued)

    def _collect_marks(self) -> None:
        while self._queue and isinstance(mark := self._queue[0], str):
            self._queue.popleft()
            self._mark_at.popleft()
            self._reached.append(mark)

    def _time(self, position: int) -> float:
        return self._start + self.format.duration(position)


class CarrierSide(ABC):
    """What every carrier's side of the wire has. See the module's docstring for its use."""

    MAX_QUEUED: float
    "Seconds of audio this carrier's buffer holds."

    def __init__(self, *, call_id: str, stream_id: str, format: AudioFormat) -> None:
        self.call_id, self.stream_id, self.format = call_id, stream_id, format
        self.faults: list[CarrierFault] = []
        self._playout: PlayoutBuffer | None = None

    # --- towards the bot ---

    @abstractmethod
    def open(self, now: float) -> list[bytes]:
        """The first messages of the stream; the play-out clock starts."""

    @abstractmethod
    def media(self, payload: bytes) -> bytes:
        """One message of caller audio, in `format`, usually 20 ms."""

    @abstractmethod
    def lose(self, payload: bytes) -> None:
        """Count caller audio that never reaches the bot, as a carrier does whose send buffer overflows."""

    @abstractmethod
    def dtmf(self, digit: str) -> bytes:
        """The caller pressed a key."""

    @abstractmethod
    def stop(self) -> list[bytes]:
        """The last messages before the carrier closes the socket; a carrier that just closes gives none."""

    # --- from the bot ---

    @abstractmethod
    def receive(self, data: bytes | str, now: float) -> list[CarrierEvent]:
        """Take one text message of the bot. Never raises on bad input."""

    def receive_binary(self, data: bytes, now: float) -> list[CarrierEvent]:
        """Take one binary message of the bot: a fault, for the carriers we know."""
        return [self.fault("binary-message", f"{len(data)} bytes sent as a binary message", now)]

    # --- the caller's ear ---

    def play(self, now: float) -> bytes:
        """What the caller heard since the last call, in `format`; silence where nothing was queued."""
        return self._playout.take_heard(now) if self._playout else b""

    def queued(self, now: float) -> float:
        """Seconds of audio waiting in the play-out buffer."""
        return self._playout.queued(now) if self._playout else 0.0

    @abstractmethod
    def due(self, now: float) -> list[bytes]:
        """Messages the carrier owes the bot by now."""

    def next_due(self) -> float | None:
        """When `due` will next have something, as far as is known now; None: not before the bot sends more."""
        return self._playout.next_mark() if self._playout else None

    # --- for the carriers ---

    def fault(self, kind: str, detail: str, now: float, code: str = "") -> CarrierFault:
        """Note a fault of the bot and give it."""
        found = CarrierFault(kind, detail[:200], code, now)
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(found)
        return found
