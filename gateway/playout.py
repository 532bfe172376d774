"""Playout: agent audio to the carrier at the pace of speech, and what of it the caller has heard.

Theory of operation
-------------------
Agents speak faster than real time; carriers take everything and play it later. Between the two stands one
`Playout` a call. It lets at most `MAX_AHEAD` of audio out ahead of real time, so that an interruption has
little to take back, and it models the carrier's buffer: `play_end` is the moment when all that was sent will
have been played, by our clock. Audio that finds the buffer nearly empty leaves at once; the rest waits for
the shared tick, one timer for all calls, which moves those that have something waiting.

What was heard is known from marks. One follows the last audio of every utterance, one every `MARK_EVERY`
inside it. A mark that comes back says that everything before it was played, and how far the carrier lags
behind our model; between marks, heard is the model less that lag. A carrier without marks is believed to
play by the clock.

Each utterance ends exactly once: `played` when its final mark is back, `cut` or `dropped` on a clear or when
the call ends. Audio outside utterances (`live`) is passed on in order and never marked; when it cannot leave
in time the oldest is dropped, for a caller wants what is said now.

Where we pace the audio ourselves (RTP, AudioSocket), the stream's `backlog` is the truth and the model follows it. Live
audio comes at the pace at which it is played, so what waits now would wait for ever: of what waited at all of
`LOOK_BACK` arrivals, there or by the model at the carrier, frames are left out.

A bed (`gateway.bed`) is mixed under all that goes out, and goes out alone, `BED_AHEAD` ahead of real time, while
there is nothing else. It is no speech: `play_end` is the end of what the agent said, `sent_end` that of
everything, and only the next audio's place in the carrier's buffer goes by the latter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Final, Literal, Protocol

from offhook.agents.link import UtteranceEnded
from offhook.codecs.audio import FRAME_MS, AudioFormat
from offhook.gateway.bed import Bed
from offhook.gateway.latency import voice_onset
from offhook.providers.base import MediaStream

TICK: Final = FRAME_MS / 1000
"""Seconds between two looks at the calls that have audio waiting."""

MAX_AHEAD: Final = 0.200
"""Seconds of audio the carrier may hold: what an interruption must take back, and what a stall of ours may last."""

BED_AHEAD: Final = 0.045
"""Seconds of a bed alone that the carrier may hold: a word that is said now waits behind it. Two ticks, and what a
tick may be late."""

MARK_EVERY: Final = 0.5
"""Seconds of audio between two marks inside an utterance."""

MAX_LIVE: Final = 0.200
"""Seconds of live audio that may wait here; older audio is dropped."""

LOOK_BACK: Final = 25
"""Frames of live audio over which the least backlog is one that nothing will need: jitter of half a second is not."""

MAX_QUEUED: Final = 120.0
"""Seconds of utterance audio that may wait here. An agent with more to say streams it; the surplus is dropped."""

MARK_GRACE: Final = 5.0
"""Seconds after which a mark that does not come back is given up, and the clock believed."""

MAX_LAG: Final = 2.0
"""Seconds the carrier's play-out may be believed to lag behind our model."""


class PlayoutListener(Protocol):
    """Who learns what became of the audio."""

    def utterance_started(self, utterance: int, at: float) -> None:
        """Its first audio went to the carrier."""

    def utterance_voiced(self, utterance: int, at: float) -> None:
        """Its first voiced frame went to the carrier."""

    def utterance_heard(self, utterance: int, at: float) -> None:
        """That frame was heard at `at`, as marks or the model tell; said afterwards, before it is over."""

    def utterance_ended(self, ended: UtteranceEnded, text: str) -> None:
        """It is over."""

    def audio_sent(self, payload: bytes, play_at: float) -> None:
        """Audio went out; by the model the caller hears its first sample at `play_at`."""

    def audio_cut(self, at: float) -> None:
        """Whatever would have been heard from `at` on was taken back."""

    def playout_idle(self) -> None:
        """Everything said so far has been heard or cut."""


EARLY: Final = 0.001
"""Seconds a timer may be early."""


