"""The turn-taker: hears what happens on a call and decides who has the floor.

Theory of operation
-------------------
The taker is in one of four states. `QUIET`: the caller has said nothing that is not dealt with. `TURN`: the floor is
his, and what he says is his turn. `DOUBT`: he made a sound over the agent, which holds its breath (Hold) until it is
known whether he meant it. `OVERLAP`: he speaks over the agent and it goes on, because his voice alone does not stop
it: by setting, because the utterance may not be interrupted, or because the voice has proved to be noise.

The detector says that the caller fell silent after a short while, `vad_silence_ms`. That is a pause: the text is
asked for (Finalize), in a turn the end-of-turn model, too, and the rest of the silence is counted here from the last
voiced frame. How long it must be depends on `end`. A turn ends when the silence is long enough and the text is
settled: the service answered Finalize, or `transcript_timeout` has passed. Without text there is no turn; when text
comes later, it is one at once.

An agent that has been given a turn has the floor from then on, although it is not heard yet (`owes`): a caller who
goes on stops the reply before it begins. He may be answering, or mending his own sentence, so what would be a
back-channel over speech is not one there, nor is one which he began before the agent did or ended as it ended.

Text that comes after the end of its turn, the caller being silent since: words taken already are cut off
(transcript.py); for others an agent that has not begun is stopped and given the rest as well; one that has begun goes
on, and they go in front of the caller's next turn.

Everything timed is one question, `_next`: what happens when, if nothing happens before. It is asked before and after
each event, so that a late timer decides what a punctual one would have.
"""

from __future__ import annotations

from collections.abc import Callable

from offhook.agents.turns import patience
from offhook.agents.turns.backchannel import content_words, phrases_of, words_of
from offhook.agents.turns.endings import Ending, ending
from offhook.agents.turns.events import AskModel, Decision, Discard, EndTurn, Finalize, Hold, Interrupt, Prepare, Resume
from offhook.agents.turns.floor import TRANSITIONS, Floor, IllegalStepError, Step
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.silence import Why, needed_silence
from offhook.agents.turns.transcript import LATE, Transcript

Due = tuple[float, Callable[[float], None]]


