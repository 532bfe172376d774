"""The reference's mind: the caller's audio and keys in, orders to the line out, with neither clock nor socket.

Theory of operation
-------------------
All times are seconds on the line's clock, whose 0 is the answer of the call: the 200 of SIP, the start of a stream. A
sample of the caller has the time at which it was on the line, so that the packet it came in left right after its last
one; a sample of ours has the time at which it can first be heard. The owner calls `hear` and `key` with what came,
and `advance(until)` to learn what is to be done up to a moment, each order with its own time, which is exact to the
sample and may lie within the last frame. `next_due` tells when there is something to be done if nothing is heard.

The conversation, with the delays of `Behaviour`:

* It greets 300 ms after the answer.
* It answers every turn of the caller 700 ms after the last voiced sample; a turn has pauses below that. Its answers
  take turns, and mean nothing.
* A sound of the caller while it speaks, of 200 ms at least, cuts its sentence 250 ms after the sound's first voiced
  sample. Shorter ones are ignored, and get no answer. What follows the cut is a turn like any other.
* Keys are complete with `#`, or 1 s after the last. 0 alone transfers the call, 9 alone makes it say good-bye and hang
  up. Any others it repeats in words; those behind a `*` by keys (telephone-events where the line has them), those
  behind `**` by tones in the audio. A key that comes while it speaks interrupts it at once.
* After 5 s in which nobody has spoken it asks whether somebody is there; the third time it says good-bye.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import tones
from offhook.qa.reference.behaviour import Behaviour
from offhook.qa.reference.ear import CLICK_S, GAP_S, RATE, Ear, Samples, Sound
from offhook.qa.reference.lines import ANSWERS, GOODBYE, GREETING, REPROMPT, TRANSFER, Line, Lines, louder_half

MIN_TURN_S: Final = 0.100
"""What is shorter than this is no turn, and gets no answer."""

MAX_KEYS: Final = 32
"""Keys that are repeated; the rest is not."""

REPROMPTS: Final = 2

TONE_S: Final = 0.100
"""Of a key in the audio, and of the silence between two."""

AGAIN_S: Final = 0.400
"""Between an answer and the same answer once more."""

CONNECT_S: Final = 0.200
"""From the end of the announcement to the transfer."""

Kind = Literal["greeting", "answer", "keys", "tones", "reprompt", "goodbye", "transfer"]


@dataclass(frozen=True, slots=True)
class Play:
    """Say this."""

    at: float
    samples: Samples
    lost: tuple[int, int] = (0, 0)
    "From which sample on so many RTP packets are not sent."


@dataclass(frozen=True, slots=True)
class Stop:
    """Not a sample from here on."""

    at: float


@dataclass(frozen=True, slots=True)
class SendKeys:
    """Press keys, by telephone-events."""

    at: float
    keys: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hand the caller over."""

    at: float
    to: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""

    at: float


Order = Play | Stop | SendKeys | Transfer | HangUp

Note = Callable[..., None]
"""Called with what happened, its line second, and details by name."""


@dataclass(slots=True)
class _Speech:
    kind: Kind
    start: float
    end: float
    line: Line
    level: float
    after: float | None
    "Line second of what it answers."