class Utterance:
    """One utterance on its way to the caller. Sizes in bytes of the stream's format."""

    __slots__ = (
        "closed",
        "confirmed",
        "id",
        "marked",
        "over_at",
        "received",
        "sent",
        "spans",
        "text",
        "unmarked",
        "voice",
        "voice_due",
    )

    def __init__(self, id: int, text: str) -> None:
        self.id, self.text = id, text
        self.received = 0
        self.sent = 0
        self.unmarked = 0
        "Sent since the last mark."
        self.marked = False
        "The final mark was sent."
        self.over_at = 0.0
        "When it counts as heard though no mark says so; known once it is marked."
        self.confirmed = 0
        "Played, as a mark has said."
        self.closed = False
        "The agent gives no more audio."
        self.spans: deque[tuple[float, int, int]] = deque()
        "(model time of its first sample, `sent` before, `sent` after) of each piece that may not have been heard yet."
        self.voice: int | None = None
        "Where its voice begins, behind the silence that synthesisers begin with."
        self.voice_due: float | None = None
        "Model time of that place, from when it is known until it was heard."


class PlayoutClock:
    """The shared tick. Calls with audio waiting are on it; nothing runs while there are none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: set[Playout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.ticks = 0
        self.late_ticks = 0
        "Ticks that came more than one TICK late."

    def add(self, playout: Playout) -> None:
        """Look at this call on every tick until it has nothing waiting."""
        self._waiting.add(playout)
        if self._timer is None:
            self._due = self._loop.time() + TICK
            self._timer = self._loop.call_at(self._due, self._tick)

    def discard(self, playout: Playout) -> None:
        """Forget this call."""
        self._waiting.discard(playout)

    def _tick(self) -> None:
        now = self._loop.time()
        self.ticks += 1
        late = now - self._due
        if late > TICK:
            self.late_ticks += 1
        for playout in tuple(self._waiting):
            if not playout.pump(now):
                self._waiting.discard(playout)
        if self._waiting:
            # On the grid, past the ticks that were missed: pump sends what they owed.
            self._due += TICK * (1 + max(0, int(late / TICK)))
            self._timer = self._loop.call_at(self._due, self._tick)
        else:
            self._timer = None


class MessageSink(Protocol):
    """The carrier's socket, as far as playout needs it."""

    @property
    def writable(self) -> bool:
        """False while the carrier does not take what was sent already."""

    def send(self, message: bytes) -> None:
        """Send one text message. Never blocks; goes nowhere once the socket has closed."""


