"""One simulated call as its caller lives through it: speaking, pressing keys, listening, hanging up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from offhook.qa.activity import Samples, Span
from offhook.qa.carrier import CallCard
from offhook.qa.leg import CarrierLeg, Exchange, SimulatorError
from offhook.qa.line import Line
from offhook.qa.measure import Conversation, measure, spread
from offhook.qa.result import CallResult
from offhook.qa.voice import Voice, read_voice
from offhook.qa.web import Reply

SPOKEN_S: Final = 20.0
"""Default patience of a caller who waits for the agent to speak, or to fall silent."""

TURN_PAUSE_S: Final = 0.7
"""Silence after which a caller takes the agent's turn to be over; sentences pause for up to half a second."""


class NotHeard(SimulatorError):
    """What the caller waited for did not happen in time."""


class CallOver(SimulatorError):
    """The call ended while the caller still wanted something."""


class SimulatedCall(CarrierLeg):
    """One call. Made by `CarrierSimulator.ring`, or by the bot through the API."""

    def __init__(self, exchange: Exchange, card: CallCard, voice: Callable[[], Voice]) -> None:
        super().__init__(exchange, card)
        self.said: list[Span] = []
        "Where the caller's utterances lie in the track."
        self._voice = voice

    @property
    def over(self) -> bool:
        """True once the call has ended and its last callback was posted."""
        return self.ended.is_set()

    @property
    def heard(self) -> Samples:
        """What the caller has heard so far: int16 at 8 kHz from the opening of the media stream on."""
        return self.line.agent if self.line else np.zeros(0, np.int16)

    @property
    def now(self) -> float:
        """Seconds on the track clock."""
        return self.line.seconds if self.line else 0.0

    async def say(self, speech: Samples | str) -> Span:
        """Say something, samples or a sentence; returns when its last frame has left, with its place in the track.

        Raises:
            CallOver: the call ended first.
            VoiceUnavailable: a sentence, and no synthesiser.
        """
        if isinstance(speech, str):
            speech = await self._voice().speak(speech)
        line = self._live_line()
        span = line.say(speech)
        self.said.append(span)
        await self._until(lambda: line.seconds >= span.end, None, "the caller was interrupted")
        return span

    async def play(self, path: Path) -> Span:
        """Say what is in a WAV file."""
        return await self.say(await asyncio.to_thread(read_voice, path))

    async def dtmf(self, digits: str, *, gap: float = 0.2) -> None:
        """Press keys, `gap` seconds apart."""
        for digit in digits:
            self._live_line()
            assert self.session is not None
            self.session.press(digit)
            await self.listen(gap)

    async def listen(self, seconds: float) -> None:
        """Say nothing for a while, counted on the track clock."""
        line = self._live_line()
        until = line.seconds + seconds
        await self._until(lambda: line.seconds >= until, None, "the caller was interrupted")

    async def hang_up(self) -> None:
        """Put the phone down and wait until the call is over."""
        self.order_hang_up("the caller hung up", by="caller")
        await self.ended.wait()

    async def wait_agent_speaking(self, *, seconds: float = 0.0, timeout: float = SPOKEN_S) -> float:
        """Wait until the agent speaks, and has for `seconds`; gives where on the track it began.

        Raises:
            NotHeard: it did not in time.
            CallOver: the call ended first.
        """
        line = self._live_line()

        def speaking() -> bool:
            since = line.activity.speaking_since
            return since is not None and line.seconds - since >= seconds

        await self._until(speaking, timeout, "the agent did not speak")
        return line.activity.speaking_since or line.seconds

    async def wait_agent_silent(self, *, seconds: float = TURN_PAUSE_S, timeout: float = SPOKEN_S) -> float:
        """Wait until the agent has been silent for `seconds`; gives where on the track its last word ended.

        Raises:
            NotHeard: it talked on all the time.
            CallOver: the call ended first.
        """
        line = self._live_line()
        await self._until(lambda: line.activity.silent_for() >= seconds, timeout, "the agent did not fall silent")
        return line.activity.last_voiced or 0.0

    async def wait_agent_turn(self, *, seconds: float = TURN_PAUSE_S, timeout: float = SPOKEN_S) -> Span:
        """Wait until the agent has spoken and fallen silent again. Raises as the two waits above do."""
        began = await self.wait_agent_speaking(timeout=timeout)
        return Span(began, await self.wait_agent_silent(seconds=seconds, timeout=timeout))

    async def wait_over(self, *, timeout: float = SPOKEN_S) -> None:
        """Wait until the call has ended. Raises NotHeard when it goes on."""
        try:
            await asyncio.wait_for(self.ended.wait(), timeout)
        except TimeoutError as error:
            raise NotHeard(f"the call was not over within {timeout:g} s") from error

    async def repeat_webhook(self) -> Reply:
        """Post the incoming-call webhook once more, as a carrier does that lost the answer."""
        return await self.post(self._exchange.webhook_url, "POST", self._exchange.carrier.fields(self.card))

    def result(self) -> CallResult:
        """The call so far, measured. Its tracks are those of the latest media stream."""
        line, card = self.line, self.card
        empty = np.zeros(0, np.int16)
        conversation = line.conversation(self.answered_at) if line else Conversation(empty, empty)
        return CallResult(
            carrier=self._exchange.carrier.name,
            call_id=card.call_id,
            from_number=card.from_number,
            to_number=card.to_number,
            status=card.status,
            ended_by=card.ended_by,
            ended_how=self.ended_how,
            seconds=self.now,
            webhook_ms=self.webhook_ms,
            measures=measure(conversation),
            own_late_ms=spread([late * 1000 for late in line.lateness] if line else []),
            lost_frames=line.lost_frames if line else 0,
            errors=tuple(self.errors),
            transfers=tuple(self.transfers),
            carrier_said=tuple(self.carrier_said),
            callbacks=tuple(self.callbacks),
            caller=conversation.caller,
            agent=conversation.agent,
            arrivals=tuple(line.arrivals) if line else (),
            said=tuple(self.said),
        )

    def _live_line(self) -> Line:
        if self.line is None or self.session is None:
            raise CallOver(f"the call has no media stream: {self.ended_how or self.card.status}")
        return self.line

    async def _until(self, true: Callable[[], bool], timeout: float | None, otherwise: str) -> None:
        """Wait until it is true, looking whenever the line has moved on; the timeout counts on the track clock."""
        line = self._live_line()
        deadline = None if timeout is None else line.seconds + timeout
        while not true():
            if self.session is None or self.line is not line:
                raise CallOver(f"{otherwise}: {self.ended_how or 'the media stream ended'}")
            if deadline is not None and line.seconds >= deadline:
                raise NotHeard(f"{otherwise} within {timeout:g} s")
            await self.tick.wait()
