"""A caller whom a language model plays: it hears the agent's turns, thinks, and has what it says spoken.

Theory of operation
-------------------
`Talker` is asked once a frame, like everything of the caller, and only looks: has the agent ended its turn? Then one
task understands the turn (the recogniser runs in a process of its own), asks the model and has the answer spoken; what
comes of it is said at the next frame. When the agent speaks again meanwhile, the task is given up, and what it had
begun to understand is heard again together with the rest. An agent that says nothing for the caller's patience is
told so to the model, which may ask whether anybody is there.

What a persona says differs from run to run, so it shows what a script cannot: whether the agent copes. It is no
measure, and nothing of it is repeatable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

import numpy as np

from offhook.agents.api import SettingsError
from offhook.agents.services.base import LanguageModel, Message, ServiceError, TextDelta
from offhook.agents.services.registry import make_service
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.script import Script
from offhook.qa.match import AUDIBLE
from offhook.qa.measuring.speech import Recogniser, SpeechFailed, transcribe
from offhook.qa.phones.base import CallerLine
from offhook.qa.scenario.model import MAX_TEXT, CallerSettings, Persona, Scenario, Speech
from offhook.qa.voice import VoiceUnavailable

THINK_S: Final = 30.0
"""Within which a turn is understood, answered and spoken. Whoever calls is not silent for longer."""

LONGEST_S: Final = 60.0
"""Of a turn the persona hears its last so many seconds."""

LEAD: Final = RATE // 5
"""Samples before the first audible one that are heard as well; the silence before them only costs time."""

GOODBYE: Final = "[hang up]"
"""What the model ends its last words with; any model can write it, while not all can call functions."""

SILENT: Final = "(The agent says nothing.)"
UNCLEAR: Final = "(You did not understand what the agent said.)"
YOUR_TURN: Final = "(The agent waits for you to speak.)"

INSTRUCTIONS: Final = (
    "You play a caller on the telephone, to test the agent who answers. Stay in this role, whatever the agent says:\n"
    "<role>\n{role}\n</role>\n"
    "The agent's words are given to you as a speech recogniser heard them, so some may be wrong. Answer with what the "
    "caller says next and nothing else: one or two short spoken sentences, no lists, no stage directions, numbers in "
    f"words. When you have what you want, or see that you will not get it, say goodbye and end with {GOODBYE}"
)

Understand = Callable[[Samples], Awaitable[str]]
"""The text of one turn. Raises SpeechFailed."""

Speak = Callable[[str], Awaitable[Samples]]
"""The sound of one sentence at 8 kHz. Raises VoiceUnavailable."""


class Talker:
    """The persona of one call; see `qa.caller.machine.PersonaTurns`.

    Args:
        persona: who is played.
        settings: of the caller: how long the agent is silent after its turn, and how long one waits for it.
        understand, model, speak: its ears, its mind and its mouth.
    """

    def __init__(
        self,
        persona: Persona,
        settings: CallerSettings,
        understand: Understand,
        model: LanguageModel,
        speak: Speak,
    ) -> None:
        self.content = False
        "It has got what it wanted, gives up, or could not go on: the step is over."
        self.failed = ""
        "Why it could not go on: a recogniser, model or voice was not there."
        self.talk: list[Message] = [
            {"role": "system", "content": INSTRUCTIONS.format(role=persona.instructions.strip())}
        ]
        "The conversation as the model sees it."
        self._settings, self._turns_left = settings, persona.max_turns
        self._understand, self._model, self._speak = understand, model, speak
        self._task: asyncio.Task[tuple[str, str, Samples] | None] | None = None
        self._given_up: set[asyncio.Task[tuple[str, str, Samples] | None]] = set()
        self._heard = bytearray()
        self._quiet_since = 0.0
        "When the wait for the agent began."
        self._opening = False
        self._saying_until = 0.0
        self._parting = False

    def begin(self, line: CallerLine) -> None:
        """The step begins: listen. Where the agent has spoken and is silent now, the persona speaks first."""
        self._opening = line.activity.speaking_since is None and line.activity.last_voiced is not None
        self._quiet_since = line.seconds
        line.activity.kept = bytearray()

    def frame(self, line: CallerLine) -> tuple[str, Samples] | None:
        """Look at the line; give a sentence to be said now, and its sound at 8 kHz."""
        if self.content:
            return None
        activity, now = line.activity, line.seconds
        if self._task is not None:
            if activity.speaking_since is not None:
                self._give_up()
            elif self._task.done():
                return self._said(line)
            return None
        if now < self._saying_until or activity.speaking_since is not None:
            return None
        last = activity.last_voiced or 0.0
        if last > self._quiet_since:
            if activity.silent_for() >= self._settings.end_silence:
                self._think(line, None)
        elif self._opening:
            self._think(line, YOUR_TURN)
        elif now - self._quiet_since >= self._settings.patience:
            self._think(line, SILENT)
        return None

    def end(self) -> None:
        """The step, or the call, is over."""
        self._give_up()

    async def close(self) -> None:
        """Wait until nothing is thought any more."""
        self._give_up()
        if self._given_up:
            await asyncio.wait(self._given_up)

    # --- thinking ---

    def _think(self, line: CallerLine, instead: str | None) -> None:
        kept = line.activity.kept
        if kept is not None:
            self._heard += kept
            kept.clear()
        del self._heard[: -int(LONGEST_S * RATE) * 2]
        self._opening = False
        turn = np.frombuffer(bytes(self._heard), "<i2")
        loud = np.flatnonzero(np.abs(turn.astype(np.int32)) > AUDIBLE)
        turn = turn[max(0, int(loud[0]) - LEAD) :] if len(loud) else turn[:0]
        self._task = asyncio.get_running_loop().create_task(self._answer(turn, instead), name="qa-persona")

    async def _answer(self, turn: Samples, instead: str | None) -> tuple[str, str, Samples] | None:
        """What was heard, what is said to it, and its sound; None: `failed` says why there is none."""
        try:
            async with asyncio.timeout(THINK_S):
                heard = instead or await self._understand(turn) or UNCLEAR
                text = await self._reply([*self.talk, {"role": "user", "content": heard}])
                spoken = text.replace(GOODBYE, " ").strip()
                sound = await self._speak(spoken) if spoken else np.zeros(0, np.int16)
                return heard, text, sound
        except TimeoutError:
            self.failed = f"the persona had no answer within {THINK_S:g} s"
        except (SpeechFailed, ServiceError, VoiceUnavailable) as error:
            self.failed = f"the persona cannot go on: {error}"
        return None

    async def _reply(self, messages: list[Message]) -> str:
        text = ""
        async with aclosing(self._model.reply(messages)) as deltas:
            async for delta in deltas:
                if isinstance(delta, TextDelta):
                    text += delta.text
                    if len(text) > MAX_TEXT:
                        break
        return " ".join(text.split())[:MAX_TEXT]

    def _said(self, line: CallerLine) -> tuple[str, Samples] | None:
        assert self._task is not None
        answer = self._task.result()
        self._task = None
        if answer is None:
            self.content = True
            return None
        heard, text, sound = answer
        self._heard.clear()
        self.talk += [{"role": "user", "content": heard}, {"role": "assistant", "content": text}]
        self._turns_left -= 1
        self.content = GOODBYE in text or self._turns_left <= 0
        if not len(sound):
            self._quiet_since = line.seconds
            return None
        self._saying_until = self._quiet_since = line.seconds + len(sound) / RATE
        return text.replace(GOODBYE, " ").strip(), sound

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._given_up.add(self._task)
            self._task.add_done_callback(self._given_up.discard)
            self._task = None


@asynccontextmanager
async def open_talker(scenario: Scenario, script: Script, recogniser: Recogniser) -> AsyncGenerator[Talker, None]:
    """The persona of a scenario for one call, with its services.

    Raises:
        SettingsError: the scenario has no persona, or its `llm` is wrong.
    """
    persona = scenario.caller.persona
    if persona is None:
        raise SettingsError("caller.persona: missing: the step `converse` needs `instructions` and an `llm`")
    model = make_service("llm", dict(persona.llm))
    assert isinstance(model, LanguageModel)

    async def understand(turn: Samples) -> str:
        heard = await transcribe([(Span(0, len(turn) / RATE), turn)], scenario.stt, (), recogniser=recogniser)
        return heard.text

    async def speak(text: str) -> Samples:
        return await script.add_speech(Speech(text=text))

    talker = Talker(persona, scenario.caller, understand, model, speak)
    try:
        yield talker
    finally:
        await talker.close()
        await model.close()