class Playout:
    """One call's way out."""

    def __init__(
        self, clock: PlayoutClock, stream: MediaStream, socket: MessageSink, listener: PlayoutListener
    ) -> None:
        self._clock, self._stream, self._socket, self._listener = clock, stream, socket, listener
        self._loop = asyncio.get_running_loop()
        self._format: AudioFormat = stream.format
        self._frame = self._format.frame_bytes
        self._rate = self._format.rate * self._format.sample_bytes
        self._mark_every = self._format.size(MARK_EVERY)
        self._queue: deque[tuple[Utterance | None, bytes]] = deque()
        self._queued = 0
        self._queued_live = 0
        self._utterances: dict[int, Utterance] = {}
        self._open: Utterance | None = None
        self._marks: deque[tuple[str, Utterance, int, float]] = deque()
        self._mark_number = 0
        self._lag = 0.0
        self._least = inf
        "Smallest backlog that live audio met of late."
        self._looked = 0
        self._surplus = 0
        "Live frames to leave out."
        self._timer: asyncio.TimerHandle | None = None
        self._bed: Bed | None = None
        self.play_end = 0.0
        "When, by the model, the carrier has played all that the agent said."
        self.sent_end = 0.0
        "When it runs out of audio; later than `play_end` when a bed goes on."
        self.frames_sent = 0
        self.dropped_ms = 0
        "Agent audio dropped because nobody could have heard it in time, or because there was too much of it."
        self.closed = False

    @property
    def idle(self) -> bool:
        """True when nothing waits here and nothing that was sent is still to be heard."""
        if self._queue or self._utterances or self._stream.backlog():
            return False
        return self.play_end + self._lag <= self._loop.time()

    @property
    def speaking(self) -> bool:
        """True while the caller hears the agent, or is about to."""
        return bool(self._queue) or self.play_end > self._loop.time()

    @property
    def held(self) -> bool:
        """True while the caller has us on hold: nothing would be heard before he is back."""
        return self._stream.on_hold

    def tell_when_idle(self) -> None:
        """Have `playout_idle` called, even where nothing but live audio is on its way."""
        if not self._utterances:
            self._watch(max(self._loop.time(), self.play_end + self._lag) + (MAX_LIVE if self._queue else 0.0))

    # --- the agent's side

    def speak(self, id: int, text: str) -> None:
        """Open an utterance; a second one with the same id is ignored."""
        if self._open is not None:
            self.spoken(self._open.id)
        if id in self._utterances or self.closed:
            return
        self._open = self._utterances[id] = Utterance(id, text)

    def audio(self, data: bytes) -> None:
        """Take audio for the open utterance, or live audio when there is none."""
        if self.closed or not data:
            return
        utterance = self._open
        if utterance is None:
            self._live(data)
            return
        room = int(MAX_QUEUED * self._rate) - self._queued
        if len(data) > room:
            self.dropped_ms += (len(data) - max(0, room)) * 1000 // self._rate
            data = data[: max(0, room)]
            if not data:
                return
        utterance.received += len(data)
        self._queue.append((utterance, data))
        self._queued += len(data)
        if self.pump(self._loop.time()):
            self._clock.add(self)

    def _live(self, data: bytes) -> None:
        now = self._loop.time()
        backlog = self._stream.backlog()
        waiting = (backlog if self._stream.paced else self.sent_end - now) + self._queued_live / self._rate
        if waiting < self._least:
            self._least = waiting
        self._looked += 1
        if self._looked >= LOOK_BACK:
            unneeded = self._least - (BED_AHEAD if self._bed is not None else 0.0)
            self._surplus, self._least, self._looked = max(0, int(unneeded / TICK + 1e-6)), inf, 0
        if self._surplus:
            self._surplus -= 1
            self._least, self._looked = inf, 0
            self.sent_end = max(now, self.sent_end - len(data) / self._rate)
            self.dropped_ms += len(data) * 1000 // self._rate
            return
        if not self._queue and self.sent_end - now < MAX_AHEAD and self._socket.writable:
            self._wire(data if self._bed is None else self._bed.under(data), now, backlog)
            self.play_end = self.sent_end
            return
        self._queue.append((None, data))
        self._queued_live += len(data)
        while self._queued_live > MAX_LIVE * self._rate:
            for i, (utterance, old) in enumerate(self._queue):
                if utterance is None:
                    del self._queue[i]
                    self._queued_live -= len(old)
                    self.dropped_ms += len(old) * 1000 // self._rate
                    break
        self._clock.add(self)

    def spoken(self, id: int) -> None:
        """The utterance has all its audio."""
        utterance = self._utterances.get(id)
        if utterance is None or utterance.closed:
            return
        utterance.closed = True
        if self._open is utterance:
            self._open = None
        if utterance.sent == utterance.received:
            self._last_mark(utterance)
        elif self.pump(self._loop.time()):
            self._clock.add(self)

    def say(self, id: int, text: str, audio: bytes) -> None:
        """A whole utterance."""
        self.speak(id, text)
        self.audio(audio)
        self.spoken(id)

    def clear(self) -> list[UtteranceEnded]:
        """Take back everything that was not heard; gives how each utterance ended, the interrupted one first."""
        now = self._loop.time()
        left = self._left(now)
        sounding = self.play_end + self._lag > now or left < now
        heard_until = left - self._lag
        self._queue.clear()
        self._queued = self._queued_live = 0
        self._open = None
        if (sounding or self._marks) and not self.closed:
            for message in self._stream.clear(now):
                self._socket.send(message)
        if sounding or (self._bed is not None and self._marks):
            if self._bed is not None:
                self._bed.back(self._format.size(max(0.0, self.sent_end - now)))
            self.sent_end = now
            self._listener.audio_cut(left)
        if sounding:
            self.play_end = now
        utterances = list(self._utterances.values())
        self._utterances.clear()
        self._marks.clear()
        ends = []
        for utterance in utterances:
            heard = self._heard_bytes(utterance, heard_until)
            self._voice_heard(utterance, heard)
            ended = UtteranceEnded(
                utterance.id, "cut" if heard else "dropped", self._ms(heard), self._ms(utterance.received)
            )
            ends.append(ended)
            self._listener.utterance_ended(ended, utterance.text)
        if self._bed is not None and not self.closed:
            self.pump(now)
        self._settle()
        return ends

    def lay(self, bed: Bed | None) -> None:
        """Put a bed under everything from now on; None: silence again."""
        if self.closed:
            return
        self._bed = bed
        if bed is not None:
            self.pump(self._loop.time())
            self._clock.add(self)

    def close(self) -> None:
        """The call is over: nothing goes out any more, every open utterance ends."""
        if not self.closed:
            self.closed = True
            self._clock.discard(self)
            self.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    # --- the carrier's side

    def mark_reached(self, name: str, cleared: bool) -> None:
        """A mark came back. One that a clear brought back says nothing about hearing."""
        now = self._loop.time()
        while self._marks:
            known, utterance, position, due = self._marks[0]
            if known != name and not any(mark[0] == name for mark in self._marks):
                return  # not ours, or of before a clear
            self._marks.popleft()
            if not cleared:
                utterance.confirmed = max(utterance.confirmed, position)
                self._lag = min(MAX_LAG, max(0.0, now - due))
                self._voice_heard(utterance, position)
            if utterance.marked and position == utterance.sent and not self._pending(utterance):
                self._finish(utterance, cleared, now)
            if known == name:
                break
        self._settle()

    def _pending(self, utterance: Utterance) -> bool:
        return any(mark[1] is utterance for mark in self._marks)

    def _finish(self, utterance: Utterance, cleared: bool, now: float) -> None:
        if self._utterances.pop(utterance.id, None) is None:
            return
        heard = utterance.sent if not cleared else self._heard_bytes(utterance, now - self._lag)
        self._voice_heard(utterance, heard)
        outcome: Literal["played", "cut", "dropped"] = "played" if not cleared else "cut" if heard else "dropped"
        ended = UtteranceEnded(utterance.id, outcome, self._ms(heard), self._ms(utterance.received))
        self._listener.utterance_ended(ended, utterance.text)

    def _heard_bytes(self, utterance: Utterance, until: float) -> int:
        """Bytes of it that were heard before the model time `until`, and never less than marks have confirmed."""
        heard = utterance.confirmed
        for play_at, before, after in utterance.spans:
            if play_at >= until:
                break
            heard = max(heard, min(after, before + self._format.size(until - play_at)))
        return heard

    def _voice_heard(self, utterance: Utterance, heard: int) -> None:
        """Tell when its voice was heard, now that `heard` bytes of it were."""
        if utterance.voice_due is not None and utterance.voice is not None and heard > utterance.voice:
            at, utterance.voice_due = utterance.voice_due + self._lag, None
            self._listener.utterance_heard(utterance.id, at)

    def _ms(self, size: int) -> int:
        return round(size * 1000 / self._rate)

    # --- sending

    def pump(self, now: float) -> bool:
        """Send what may leave now; True while something waits that time alone will let go, as a bed always does."""
        queue = self._queue
        limit = now + MAX_AHEAD - TICK
        while queue and self.sent_end <= limit and self._socket.writable:
            utterance, data = queue[0]
            if utterance is None:
                queue.popleft()
                self._queued_live -= len(data)
                self._out(data, now)
            else:
                if not self._pump_utterance(utterance, now):
                    break
        if self._bed is None:
            return bool(queue)
        while self.sent_end <= now + BED_AHEAD - TICK and self._socket.writable:
            self._wire(self._bed.alone(self._frame), now, self._stream.backlog())
        return True

    def _pump_utterance(self, utterance: Utterance, now: float) -> bool:
        """Send one frame of the utterance at the head; False when it waits for more of itself."""
        queue, frame = self._queue, self._frame
        _, data = queue.popleft()
        while len(data) < frame and queue and queue[0][0] is utterance:
            data += queue.popleft()[1]
        if len(data) > frame:
            queue.appendleft((utterance, data[frame:]))
            data = data[:frame]
        elif len(data) < frame and not utterance.closed and self.sent_end - now > TICK:
            queue.appendleft((utterance, data))  # a part of a frame, and time to wait for the rest
            return False
        self._queued -= len(data)
        if utterance.sent == 0:
            self._listener.utterance_started(utterance.id, now)
        play_at = self._out(data, now)
        before = utterance.sent
        if utterance.voice is None and (onset := voice_onset(data, self._format)) is not None:
            utterance.voice = before + self._format.size(onset)
            utterance.voice_due = play_at + onset
            self._listener.utterance_voiced(utterance.id, now)
        utterance.sent += len(data)
        utterance.unmarked += len(data)
        spans = utterance.spans
        spans.append((play_at, before, utterance.sent))
        while spans[0][0] < now - MAX_LAG - MAX_AHEAD:
            spans.popleft()
        if utterance.closed and utterance.sent == utterance.received:
            self._last_mark(utterance)
        elif utterance.unmarked >= self._mark_every:
            self._mark(utterance)
        return True

    def _out(self, payload: bytes, now: float) -> float:
        if self._bed is not None:
            payload = self._bed.under(payload)
        play_at = self._wire(payload, now, self._stream.backlog())
        self.play_end = self.sent_end
        return play_at

    def _wire(self, payload: bytes, now: float, backlog: float) -> float:
        play_at = now + backlog
        if self.sent_end > play_at:
            play_at = self.sent_end
        self.sent_end = play_at + len(payload) / self._rate
        self.frames_sent += 1
        self._socket.send(self._stream.media(payload))
        self._listener.audio_sent(payload, play_at)
        return play_at

    def _mark(self, utterance: Utterance) -> bool:
        self._mark_number += 1
        name = f"u{utterance.id}-{self._mark_number}"
        message = self._stream.mark(name)
        if message is None:
            return False
        utterance.unmarked = 0
        self._marks.append((name, utterance, utterance.sent, self.sent_end))
        self._socket.send(message)
        return True

    def _last_mark(self, utterance: Utterance) -> None:
        utterance.marked = True
        if not utterance.received:
            self._finish(utterance, False, self._loop.time())
            self._settle()
            return
        utterance.over_at = self.sent_end + MARK_GRACE if self._mark(utterance) else self.sent_end
        self._watch(min(other.over_at for other in self._utterances.values() if other.marked))

    # --- ends that no mark tells

    def _left(self, now: float) -> float:
        """The model time up to which audio has left our own side: now, unless the line holds back what it was given."""
        backlog = self._stream.backlog()
        return min(now, self.sent_end - backlog) if backlog else now

    def _watch(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        now = self._loop.time()
        left = self._left(now)
        for utterance in list(self._utterances.values()):
            if utterance.marked and utterance.over_at <= left:
                self._marks = deque(mark for mark in self._marks if mark[1] is not utterance)
                self._finish(utterance, False, now)
        due = [utterance.over_at for utterance in self._utterances.values() if utterance.marked]
        if due:
            # The timer was early, for uvloop's clock knows only whole milliseconds; or the line holds audio back.
            self._watch(max(min(due), now + max(EARLY, self._stream.backlog())))
        self._settle()

    def _settle(self) -> None:
        if self.closed or self._queue or self._utterances:
            return
        left = max(self.play_end + self._lag - self._loop.time(), self._stream.backlog())
        if left > 0:
            self._watch(self._loop.time() + left)
        else:
            self._listener.playout_idle()
