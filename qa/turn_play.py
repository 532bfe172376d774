"""Plays a clip to the detector and the turn-taker in virtual time, and judges what comes of it.

What is real: Silero and its gate, the turn-taker, the end-of-turn model. What is modelled, by the constants below: the
speech-to-text service, which writes without a mistake what was said; the language model and the voice, as a
delay; the way from a decision to silence in the caller's ear. Times are seconds since the clip's first sample reached
the gateway.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from offhook.agents.turns.events import (
    AskModel,
    Decision,
    Discard,
    EndTurn,
    Finalize,
    Hold,
    Interrupt,
    Prepare,
    Resume,
)
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.taker import TurnTaker
from offhook.codecs.vad import SileroModel, SpeechGate, SpeechStarted
from offhook.qa.activity import RATE
from offhook.qa.turn_corpus import Clip

FRAME: Final = 0.020
DETECTOR: Final = 0.001
"""From the frame that completes a window to the detector's opinion."""

PARTIAL_AFTER: Final = 0.100
"""From the end of a word until it stands in an interim transcript."""

MODEL_TAKES: Final = 0.060
"""An answer of the end-of-turn model, on one core."""

MODEL_HEARS_BEFORE: Final = 0.5
"""Of the audio before the turn's first voiced frame."""

REPLY: Final = 0.250 + 0.100
"""Language model's first sentence and voice's first byte, of services that are neither slow nor fast."""

STOPPING: Final = 0.035
"""From a decision until the caller's ear is silent: our part (p95 15 ms) and the rest of a frame that is playing."""

RESTARTING: Final = 0.035
"""From a decision until the agent is heard again: the audio is at hand."""

STOP_WITHIN: Final = 2.0
"""An agent that talks on for longer over an interruption has missed it."""

BACK_WITHIN: Final = 1.0
"""An agent that is not heard again this soon after a cough has been stopped by it."""

ANSWER_WITHIN: Final = 3.0
"""A turn that has not ended this long after its last word is not noticed."""

Hears = Literal["streaming", "dotted", "blocks"]
"""streaming: speech-to-text with interim results, without punctuation, text 150 ms after it was asked for. dotted: the
same, and every final text ends with a full stop, whether the sentence does or not. blocks: no interim results, as
Whisper, text 300 ms after it was asked for."""

NEARLY: Final = 0.060
"""Of a word that may be missing for it to be understood; also about as well as the corpus knows its words' ends."""

FINAL_AFTER: Final[dict[Hears, float]] = {"streaming": 0.150, "dotted": 0.150, "blocks": 0.300}

Reaction = Literal["answered", "too early", "no answer", "stopped", "held", "went on", "waited"]
"""answered: after the last word. too early: a turn ended before the caller had finished. no answer: none in time.
stopped: the agent gave up what it was saying. held: it fell silent and went on within a second of the sound's end.
went on: undisturbed. waited: nothing happened, as nothing should."""

Judge = Callable[[Clip, int, int], float]
"""The end-of-turn model's probability for the samples of a clip from one to another."""


