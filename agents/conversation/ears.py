"""The assistant's ears: the caller's audio to speech-to-text, what is heard to the turn-taker, its decisions to whom
they concern.

The turn-taker knows no clock and no service. This is its shell: one timer for its deadline, and the end-of-turn model,
which is asked about the last seconds of audio and answers from a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from offhook.agents.services.base import (
    EagerEndOfTurn,
    EndOfTurn,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechHeard,
    SpeechToText,
    Transcription,
    TurnResumed,
)
from offhook.agents.services.base import (
    Final as FinalText,
)
from offhook.agents.turns.events import AskModel, Decision, Finalize
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.taker import TurnTaker
from offhook.codecs.audio import FRAME_MS, L16_8K, AudioFormat
from offhook.codecs.convert import Converter, convert_all

MODEL_SECONDS: Final = 8
"""What the end-of-turn model hears at most: the last so many seconds of the turn."""

MODEL_LEAD: Final = 0.5
"""Seconds before the turn's first voiced frame that it hears as well. More would be the turn before, and
mislead it."""


class TurnModel(Protocol):
    """A model that hears whether a sentence is finished."""

    async def probability(self, pcm: bytes) -> float:
        """Take the caller's last seconds, int16 at 8 kHz; give 0 (goes on) to 1 (has finished)."""


def best_format(offered: Sequence[AudioFormat], spoken: AudioFormat) -> AudioFormat:
    """The format to use with a service: the carrier's if it is among them, else the service's own choice."""
    return spoken if spoken in offered else offered[0]


class Ears:
    """Hears one call."""

    def __init__(
        self,
        settings: TurnSettings,
        stt: SpeechToText,
        model: TurnModel | None,
        decide: Callable[[Decision], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self.taker = TurnTaker(
            settings,
            stt_ends_turns=stt.ends_turns,
            stt_partials=stt.gives_partials,
            has_model=model is not None,
        )
        self._stt, self._model = stt, model
        self._decide, self._broken = decide, broken
        self._loop = asyncio.get_running_loop()
        self._stream: Transcription | None = None
        self._stream_format = L16_8K
        self._format = L16_8K
        self._convert: Callable[[bytes], bytes] | None = None
        self._recent: deque[bytes] | None = deque(maxlen=MODEL_SECONDS * 1000 // FRAME_MS) if model else None
        self._timer: asyncio.TimerHandle | None = None
        self._verdicts: set[asyncio.Task[None]] = set()
        self._decisions: deque[Decision] = deque()
        self._passing_on = False
        self._closed = False

    async def open(self, format: AudioFormat) -> None:
        """Connect to the service while the phone rings. Raises ServiceError."""
        self._stream_format = best_format(self._stt.formats, format)
        self._stream = await self._stt.open(self._stream_format, self._hear)
        self.listen(format)

    def listen(self, format: AudioFormat) -> None:
        """Caller audio comes in this format from now on."""
        self._format = format
        self._convert = None if format == self._stream_format else Converter(format, self._stream_format).convert

    def audio(self, audio: bytes) -> None:
        """The next 20 ms of the caller."""
        stt, taker = self._stt, self.taker
        if (stt.ends_turns, stt.gives_partials) != (taker.stt_ends_turns, taker.stt_partials):  # another one took over
            self.told(taker.service_changed(stt.ends_turns, stt.gives_partials, self._loop.time()))
        if self._recent is not None:
            self._recent.append(audio)
        if self._stream is not None:
            self._stream.push(audio if self._convert is None else self._convert(audio))

    async def close(self) -> None:
        """The call is over."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._verdicts:
            task.cancel()
        if self._verdicts:
            await asyncio.wait(self._verdicts)
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close()

    def told(self, decisions: list[Decision]) -> None:
        """Pass on what the turn-taker decided, and set the timer it asks for."""
        self._decisions.extend(decisions)
        if self._closed or self._passing_on:
            return  # what follows from a decision comes after those that were made with it
        self._passing_on = True
        try:
            while self._decisions:
                self._pass_on(self._decisions.popleft())
        finally:
            self._passing_on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self.taker.deadline) is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _pass_on(self, decision: Decision) -> None:
        if isinstance(decision, Finalize):
            if self._stream is not None:
                self._stream.finalize()
        elif isinstance(decision, AskModel):
            self._ask(decision.number)
        else:
            self._decide(decision)

    def _tick(self) -> None:
        self._timer = None
        # A timer may come a little before its time, by the clock's resolution.
        deadline = self.taker.deadline
        now = self._loop.time()
        with self._reported():
            self.told(self.taker.tick(now if deadline is None else max(now, deadline)))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Around what the event loop or a service calls: an error of ours must not be lost there, or end theirs."""
        try:
            yield
        except Exception as error:  # the root of what is done about what is heard
            self._broken(error)

    def _hear(self, heard: Heard) -> None:
        with self._reported():
            self._take_in(heard)

    def _take_in(self, heard: Heard) -> None:
        now, taker = self._loop.time(), self.taker
        match heard:
            case Partial(text):
                self.told(taker.partial(text, now))
            case FinalText(text):
                self.told(taker.final(text, now, answers_finalize=heard.answers_finalize))
            case SpeechHeard():
                self.told(taker.service_heard_speech(now))
            case EndOfTurn(text):
                self.told(taker.service_ended_turn(text, now))
            case EagerEndOfTurn(text):
                self.told(taker.service_eager(text, now))
            case TurnResumed():
                self.told(taker.service_resumed(now))
            case HearingLost(error):
                self._broken(error)

    def _ask(self, number: int) -> None:
        task = self._loop.create_task(self._judge(number), name="end-of-turn")
        self._verdicts.add(task)
        task.add_done_callback(self._judged)

    def _judged(self, task: asyncio.Task[None]) -> None:
        self._verdicts.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _judge(self, number: int) -> None:
        assert self._model is not None
        assert self._recent is not None
        turn = max(0.0, self._loop.time() - self.taker.started_at) + MODEL_LEAD
        audio = b"".join(self._recent)[-self._format.size(min(turn, MODEL_SECONDS)) :]
        probability: float | None = None
        with suppress(ServiceError):  # silence decides then; the model has reported its fault
            probability = await self._model.probability(convert_all(audio, self._format, L16_8K))
        self.told(self.taker.verdict(number, probability, self._loop.time()))