class TurnTaker:
    """One call's turn-taker. No clock, no timer: `now` is monotonic seconds and never goes back.

    Every method gives what is decided by it, in order. When `deadline` is not None, call `tick` then.

    Hold may come while the agent is not heard yet, because it owes a reply: then it must not begin until Resume. After
    Interrupt a reply that is owed is void. `agent_speaking(False)` is for the end of speech, however it came; calling
    it for a Hold, too, does no harm.

    Args:
        settings: the call's.
        stt_ends_turns: the speech-to-text service gives EndOfTurn.
        stt_partials: it gives partials, so that a voice without text is noise before long.
        has_model: somebody answers AskModel.

    Raises:
        SettingsError: `end` asks for a service that ends turns, or for a model, and there is none.
    """

    def __init__(
        self,
        settings: TurnSettings,
        *,
        stt_ends_turns: bool = False,
        stt_partials: bool = True,
        has_model: bool = False,
    ) -> None:
        self.settings = settings
        self.end = settings.resolve_end(stt_ends_turns=stt_ends_turns, has_model=has_model)
        "What ends turns, `auto` resolved."
        self.stt_ends_turns, self.stt_partials, self._has_model = stt_ends_turns, stt_partials, has_model
        self.floor = Floor.QUIET
        self.owes = False
        "The agent was given a turn and has not begun to answer."
        self._phrases = phrases_of(settings.language, settings.back_channels)
        self._words = Transcript()
        self._out: list[Decision] = []
        self._now = 0.0
        # The agent.
        self._speaking = False
        self._speaking_since = 0.0
        self._until: float | None = None
        self._interruptible = True
        self._muted = False
        self._false_holds = 0
        # The caller's voice.
        self._voice = False
        self._noise = False
        "The voice that the detector hears is none."
        self._voice_at = self._stopped_at = 0.0
        self._last_voice = self._residue_until = self._deaf_until = float("-inf")
        self._spoke_since = False
        "The detector has heard the caller since the last turn."
        # What is being heard.
        self.started_at = 0.0
        "First voiced frame of the turn or sound that was heard last: half a second before it the model may begin."
        self._before = False
        "It began when the floor was free, so that every word counts."
        self._asked_at: float | None = None
        "When the pause began in which the caller is; None while he speaks."
        self._settled_at: float | None = None
        "When the text of this pause was complete."
        self._service_ended = False
        self._prepared: str | None = None
        self._questions = 0
        self._question: int | None = None
        self._verdict: float | None = None

    # --- what the shell asks

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called; None when nothing is waited for."""
        due = self._next()
        return None if due is None else due[0]

    @property
    def text(self) -> str:
        """What has been heard of the turn so far."""
        return self._words.text

    # --- what the detector hears

    def speech_started(self, at: float, now: float) -> list[Decision]:
        """The detector hears the caller; `at` is his first voiced frame."""
        self._pass(now)
        self._voice, self._noise, self._voice_at = True, False, at
        self._last_voice = now
        if self._muted:
            return self._decide(now)
        self._spoke_since = True
        self._asked_at, self._service_ended = None, False
        self._void()
        if self.floor in (Floor.QUIET, Floor.OVERLAP):
            self._open(at)
        return self._decide(now)

    def speech_stopped(self, at: float, now: float) -> list[Decision]:
        """The detector has heard nothing for `vad_silence_ms`; `at` is the last voiced frame."""
        self._pass(now)
        self._voice = self._noise = False
        self._last_voice = self._stopped_at = at
        if self.floor is not Floor.QUIET:
            self._pause(at, now)
        elif self._spoke_since:
            self._out.append(Finalize())  # it was taken for noise, and may have been words
        return self._decide(now)

    # --- what the speech-to-text service hears

    def partial(self, text: str, now: float) -> list[Decision]:
        """What the caller seems to have said since the last final."""
        self._pass(now)
        if self._words.partial(text, now):
            if self._settled_at is not None and self.floor in (Floor.TURN, Floor.OVERLAP):
                self._asked_at = None  # he goes on, too softly for the detector
            self._settled_at = None
            self._heard(now)
        return self._decide(now)

    def final(self, text: str, now: float, *, answers_finalize: bool = False) -> list[Decision]:
        """Text that will not change any more."""
        self._pass(now)
        if self._words.final(text, now, last=answers_finalize):
            self._heard(now)
        if self._asked_at is not None and (answers_finalize or self._words.fresh):
            self._settled_at = now
        return self._decide(now)

    def service_heard_speech(self, now: float) -> list[Decision]:
        """The speech-to-text service noticed speech."""
        self._pass(now)
        if (
            self.settings.interrupt == "transcript"
            and self.floor in (Floor.QUIET, Floor.OVERLAP)
            and self._speaking
            and self._interruptible
            and not self._muted
        ):
            if self.floor is Floor.QUIET:
                self._start(now)
            if not self._talking:
                self._asked_at = self._stopped_at = now
                self._settled_at = None
            self._hold(self.started_at)
        return self._decide(now)

    def service_ended_turn(self, text: str, now: float) -> list[Decision]:
        """The speech-to-text service takes the turn for finished; `text` is the whole of it, or empty."""
        self._pass(now)
        changed = self._words.replace(text, now) if text.strip() else False
        if changed or (self._words.fresh and self.floor is Floor.QUIET):
            self._heard(now)
        if self.floor is not Floor.QUIET:
            self._settled_at = now
            self._service_ended = self.end == "service"
            if self._asked_at is None and not self._talking:
                self._asked_at = now
        return self._decide(now)

    def service_eager(self, text: str, now: float) -> list[Decision]:
        """The speech-to-text service takes the turn for probably finished. Heeded with `eager` only."""
        self._pass(now)
        text = text.strip() or self._words.text
        if self.settings.eager and self.floor is Floor.TURN and text and self._prepared != text:
            self._void()
            self._prepare(text)
        return self._decide(now)

    def service_resumed(self, now: float) -> list[Decision]:
        """It was not."""
        self._pass(now)
        self._service_ended = False
        self._void()
        return self._decide(now)

    def service_changed(self, ends_turns: bool, partials: bool, now: float) -> list[Decision]:
        """Another service hears from now on. Where `end` asks for one that ends turns, this one's pauses are judged."""
        self._pass(now)
        self.stt_ends_turns, self.stt_partials = ends_turns, partials
        self.end = self.settings.end_with(stt_ends_turns=ends_turns, has_model=self._has_model)
        self._service_ended = False
        return self._decide(now)

    # --- what the others say

    def verdict(self, number: int, probability: float | None, now: float) -> list[Decision]:
        """The end-of-turn model's answer to AskModel: probability that the caller has finished; None: it failed."""
        self._pass(now)
        if number == self._question:
            self._question, self._verdict = None, probability
        return self._decide(now)

    def agent_speaking(
        self, speaking: bool, now: float, *, interruptible: bool = True, until: float | None = None
    ) -> list[Decision]:
        """The agent is heard from now on, or no longer.

        Args:
            speaking: True also when it goes on with another utterance.
            now: monotonic seconds.
            interruptible: whether the caller may stop it.
            until: when all that it has to say will have been said, if that is known.
        """
        self._pass(now)
        began = speaking and not self._speaking
        if began:
            self._speaking_since = now
        self._speaking, self._interruptible, self._until = speaking, interruptible, until
        if speaking:
            self.owes = False
            if self.floor is Floor.TURN and (began or not self._ends_soon(now)):
                self._agent_talks_over(now)
        elif self.floor is Floor.OVERLAP:
            if self._talking or self._content() or now - self._stopped_at <= patience.AGENT_TAIL:
                self._take()
            else:
                self._drop(now)
        return self._decide(now)

    def mute(self, muted: bool, now: float) -> list[Decision]:
        """What the caller says does not count from now on, or counts again."""
        self._pass(now)
        if muted != self._muted:
            self._muted = muted
            self._forget(now)
            self._deaf_until = now + patience.MUTE_TAIL
        return self._decide(now)

    def tick(self, now: float) -> list[Decision]:
        """Time has passed."""
        return self._decide(now)

    def reset(self, now: float) -> list[Decision]:
        """Forget what was heard; the next word begins anew."""
        self._pass(now)
        self._forget(now)
        return self._decide(now)

    # --- what happens when

    def _pass(self, now: float) -> None:
        """Do what was due before `now`."""
        self._now = now
        while (due := self._next()) is not None and due[0] <= now:
            at, do = due
            do(at)

    def _decide(self, now: float) -> list[Decision]:
        self._pass(now)
        out, self._out = self._out, []
        return out

    def _next(self) -> Due | None:
        match self.floor:
            case Floor.TURN:
                dues = self._next_in_turn()
            case Floor.DOUBT:
                dues = self._next_in_doubt()
            case Floor.OVERLAP:
                dues = self._next_in_overlap()
            case _:
                return None
        return min(dues, key=lambda due: due[0], default=None)

    def _next_in_turn(self) -> list[Due]:
        words, settings = self._words, self.settings
        if self._service_ended and self._settled_at is not None and words.fresh:
            return [(max(self._settled_at, words.changed_at), lambda at: self._end_turn(at, "service"))]
        longest = self.started_at + settings.max_turn
        if self._talking:
            dues: list[Due] = [(longest, self._cut_off)]
            if words.interim and words.fresh:
                dues.append((max(self._voice_at, words.changed_at) + patience.STALL, self._cut_off))
                new = self._prepared is None and words.changed_at >= self._voice_at
                if settings.eager and new and self._looks() == "finished":  # one word more makes it void
                    dues.append((words.changed_at, lambda _: self._prepare(words.text)))
            return dues
        if self._asked_at is None:
            return [(words.changed_at + patience.UNHEARD_PAUSE, lambda at: self._pause(words.changed_at, at))]
        if not words.fresh:
            return [(self._asked_at + LATE + patience.BATCH, self._drop)]
        silence, why = self._silence()
        ready = self._ready()
        dues = [(max(min(self._stopped_at + silence, longest), ready), lambda at: self._end_turn(at, why))]
        looks = self._looks()
        heard = self._settled_at is not None or words.changed_at > self._voice_at
        if settings.eager and self._prepared is None and heard and looks != "unfinished":
            # A wrong guess costs little: the service may yet say more, and then what was prepared is thrown away.
            wait = 0 if self._settled_at is not None or looks == "finished" else patience.STABLE
            dues.append((max(words.changed_at + wait, self._asked_at), lambda _: self._prepare(words.text)))
        return dues

    def _next_in_doubt(self) -> list[Due]:
        words, asked = self._words, self._asked_at
        if self._content(growing=self._settled_at is None):
            return [(words.changed_at, self._interrupt)]
        noise = self.started_at + patience.NOISE_OVER_AGENT
        if self._talking:
            length = self.settings.back_channel_length
            if not self.stt_partials:
                return [(self._voice_at + length, self._interrupt)]
            wordless = max(self._voice_at, words.changed_at) + length
            return [(wordless if words.fresh else noise, self._give_up_on_noise)]
        assert asked is not None, "a doubt without a voice begins with a pause"
        if self._settled_at is not None:
            return [(self._settled_at, self._judge)]
        if words.fresh:
            return [(max(asked, words.changed_at) + patience.STABLE, self._judge)]
        return [(max(asked, min(noise, self._stopped_at + self.settings.false_interruption_after)), self._judge)]

    def _next_in_overlap(self) -> list[Due]:
        words, needed, asked = self._words, self._needed(), self._asked_at
        if needed and self._content(growing=self._settled_at is None) >= needed:
            return [(words.changed_at, self._interrupt)]
        if self._talking:
            return []
        if asked is None:
            return [(words.changed_at + patience.UNHEARD_PAUSE, lambda at: self._pause(words.changed_at, at))]
        if self._settled_at is not None:
            ready = self._settled_at
        else:
            ready = max(asked, words.changed_at) + patience.STABLE if words.fresh else asked + LATE
        content = self._content()
        if not content:
            # Not at once: the agent may be about to stop, and then it is an answer.
            return [(max(ready, self._stopped_at + patience.AGENT_TAIL), self._drop)]
        if needed and content >= needed:
            return [(ready, self._interrupt)]
        return []  # kept until the agent has finished

    def _silence(self) -> tuple[float, Why]:
        """How long the caller must be silent for his turn to be over, and what says so."""
        silence, why = needed_silence(self.settings, self.end, self._looks(), self._verdict)
        waits = self.end == "model" and self._verdict is None and self._question is not None
        if waits and self._asked_at is not None:
            silence = max(silence, self._asked_at + patience.MODEL - self._stopped_at)
        return silence, why

    def _ready(self) -> float:
        """When the text is as complete as it will be."""
        assert self._asked_at is not None
        if self._settled_at is not None:
            return self._settled_at
        wait = self.settings.transcript_timeout + (0 if self._words.unasked else patience.BATCH)
        return max(self._asked_at, self._words.changed_at) + wait

    # --- what it is

    @property
    def _talking(self) -> bool:
        return self._voice and not self._noise

    def _looks(self) -> Ending:
        return ending(self._words.text, self.settings.language)

    def _content(self, *, growing: bool = False) -> int:
        """How many of the words heard mean something."""
        fresh = self._words.fresh
        return len(words_of(fresh)) if self._before else content_words(fresh, self._phrases, growing=growing)

    def _needed(self) -> int:
        """How many words take the floor from an agent that speaks; 0: no number does."""
        interrupt = self.settings.interrupt
        if interrupt == "off" or not self._interruptible:
            return 0
        heard_voice = self._voice or self._words.changed_at - self._last_voice <= LATE
        if self._before or (interrupt != "words" and (heard_voice or interrupt == "transcript")):
            return 1
        return self.settings.min_words

    def _ends_soon(self, at: float) -> bool:
        return self._until is not None and at >= self._until - patience.AGENT_TAIL

    # --- steps

    def _go(self, step: Step) -> None:
        after = TRANSITIONS[self.floor].get(step)
        if after is None:
            raise IllegalStepError(f"no step {step.value!r} from {self.floor.value!r}")
        self.floor = after

    def _start(self, at: float) -> None:
        """Something new begins to be heard."""
        self.started_at = at
        self._before = False
        self._asked_at = self._settled_at = None
        self._service_ended = False
        self._question = self._verdict = None

    def _open(self, at: float) -> None:
        """The caller's voice begins, in quiet or anew over the agent."""
        by_voice = self.settings.interrupt == "vad" and self._false_holds < patience.MAX_FALSE_HOLDS
        quiet = self.floor is Floor.QUIET
        if quiet:
            self._start(at)
            self._before = self.owes or (self._speaking and at < self._speaking_since)
        if quiet and (self._ends_soon(at) if self._speaking else not (self.owes and by_voice)):
            self._take()
        elif by_voice and (self._interruptible or not self._speaking):
            self._hold(at)
        elif quiet:
            self._go(Step.TALK_OVER)

    def _heard(self, now: float) -> None:
        """The text has changed."""
        if self._muted:
            return
        if self._prepared is not None and words_of(self._prepared) != words_of(self._words.text):
            self._void()
        if self.floor is Floor.TURN and self.owes:
            self._void_reply()
        if self.floor is not Floor.QUIET or not self._words.fresh:
            return
        if not self._spoke_since and now < self._deaf_until:
            self._words.take(now)
            return
        if not self._spoke_since and now < self._residue_until:
            if not self.owes:
                self._words.keep()
                return
            self._void_reply()
            self._go(Step.TAKE)
            self._asked_at, self._settled_at = now, None
            return
        recent = now - self._last_voice <= LATE and self._spoke_since and not self._noise
        if not recent:
            self._start(now)
            self._stopped_at = now
        elif not self._talking:
            self._asked_at, self._settled_at = now, None
        if self._speaking:
            self._go(Step.TALK_OVER)
        else:
            if self.owes:
                self._void_reply()
            self._take()

    def _void_reply(self) -> None:
        """He goes on before he was answered."""
        self._speaking = self.owes = False
        self._out.append(Interrupt(self.started_at))

    def _agent_talks_over(self, now: float) -> None:
        """The agent begins while the caller has the floor."""
        self._void()
        self._before = True
        if not self._interruptible or self.settings.interrupt == "off":
            self._go(Step.TALK_OVER)
        elif self._words.fresh:
            self._void_reply()
        elif self._talking and self.settings.interrupt == "vad":
            self._hold(self.started_at)
        else:
            self._go(Step.TALK_OVER)

    def _pause(self, at: float, now: float) -> None:
        self._stopped_at, self._asked_at, self._settled_at = at, now, None
        self._out.append(Finalize())
        if self.floor is Floor.TURN:
            self._ask_model()

    def _ask_model(self) -> None:
        if self.end == "model":
            self._questions += 1
            self._question, self._verdict = self._questions, None
            self._out.append(AskModel(self._questions))

    def _hold(self, at: float) -> None:
        self._go(Step.HOLD)
        self._out.append(Hold(at))

    def _take(self) -> None:
        self._go(Step.TAKE)
        self._before = False
        if not self._talking and self._asked_at is not None:
            self._ask_model()

    def _interrupt(self, at: float) -> None:
        if self._words.fresh:
            self._false_holds = 0
        self._void_reply()
        self._take()

    def _judge(self, at: float) -> None:
        """The sound over the agent is all there is of it."""
        if self._content():
            self._interrupt(at)
        else:
            self._resume(at)

    def _resume(self, at: float) -> None:
        heard = self._words.fresh
        if not heard:
            self._false_holds += 1
        self._drop(at)
        # Whoever stopped it has perhaps said that it does not speak: it will again, shortly.
        self.owes = not self._speaking
        self._out.append(Resume(heard))

    def _give_up_on_noise(self, at: float) -> None:
        self._noise = True
        self._resume(at)

    def _drop(self, at: float) -> None:
        self._go(Step.DROP)
        kept = self._words.kept
        self._words.take(at)
        self._words.kept = kept
        self._residue_until = float("-inf")

    def _forget(self, now: float) -> None:
        self._void()
        if self.floor is Floor.DOUBT:
            self._resume(now)
        elif self.floor is not Floor.QUIET:
            self._drop(now)
        self._words.take(now)
        self._spoke_since = False
        if self._talking and not self._muted:
            self._spoke_since = True
            self._open(now)

    def _prepare(self, text: str) -> None:
        self._prepared = text
        self._out.append(Prepare(text))

    def _void(self) -> None:
        if self._prepared is not None:
            self._prepared = None
            self._out.append(Discard())

    def _cut_off(self, at: float) -> None:
        """The voice goes on, but no words do, or for too long."""
        self._noise = True
        self._stopped_at = at
        if self._words.fresh:
            self._end_turn(at, "timeout")
        else:
            self._drop(at)

    def _end_turn(self, at: float, why: Why) -> None:
        words = self._words
        settled = self._settled_at is not None
        understood = self._settled_at if self._settled_at is not None else words.changed_at
        stopped = at if self._talking else self._stopped_at
        text = words.take(at, closed=why == "service")
        if self._prepared is not None and words_of(self._prepared) == words_of(text):
            text, self._prepared = self._prepared, None
        self._void()
        self._go(Step.END)
        self.owes = True
        self._false_holds = 0
        self._spoke_since = False
        self._residue_until = float("-inf") if settled else at + patience.RESIDUE
        self._out.append(EndTurn(text, self.started_at, stopped, understood, self._now, why))