@dataclass(slots=True)
class Result:
    """What the agent did on one clip. Times in milliseconds."""

    clip: Clip
    reaction: Reaction
    response_ms: float | None = None
    "From the end of the last word to the decision that the turn is over."
    voice_ms: float | None = None
    "To the agent's first sound, with the modelled language model and voice."
    stop_ms: float | None = None
    "From the beginning of an interruption to the agent's last sample."
    gap_ms: float | None = None
    "Silence of an agent that was held and went on."
    why: str = ""
    "What ended the turn."
    complete: bool = True
    "The turn had every word."
    log: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether that was the right reaction."""
        if self.clip.kind in ("finished", "paused"):
            return self.reaction == "answered"
        if self.clip.kind in ("interruption", "double talk"):
            return self.reaction == "stopped"
        return self.reaction in ("went on", "held", "waited")


def voiced(clips: Sequence[Clip]) -> list[list[float]]:
    """The detector's probabilities for every window of each clip; all clips at once, for that is many times faster."""
    model = SileroModel()
    size = SileroModel.WINDOW
    longest = max(len(clip.audio) for clip in clips) // size
    audio = np.zeros((len(clips), longest * size), np.float32)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip.audio)] = clip.audio[: len(row)] / np.float32(32768)
    contexts = np.zeros((len(clips), SileroModel.CONTEXT), np.float32)
    states = np.zeros((2, len(clips), SileroModel.STATE), np.float32)
    found: list[NDArray[np.float32]] = []
    for at in range(0, longest * size, size):
        window = audio[:, at : at + size]
        given, states = model.probabilities(window, contexts, states)
        contexts = window[:, -SileroModel.CONTEXT :]
        found.append(given)
    rows = np.stack(found, axis=1)
    return [row[: len(clip.audio) // size].tolist() for row, clip in zip(rows, clips, strict=True)]


class Play:
    """One clip against one turn-taker: `run` gives the result. The queue holds what will happen, in order."""

    def __init__(
        self,
        clip: Clip,
        probabilities: Sequence[float],
        settings: TurnSettings,
        judge: Judge,
        hears: Hears = "streaming",
    ) -> None:
        self._clip, self._probabilities, self._judge, self._hears = clip, probabilities, judge, hears
        self._settings = settings
        self._taker = TurnTaker(settings, has_model=True, stt_partials=hears != "blocks")
        self._now = 0.0
        self._queue: list[tuple[float, int, Callable[[], list[Decision]]]] = []
        self._order = itertools.count()
        self._log: list[str] = []
        self._written = 0
        "Words that are in a final transcript."
        self._prepared: tuple[str, float] | None = None
        self._replies = 0
        self._speaking_since: float | None = None
        self._heard: list[tuple[float, float]] = []
        "When the agent was heard, stretch by stretch."
        self._held = False
        self._interrupted = False
        self._ends: list[EndTurn] = []
        self._voice_at: list[float] = []

    def run(self) -> Result:
        """Play to the end of the clip and judge."""
        self._detect()
        if self._hears != "blocks":
            for number, word in enumerate(self._clip.words):
                self._later(word.end_ms / 1000 + PARTIAL_AFTER, partial(self._interim, number))
        if self._clip.agent_from is not None:
            self._later(self._clip.agent_from, self._speak)
        while self._queue or self._taker.deadline is not None:
            deadline = self._taker.deadline
            at = self._queue[0][0] if self._queue else math.inf
            if max(self._now, min(at, math.inf if deadline is None else deadline)) > self._clip.seconds:
                break
            if deadline is not None and deadline <= at:
                self._now = max(self._now, deadline)
                self._act(self._taker.tick(self._now))
                if self._taker.deadline is not None and self._taker.deadline <= deadline:
                    raise RuntimeError(f"{self._clip.name}: deadline {deadline:.3f} has passed and stands")
            else:
                self._now, _, happen = heapq.heappop(self._queue)
                self._act(happen())
        self._fall_silent(self._clip.seconds)
        return self._result()

    # --- what happens

    def _later(self, at: float, happen: Callable[[], list[Decision]]) -> None:
        heapq.heappush(self._queue, (at, next(self._order), happen))

    def _detect(self) -> None:
        gate = SpeechGate(min_silence_ms=self._settings.vad_silence_ms)
        for number, probability in enumerate(self._probabilities, 1):
            end = number * SileroModel.WINDOW / RATE
            change = gate.push(probability, end)
            if change is None:
                continue
            known = math.ceil(round(end / FRAME, 6)) * FRAME + DETECTOR
            if isinstance(change, SpeechStarted):
                self._later(known, partial(self._started, change.at))
            else:
                self._later(known, partial(self._stopped, change.at))

    def _started(self, at: float) -> list[Decision]:
        self._note("speech started")
        return self._taker.speech_started(at, self._now)

    def _stopped(self, at: float) -> list[Decision]:
        self._note("speech stopped")
        return self._taker.speech_stopped(at, self._now)

    def _interim(self, number: int) -> list[Decision]:
        if number < self._written:
            return []
        return self._taker.partial(self._text(self._written, number + 1), self._now)

    def _final(self, asked: float) -> list[Decision]:
        said = sum(word.end_ms <= 1000 * (asked + NEARLY) for word in self._clip.words)
        text = self._text(self._written, said)
        self._written = max(self._written, said)
        if text and self._hears == "dotted":
            text += "."
        self._note(f"final {text!r}")
        return self._taker.final(text, self._now, answers_finalize=True)

    def _text(self, begin: int, end: int) -> str:
        return " ".join(word.text for word in self._clip.words[begin:end])

    def _speak(self) -> list[Decision]:
        self._note("agent speaks")
        self._speaking_since = self._now
        return self._taker.agent_speaking(True, self._now)

    def _reply(self, number: int) -> list[Decision]:
        if number != self._replies:
            return []
        self._voice_at.append(self._now)
        return self._speak()

    # --- what is decided

    def _act(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._note(str(decision))
            self._do(decision)

    def _do(self, decision: Decision) -> None:
        now = self._now
        match decision:
            case Hold():
                self._held = True
                self._fall_silent(now + STOPPING)
            case Resume():
                self._held = False
                self._later(now + RESTARTING, self._go_on)
            case Interrupt():
                self._held = False
                self._interrupted = self._interrupted or not self._voice_at
                self._replies += 1
                self._fall_silent(now + STOPPING)
                self._later(now, lambda: self._taker.agent_speaking(False, self._now))
            case Finalize():
                self._later(now + FINAL_AFTER[self._hears], lambda: self._final(now))
            case AskModel(number):
                begin = max(0.0, self._taker.started_at - MODEL_HEARS_BEFORE)
                probability = self._judge(self._clip, round(begin * RATE), round(now * RATE))
                self._note(f"model {probability:.2f}")
                self._later(now + MODEL_TAKES, lambda: self._taker.verdict(number, probability, self._now))
            case Prepare(text):
                self._prepared = (text, now + REPLY)
            case Discard():
                self._prepared = None
            case EndTurn(text=text):
                ready = now + REPLY
                if self._prepared is not None and self._prepared[0] == text:
                    ready = max(now, self._prepared[1])
                self._prepared = None
                self._ends.append(decision)
                self._replies += 1
                number = self._replies
                self._later(ready, lambda: self._reply(number))

    def _go_on(self) -> list[Decision]:
        if not self._held and not self._interrupted and self._speaking_since is None:
            self._speaking_since = self._now
        return []

    def _fall_silent(self, at: float) -> None:
        if self._speaking_since is not None:
            self._heard.append((self._speaking_since, min(at, self._clip.seconds)))
            self._speaking_since = None

    def _note(self, what: str) -> None:
        self._log.append(f"{self._now:.3f} {what}")

    # --- what it was worth

    def _result(self) -> Result:
        clip = self._clip
        if clip.kind in ("finished", "paused"):
            result = self._answered(clip.speech[-1].end)
        elif clip.kind in ("interruption", "double talk"):
            result = self._yielded(clip.speech[0].start)
        elif clip.agent_from is None:
            result = Result(clip, "answered" if self._ends else "waited")
        else:
            result = self._went_on()
        result.log = self._log
        return result

    def _answered(self, end: float) -> Result:
        clip = self._clip
        early = any(turn.decided_at < end for turn in self._ends)
        answers = [n for n, turn in enumerate(self._ends) if end <= turn.decided_at <= end + ANSWER_WITHIN]
        if not answers:
            return Result(clip, "too early" if early else "no answer")
        turn = self._ends[answers[0]]
        result = Result(clip, "too early" if early else "answered", why=turn.why)
        result.complete = turn.text.lower().replace(".", "") == self._text(0, len(clip.words))
        result.response_ms = 1000 * (turn.decided_at - end)
        voices = [at for at in self._voice_at if at >= turn.decided_at]
        if voices:
            result.voice_ms = 1000 * (voices[0] - end)
        return result

    def _yielded(self, start: float) -> Result:
        if not self._interrupted:
            return Result(self._clip, "went on")
        # What the agent says in answer to an interruption is heard later than what was interrupted.
        last = max(end for begin, end in self._heard if begin not in self._voice_at)
        begun = max(start, self._clip.agent_from or 0.0)
        if last < begun:
            return Result(self._clip, "too early")
        stop_ms = 1000 * (last - begun)
        return Result(self._clip, "stopped" if stop_ms <= 1000 * STOP_WITHIN else "went on", stop_ms=stop_ms)

    def _went_on(self) -> Result:
        clip = self._clip
        if self._interrupted or self._ends:
            return Result(clip, "stopped")
        span = clip.sound or (clip.speech[0] if clip.speech else None)
        back_by = clip.seconds if span is None else span.end + BACK_WITHIN
        stretches = sorted(self._heard)
        gap_ms = 1000 * sum(after[0] - before[1] for before, after in itertools.pairwise(stretches))
        if not any(begin <= back_by <= end for begin, end in stretches):
            return Result(clip, "stopped", gap_ms=gap_ms)
        return Result(clip, "held", gap_ms=gap_ms) if len(stretches) > 1 else Result(clip, "went on")