class Brain:
    """One call.

    Args:
        lines: what it can say.
        behaviour: its delays and faults.
        note: gets the truth: what was heard and done, and when.
        events: whether the line has telephone-events.
    """

    def __init__(self, lines: Lines, behaviour: Behaviour, note: Note, *, events: bool = False) -> None:
        self.ear = Ear()
        self._lines, self._behaviour, self._note, self._events = lines, behaviour, note, events
        self._now = 0.0
        self._speech: _Speech | None = None
        self._greeted = behaviour.greeting is None
        self._answers = self._reprompts = 0
        self._turn: float | None = None
        "Onset of the caller's turn."
        self._keys = ""
        self._key_at = 0.0
        self._in_audio = True
        "Whether keys in the audio count: not where the line tells them apart."
        self._cut_at: float | None = None
        "When a key came that interrupts."
        self._quiet_since = 0.0
        self._leaving: Transfer | HangUp | None = None
        self._over = self._held = False

    # --- what comes in -------------------------------------------------------------------

    def hear(self, samples: Samples, at: float) -> None:
        """Take audio of the caller, at most 60 ms of it; `at` is when its first sample was on the line."""
        if self._held or self._over:
            return
        before = self.ear.sound
        keys = self.ear.feed(samples, at)
        sound = self.ear.sound
        if sound is not None and sound is not before and self._begins_turn(sound, before):
            self._turn = sound.onset
        if sound is not None and sound.tone:
            self._turn = None
        if self._in_audio:
            for key in keys:
                self._pressed(key, at + len(samples) / RATE, "inband")

    def _begins_turn(self, sound: Sound, before: Sound | None) -> bool:
        if before is None or self._turn is None or before.seconds < CLICK_S:
            return True
        return sound.onset - before.last > self._behaviour.answer

    def key(self, key: str, at: float, way: str = "rfc4733") -> None:
        """Take a key that the line told."""
        self._in_audio = False
        self._pressed(key, at, way)

    def hold(self, held: bool, at: float) -> list[Order]:
        """The caller has put us on hold, or has come back."""
        orders: list[Order] = []
        if held and not self._held and self._speech is not None:
            orders = [self._cut(self._speech, at, "hold")]
        self._held, self._quiet_since, self._turn = held, at, None
        if self.ear.sound is not None:
            self.ear.sound.done = True
        self._note("held" if held else "resumed", at)
        return orders

    def over(self) -> None:
        """The call has ended; what it was saying ends with it."""
        if self._speech is not None and not self._over:
            self._spoken(self._speech, min(self._speech.end, self._now), "end of the call")
        self._over = True

    def _pressed(self, key: str, at: float, way: str) -> None:
        self._note("key", at, key=key, way=way)
        missed = self._behaviour.drop and key.isdigit() and sum(known.isdigit() for known in self._keys) == 1
        missed = missed and "\0" not in self._keys
        # The place of a missed key is kept, so that just one is missed.
        self._keys = (self._keys + ("\0" if missed else key))[:MAX_KEYS]
        self._key_at = at
        if self._speech is not None and self._cut_at is None:
            self._cut_at = at

    # --- what is to be done ----------------------------------------------------------------

    def advance(self, until: float) -> list[Order]:
        """What is to be done up to this moment."""
        orders: list[Order] = []
        while not (self._over or self._held) and (order := self._step(until)) is not None:
            orders.append(order)
        self._now = max(self._now, until)
        return orders

    def next_due(self) -> float | None:
        """When something is to be done if no more is heard; None: never."""
        if self._over or self._held:
            return None
        if self._speech is not None:
            stop = self._stop_at(self._speech)
            return self._speech.end if stop is None else min(stop, self._speech.end)
        if self._leaving is not None:
            return self._leaving.at
        due = self._due()
        return due[0] if due else None

    def _step(self, until: float) -> Order | None:
        while (speech := self._speech) is not None:
            stop = self._stop_at(speech)
            if stop is not None and stop < speech.end:
                return self._cut(speech, stop, "interrupted") if stop <= until else None
            self._pass_over(until)
            if speech.end > until:
                return None
            self._finish(speech)
        leaving = self._leaving
        if leaving is not None:
            if leaving.at > until:
                return None
            self._over = True
            if isinstance(leaving, Transfer):
                self._note("transfer", leaving.at, to=leaving.to)
            else:
                self._note("hang-up", leaving.at)
            return leaving
        due = self._due()
        return self._begin(*due) if due and due[0] <= until else None

    # --- being interrupted -----------------------------------------------------------------

    def _stop_at(self, speech: _Speech) -> float | None:
        """When the sentence is to be cut, as far as is known."""
        if speech.kind in ("goodbye", "transfer"):
            return None
        if self._cut_at is not None:
            return max(self._cut_at, self._now)
        sound = self.ear.sound
        if self._behaviour.deaf or sound is None or sound.done or sound.tone:
            return None
        onset = max(sound.onset, speech.start)
        if sound.last - onset < self._behaviour.ignore:
            return None
        return max(onset + self._behaviour.stop, self._now)

    def _pass_over(self, until: float) -> None:
        """Forget a sound that ended while we went on."""
        sound = self.ear.sound
        if sound is not None and not sound.done and sound.last + GAP_S < until:
            sound.done, self._turn = True, None
            self._note("ignored", sound.onset, end=sound.last, tone=sound.tone)

    def _cut(self, speech: _Speech, at: float, why: str) -> Stop:
        at = min(max(at, speech.start), speech.end)
        self._spoken(speech, at, why)
        self._speech, self._cut_at, self._quiet_since = None, None, at
        return Stop(at)

    def _finish(self, speech: _Speech) -> None:
        self._spoken(speech, speech.end, "")
        self._speech, self._cut_at, self._quiet_since = None, None, speech.end
        if speech.kind == "transfer":
            self._leaving = Transfer(speech.end + CONNECT_S, self._behaviour.transfer_to)
        elif speech.kind == "goodbye" and self._behaviour.hangs_up:
            self._leaving = HangUp(speech.end + self._behaviour.farewell)
        elif speech.kind == "goodbye":
            self._over = True

    def _spoken(self, speech: _Speech, end: float, cut: str) -> None:
        sound = self.ear.sound
        onset = max(sound.onset, speech.start) if cut == "interrupted" and sound is not None else None
        self._note(
            "spoke",
            speech.start,
            end=end,
            kind=speech.kind,
            text=speech.line.text,
            level=round(speech.level, 2),
            cut=cut,
            after=speech.after,
            interrupted_at=onset,
        )

    # --- speaking ------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Kind, float | None] | None:
        """What is to be said next: when, what, and the moment that it answers."""
        behaviour = self._behaviour
        found: list[tuple[float, Kind, float | None]] = []
        if not self._greeted:
            return behaviour.greeting or 0.0, "greeting", None
        if self._keys:
            wait = behaviour.answer if self._keys.endswith("#") else behaviour.key_pause
            return self._key_at + wait, self._meaning(), self._key_at
        sound = self.ear.sound
        turn = self._turn if sound is not None and not sound.done and not sound.tone else None
        if sound is not None and turn is not None and sound.last - turn >= MIN_TURN_S:
            long = 0 < behaviour.transfer_after < sound.last - turn
            found.append((sound.last + behaviour.answer, "transfer" if long else behaviour.replies, sound.last))
        if not behaviour.silent:
            quiet = max(self._quiet_since, self._key_at, sound.last if sound is not None else 0.0)
            kind: Kind = "reprompt" if self._reprompts < REPROMPTS else "goodbye"
            found.append((quiet + behaviour.reprompt, kind, quiet))
        return min(found, key=lambda due: due[0], default=None)

    def _meaning(self) -> Kind:
        keys = self._keys.rstrip("#")
        if keys in ("0", "9"):
            return "transfer" if keys == "0" else "goodbye"
        return "tones" if len(keys) > 1 and keys.startswith("*") else "keys"

    def _begin(self, at: float, kind: Kind, after: float | None) -> Order | None:
        behaviour, sound = self._behaviour, self.ear.sound
        at = max(at, self._now)
        if kind == "answer" and sound is not None and self._turn is not None:
            self._note("caller-spoke", self._turn, end=sound.last)
        if sound is not None and kind != "greeting":
            sound.done, self._turn = True, None
        keys, self._keys = self._keys.replace("\0", ""), ""
        self._greeted = True
        if kind == "answer" and behaviour.gives_up:
            self._leaving = HangUp(at)
            return self._step(at)
        if behaviour.silent:
            return None
        if kind == "tones" and self._events and not keys.startswith("**"):
            keys = keys.strip("*#")
            self._note("keys-sent", at, keys=keys, way="rfc4733")
            self._quiet_since = at + 2 * TONE_S * len(keys)
            return SendKeys(at, keys)
        return self._say(at, kind, self._line(kind, keys, at), after)

    def _say(self, at: float, kind: Kind, line: Line, after: float | None) -> Play:
        behaviour, samples, lost = self._behaviour, line.samples, (0, 0)
        if kind == "answer":
            middle = len(samples) // 2
            if behaviour.hole:
                samples = samples.copy()
                samples[middle : middle + round(behaviour.hole * RATE)] = 0
                self._note("hole", at + middle / RATE, end=at + middle / RATE + behaviour.hole)
            if behaviour.lose:
                lost = middle, behaviour.lose
            if behaviour.pause:
                silence = np.zeros(round(behaviour.pause * RATE), np.int16)
                samples = np.concatenate([samples[:middle], silence, samples[middle:]])
                self._note("dead-air", at + middle / RATE, end=at + middle / RATE + behaviour.pause)
            if behaviour.times > 1:
                silence = np.zeros(round(AGAIN_S * RATE), np.int16)
                samples = np.concatenate([samples, *[silence, samples] * (behaviour.times - 1)])
        elif kind == "goodbye" and behaviour.cut:
            samples = samples[: len(samples) - round(behaviour.cut * RATE)]
        self._speech = _Speech(kind, at, at + len(samples) / RATE, line, louder_half(line.samples), after)
        self._note("speaks", at, kind=kind, text=line.text)
        return Play(at, samples, lost)

    def _line(self, kind: Kind, keys: str, at: float) -> Line:
        level, gain = self._behaviour.level, self._behaviour.gain
        if kind == "answer":
            self._answers += 1
            return self._lines.line(ANSWERS[(self._answers - 1) % len(ANSWERS)], level, gain)
        if kind == "keys":
            return self._lines.keys(keys.rstrip("#") or keys, level, gain)
        if kind == "tones":
            keys = keys.strip("*#")
            self._note("keys-sent", at, keys=keys, way="inband")
            silence = bytes(2 * round(TONE_S * RATE))
            sound = silence.join(tones(key, TONE_S, L16_8K) for key in keys)
            return Line(keys, np.frombuffer(sound, "<i2").astype(np.int16))
        self._reprompts += kind == "reprompt"
        text = {"greeting": GREETING, "reprompt": REPROMPT, "goodbye": GOODBYE, "transfer": TRANSFER}[kind]
        return self._lines.line(text, level, gain)
