"""The caller of a scenario: a machine that is advanced once a frame and does one step after the other.

Theory of operation
-------------------
The machine has no clock, no task and no chance of its own: it looks at the line after each frame, and what it does
depends on nothing but its steps, its sounds, its seed and what it heard. Each step is a generator that yields until the
next frame. Steps that are over at once cost no frame.

It does not judge. It notes when a step began and ended and what was said in it; whether what was expected came true is
found on the wire afterwards. `expect` makes it wait until that is decided, and beyond the limit, so that a late answer
is measured as late instead of being talked over.

The agent is heard through an energy detector. A stretch of its speech ends after 0.2 s of silence, its turn after the
caller's `end_silence`. The agent has answered when a stretch that began after the caller did reaches beyond the
caller's end. A turn that was under way when the caller began to speak is no answer to it, unless nothing else comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.mouth import FRAME, ScriptMouth
from offhook.qa.caller.record import CallerRecord, Lacking, StepRecord
from offhook.qa.caller.script import Script, bed_key, sound_key
from offhook.qa.phones.base import Ability, CallerLine, LineEvent, PhoneError
from offhook.qa.scenario.model import Expect, Scenario, Speech, Step

FRAMES_A_SECOND: Final = 50

LATER_S: Final = 3.0
"""An expectation is waited for this much longer than its limit at least, or twice as long."""

AFTERTHOUGHT_S: Final = 3.0
"""Silence, beyond a turn's end, after which a turn that was under way when the caller began was all there is."""

VOICED_S: Final = 0.035
"""The agent is in the midst of speech when its last voiced window is not older; consonants leave gaps of 30 ms."""

Failure = tuple[str, Lacking]
"""Why a step could not be done, for people, and what it waited for in vain."""

DONE: Final[Failure] = ("", "")

Doing = Generator[None, None, Failure]
"""A step under way: yields until the next frame, and returns why it could not be done."""


class PersonaTurns(Protocol):
    """Who speaks in a `converse` step instead of the scenario. Thinks elsewhere, and is asked once a frame."""

    content: bool
    "It has got what it wanted, or gives up: the step is over."

    def begin(self, line: CallerLine) -> None:
        """The step begins. `line.activity.kept` may be set, to listen."""

    def frame(self, line: CallerLine) -> tuple[str, Samples] | None:
        """Look at the line; give a sentence to be said now, and its sound at 8 kHz. Must neither block nor raise."""

    def end(self) -> None:
        """The step, or the call, is over."""


@dataclass(slots=True, eq=False)
class Added:
    """A step that was added while the call runs."""

    step: Step
    record: StepRecord
    done: bool = False
    "It is over, and `record` is filled in."
    on_done: Callable[[], None] | None = None
    "Called once, from the line's frame: must neither block nor raise."


@dataclass(slots=True)
class _Mark:
    """What the agent is to answer to."""

    since: float = 0.0
    "Track second from which an answer is late."
    after: float = -1.0
    "Stretches of speech that began before this one are no answer."


@dataclass(slots=True)
class _Open:
    """An expectation that is not decided yet."""

    expect: Expect
    mark: _Mark
    spoken: Span | None
    within: float
    until: dict[str, float] = field(default_factory=dict)
    "Field → track second after which it is not waited for any more."


def needs(scenario: Scenario) -> frozenset[Ability]:
    """What a line must be able to do for a scenario. Tones in the audio need nothing of it."""
    found: set[Ability] = set()
    for step in scenario.steps:
        if step.hold is not None:
            found.add("hold")
        if step.codec is not None:
            found.add("codec")
        if step.dtmf is not None:
            found.add(step.dtmf.by or scenario.media.dtmf)
        if step.expect is not None and step.expect.transfer is not None:
            found.add("transfer")
    return frozenset(found - {"inband"})


class Caller:
    """An operator that goes through the steps of a scenario, and hangs up.

    Args:
        scenario: what to do.
        script: its sounds, as `prepare` made them.
        seed: where in its background noise the call begins.
        persona: who speaks in `converse`; None: such a step fails.
        keep_open: after the last step, wait for more instead of hanging up; and go on when a step fails.
    """

    def __init__(
        self,
        scenario: Scenario,
        script: Script,
        seed: int = 1,
        *,
        persona: PersonaTurns | None = None,
        keep_open: bool = False,
    ) -> None:
        self.record = CallerRecord()
        self.over = False
        "The call has ended, or never came about."
        self.keep_open = keep_open
        self.mouth = ScriptMouth()
        self.keys: list[tuple[float, str]] = []
        "Keys that the agent pressed, with their track second."
        self.transfers: list[LineEvent] = []
        "That the agent asked for."
        self._caller = scenario.caller
        self._media = scenario.media
        self._script = script
        self._random = np.random.default_rng(seed)
        self._persona = persona
        self._line: CallerLine | None = None
        self._now = 0.0
        self._onset: float | None = None
        "Where the agent's latest stretch of speech began."
        self._voiced = 0.0
        "And how far it goes."
        self._heard: list[Span] = []
        self._turn_began: float | None = None
        "Where its turn began, while there is one."
        self.keys_met = 0
        "How many keys an expectation has waited for already."
        self._mark = _Mark()
        self._due = _Mark()
        "What the agent owes an answer to: the last thing said or pressed, or the opening of the line."
        self.last_spoken: Span | None = None
        "What the caller said last."
        self._steps: deque[Added] = deque()
        for step in scenario.steps:
            self.add(step)
        self._play = self._doing()

    def add(self, step: Step) -> Added:
        """Do something more, after what is still to be done. Its sounds must be in the script by then.

        Called from where the line's frames come from, as everything here.
        """
        name = step.as_ or (step.expect.as_ if step.expect is not None else "")
        added = Added(step, StepRecord(len(self.record.steps), step.verb, name))
        self.record.steps.append(added.record)
        if self.over:
            added.done = added.record.skipped = True
        else:
            self._steps.append(added)
        return added

    @property
    def heard(self) -> list[Span]:
        """Stretches of the agent's speech so far, to 10 ms; the last may be under way."""
        return self._heard + ([] if self._onset is None else [Span(self._onset, self._voiced)])

    def listen(self) -> tuple[bytearray, float]:
        """Keep what the agent says from now on; gives where it is kept, and from which track second on.

        Raises:
            PhoneError: the call was not answered.
        """
        activity = self._up().activity
        if activity.kept is None:
            activity.kept = bytearray()
        return activity.kept, self._now - len(activity.kept) / 2 / RATE

    # --- the operator ---

    def frame(self, line: CallerLine) -> None:
        """Look at the line and go on."""
        self._now = line.seconds
        if self._line is None:
            self._line = line
            line.mouth = self.mouth
            if self._caller.noise is not None:
                self._noise(bed_key(self._caller.noise))
        self.mouth.at = round(line.seconds * FRAMES_A_SECOND) * FRAME
        if line.events:
            self._look(line.events)
        activity = line.activity
        if activity.speaking_since is not None:
            if self._onset != activity.speaking_since:
                self._stretch_over()
                self._onset = activity.speaking_since
            self._voiced = activity.last_voiced or 0.0
            if self._turn_began is None:
                self._turn_began = self._onset
        elif self._turn_began is not None and activity.silent_for() >= self._caller.end_silence:
            self._turn_began = None
        next(self._play, None)

    def ended(self) -> None:
        """The call is over: what is under way ends, and what is left is skipped."""
        self.over = True
        if self._line is not None and self._line.events:
            self._look(self._line.events)
        for _ in self._play:  # nothing waits any more
            pass

    def _stretch_over(self) -> None:
        if self._onset is not None:
            self._heard.append(Span(self._onset, self._voiced))

    def _look(self, events: deque[LineEvent]) -> None:
        while events:
            event = events.popleft()
            if event.kind == "dtmf":
                self.keys += [(event.at, key) for key in event.detail]
            elif event.kind == "transfer":
                self.transfers.append(event)

    # --- step after step ---

    def _doing(self) -> Generator[None, None, None]:
        while True:
            while self._steps:
                added = self._steps.popleft()
                yield from self._one(added.step, added.record)
                added.done = True
                if added.on_done is not None:
                    added.on_done()
            if self.over or not self.keep_open:
                break
            yield
        if not self.over and not self.record.hung_up:
            self._hang_up()

    def _one(self, step: Step, record: StepRecord) -> Generator[None, None, None]:
        record.began = record.ended = record.since = self._now
        listens = step.verb == "expect" or (step.wait is not None and step.wait.for_ in ("answer", "hangup"))
        if self.record.gave_up or ((self.over or self.record.hung_up) and not listens):
            record.skipped = True
            return
        before = self._mark
        try:
            record.failed, record.lacking = yield from self._verb(step, record)
        except PhoneError as error:
            record.failed, record.lacking = str(error), "" if self._line is not None else "answer"
        mark = self._mark
        record.since = mark.since
        if step.expect is not None and not record.failed:
            record.within = (
                step.expect.within if step.expect.within is not None else step.silence or self._caller.patience
            )
            yield from self._settled(_Open(step.expect, mark, record.spoken or self.last_spoken, record.within))
        record.ended = self._now
        if step.expect is not None or step.verb not in ("say", "barge_in", "backchannel", "dtmf"):
            # What took no time, such as a look at whether the call was answered, leaves counting to the step before.
            self._mark = _Mark(self._now) if self._now > record.began else before
        if record.failed and not self.keep_open:
            self.record.gave_up = record.failed
            if not self.over and not self.record.hung_up:
                self._hang_up()

    def _verb(self, step: Step, record: StepRecord) -> Doing:
        """Do what the step says. Leaves in `_mark` what its expectation counts from."""
        begun, failed = self._now, DONE
        if step.verb != "expect":
            self._mark = _Mark(begun)
        if step.say is not None:
            failed = yield from self._say(step.say, record)
        elif step.barge_in is not None:
            failed = yield from self._say_into(step.barge_in, record, owes=True)
        elif step.backchannel is not None:
            failed = yield from self._say_into(step.backchannel, record, owes=False)
        elif step.wait is not None:
            failed = yield from self._wait(step)
            self._mark = _Mark(self._now)
        elif step.silence is not None:
            yield from self._silence(step)
        elif step.dtmf is not None:
            failed = yield from self._press(step, record)
        elif step.noise is not None:
            self._noise("" if step.noise == "off" else bed_key(step.noise))
        elif step.hold is not None:
            failed = yield from self._hold(step.hold)
            self._mark = _Mark(self._now)
        elif step.codec is not None:
            self._up().change_codec(step.codec)
        elif step.converse is not None:
            failed = yield from self._converse(step.converse)
            self._mark = self._due = _Mark(self._now)
        elif step.hang_up:
            self._hang_up()
        return failed

    # --- the verbs ---

    def _say(self, speech: Speech, record: StepRecord, *, owes: bool = True) -> Doing:
        record.source = sound_key(speech, self._caller)
        sound = self._script.sounds[record.source]
        span = record.spoken = self.last_spoken = self.mouth.say(sound)
        self._mark = _Mark(span.end, span.start)
        if owes and not speech.sound:
            self._due = self._mark
        if (yield from self._until(lambda: self._now >= span.end - 1e-9)):
            return DONE
        record.spoken = self.last_spoken = Span(span.start, max(span.start, min(span.end, self._now)))
        return "the call ended before this was said to its end", ""

    def _say_into(self, speech: Speech, record: StepRecord, *, owes: bool) -> Doing:
        failed = yield from self._spoken_for(speech.after, self._caller.patience)
        if failed != DONE:
            return failed
        return (yield from self._say(speech, record, owes=owes))

    def _wait(self, step: Step) -> Doing:
        wait = step.wait
        assert wait is not None
        timeout = wait.timeout if wait.timeout is not None else self._caller.patience
        if wait.time is not None:
            until = self._now + wait.time
            came = yield from self._until(lambda: self._now >= until - 1e-9)
            return DONE if came else ("the call ended first", "")
        if wait.agent_speaking_for is not None:
            return (yield from self._spoken_for(wait.agent_speaking_for, timeout))
        match wait.for_:
            case "answer":
                return DONE if self._line is not None else ("the call was not answered", "answer")
            case "agent_speaks":
                return (yield from self._spoken_for(0.0, timeout))
            case "agent_done":
                quiet = self._caller.end_silence if wait.silence is None else wait.silence
                return (yield from self._done_within(quiet, timeout))
            case _:
                yield from self._until(lambda: False, timeout)
                return DONE if self.over else (f"the call was not over within {timeout:g} s", "hangup")

    def _silence(self, step: Step) -> Generator[None, None, None]:
        assert step.silence is not None
        until = self._now + step.silence
        opened = None
        if step.expect is not None:
            within = step.expect.within if step.expect.within is not None else step.silence
            opened = _Open(step.expect, self._mark, self.last_spoken, within)

        def over() -> bool:
            return self._now >= until - 1e-9 or (opened is not None and self._all_decided(opened))

        yield from self._until(over)

    def _press(self, step: Step, record: StepRecord) -> Doing:
        dtmf = step.dtmf
        assert dtmf is not None
        way = dtmf.by or self._media.dtmf
        begun, record.keys = self._now, dtmf.digits.upper()
        if way == "inband":
            end = self.mouth.press(record.keys, dtmf.tone, dtmf.gap).end
        else:
            self._up().press(record.keys, way, dtmf.tone, dtmf.gap)
            end = begun + len(record.keys) * (dtmf.tone + dtmf.gap) - dtmf.gap
        self._mark = self._due = _Mark(end, begun)
        if (yield from self._until(lambda: self._now >= end - 1e-9)):
            return DONE
        return "the call ended before all keys were pressed", ""

    def _hold(self, seconds: float) -> Doing:
        line = self._up()
        line.hold()
        until = self._now + seconds
        if not (yield from self._until(lambda: self._now >= until - 1e-9)):
            return "the call ended on hold", ""
        line.resume()
        return DONE

    def _converse(self, seconds: float) -> Doing:
        persona, line = self._persona, self._up()
        if persona is None:
            return "there is no persona: `caller.persona` describes one", ""
        until = self._now + seconds
        persona.begin(line)
        try:
            while not self.over and self._now < until and not (persona.content and not self.mouth.saying):
                said = persona.frame(line)
                if said is not None:
                    text, sound = said
                    span = self.mouth.say(sound)
                    self.record.persona_said.append((span.start, text))
                    self.last_spoken = span
                yield
        finally:
            persona.end()
        return DONE

    def _noise(self, key: str) -> None:
        bed = self._script.beds[key] if key else None
        self.mouth.background(bed, int(self._random.integers(1 << 20)))

    def _hang_up(self) -> None:
        self.record.hung_up = True
        self._up().hang_up()

    def _up(self) -> CallerLine:
        if self._line is None:
            raise PhoneError("the call was not answered")
        return self._line

    # --- waiting ---

    def _until(self, true: Callable[[], bool], timeout: float | None = None) -> Generator[None, None, bool]:
        """Wait until it is true; gives whether it is, or the time or the call was over before."""
        deadline = None if timeout is None else self._now + timeout - 1e-9
        while not true():
            if self.over or (deadline is not None and self._now >= deadline):
                return False
            yield
        return True

    def _spoken_for(self, seconds: float, timeout: float) -> Doing:
        """Wait until the agent speaks, and has for so long, pauses shorter than a turn's end included."""
        deadline = self._now + timeout + seconds - 1e-9
        long = f" for {seconds:g} s" if seconds else ""
        while not self.over:
            began = self._turn_began
            # In the first moments of a pause it counts as speaking still; who would interrupt it then meets silence.
            if began is not None and self._now - began >= seconds - 1e-9 and self._voiced_now():
                return DONE
            if self._now >= deadline:
                return f"the agent did not speak{long} within {timeout:g} s", "no-answer"
            yield
        return f"the call ended before the agent spoke{long}", "no-answer"

    def _done_within(self, quiet: float, timeout: float) -> Doing:
        due = self._due
        if (yield from self._until(lambda: self._turn_done(due, quiet), timeout)):
            return DONE
        if self.over:
            return "the call ended before the agent had finished", ""
        if not self._answered(due):
            return f"the agent did not speak within {timeout:g} s", "no-answer"
        return f"the agent was not silent for {quiet:g} s within {timeout:g} s", ""

    # --- what the agent did ---

    def _voiced_until(self) -> float:
        return (self._line.activity.last_voiced or -1.0) if self._line is not None else -1.0

    def _voiced_now(self) -> bool:
        activity = self._up().activity
        return activity.speaking_since is not None and activity.silent_for() <= VOICED_S

    def _answered(self, mark: _Mark) -> bool:
        """The agent has spoken since, in a stretch that is an answer."""
        return self._onset is not None and self._onset >= mark.after and self._voiced_until() > mark.since

    def _turn_done(self, mark: _Mark, quiet: float) -> bool:
        """The agent has answered and is silent."""
        if self._line is None or self._voiced_until() <= mark.since:
            return False
        answered = self._onset is not None and self._onset >= mark.after
        return self._line.activity.silent_for() >= (quiet if answered else quiet + AFTERTHOUGHT_S) - 1e-9

    # --- expectations ---

    def _settled(self, opened: _Open) -> Generator[None, None, None]:
        yield from self._until(lambda: self._all_decided(opened))
        if opened.expect.dtmf is not None:
            self.keys_met = len(self.keys)

    def _all_decided(self, opened: _Open) -> bool:
        if not opened.until:
            opened.until = dict(self._horizons(opened))
        for name, until in list(opened.until.items()):
            if self._now < until - 1e-9 and not self._decided(name, opened):
                return False
        return True

    def _horizons(self, opened: _Open) -> Iterable[tuple[str, float]]:
        """Until when each field is waited for at most."""
        expect, since, patience = opened.expect, opened.mark.since, self._caller.patience
        late = since + self._late(opened.within)
        for name in expect.model_fields_set - {"within", "as_"}:
            if getattr(expect, name) is None:
                continue
            match name:
                case "agent_speaks" if expect.agent_speaks is False:
                    yield name, since + opened.within
                case "agent_keeps_talking" if expect.agent_keeps_talking is not None:
                    # In a pause of its turn it may go on yet: whether it does is waited for.
                    yield name, self._kept_until(opened) + self._caller.end_silence
                case "agent_stops_within" if expect.agent_stops_within is not None:
                    begun = opened.spoken.start if opened.spoken else since
                    yield name, begun + self._late(expect.agent_stops_within)
                case "heard" | "not_heard":
                    yield name, late + patience
                case "answer" | "refused":
                    yield name, self._now
                case "hangup" if expect.hangup == "by_caller":
                    yield name, self._now
                case _:
                    yield name, late

    def _late(self, within: float) -> float:
        return max(within, min(max(2 * within, within + LATER_S), self._caller.patience))

    def _decided(self, name: str, opened: _Open) -> bool:
        expect, mark = opened.expect, opened.mark
        match name:
            case "agent_speaks":
                return self._answered(mark)
            case "agent_keeps_talking":
                speaking = self._line is not None and self._line.activity.speaking_since is not None
                return speaking and self._now >= self._kept_until(opened) - 1e-9
            case "agent_stops_within":
                return self._stopped(opened.spoken)
            case "heard" | "not_heard":
                if self._turn_done(mark, self._caller.end_silence):
                    return True
                # Nobody says for how long a turn may last; but it must have begun.
                return not self._answered(mark) and self._now >= mark.since + self._late(opened.within)
            case "dtmf":
                return len(self.keys) - self.keys_met >= len(expect.dtmf or "")
            case "transfer":
                return bool(self.transfers)
            case _:
                return False  # the end of the call decides

    def _kept_until(self, opened: _Open) -> float:
        """Until when the agent is to keep talking."""
        begun = opened.spoken.start if opened.spoken else opened.mark.since
        return begun + (opened.expect.agent_keeps_talking or 0.0)

    def _stopped(self, spoken: Span | None) -> bool:
        """The agent has fallen silent, or has begun anew, since the caller's sound began."""
        if self._line is None:
            return True
        activity = self._line.activity
        if activity.speaking_since is None:
            return activity.silent_for() >= self._caller.end_silence
        return spoken is not None and self._turn_began is not None and self._turn_began > spoken.start
