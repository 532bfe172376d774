"""Listeners: models that hear both sides of a conversation beside the assistant, and may step in.

A listener is asked after each turn, in parallel with everything else, so that it never costs the caller time. While it
is still thinking about one turn the next ones wait, and it then hears them all at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from pydantic import BaseModel, Field, ValidationError

from offhook.agents.api import AgentCall
from offhook.agents.conversation.settings import ListenerSettings
from offhook.agents.services.base import (
    FunctionCall,
    FunctionSchema,
    LanguageModel,
    Message,
)

INSTRUCTIONS: Final = (
    "You listen to a telephone call between a caller and an agent; nobody hears you. "
    "Act through your functions alone, and only when there is reason to; otherwise answer with the word nothing."
)


class Inject(BaseModel):
    """Tell the agent something, which it takes into account from now on."""

    text: str = Field(max_length=2000, description="What the agent is to know or do.")
    now: bool = Field(default=False, description="True: it speaks at once, without waiting for the caller.")


class Score(BaseModel):
    """Put a figure into the record of the call."""

    name: str = Field(max_length=64, description="What is scored.")
    value: float
    reason: str = Field(default="", max_length=500)


class Stop(BaseModel):
    """End the call."""

    say: str = Field(default="", max_length=500, description="The last words to the caller.")
    reason: str = Field(max_length=500)


ACTIONS: Final[dict[str, type[BaseModel]]] = {"inject": Inject, "score": Score, "stop": Stop}


class Heeding(Protocol):
    """Who does what a listener wants."""

    def heed(self, listener: str, wish: BaseModel) -> None:
        """Carry out an Inject, Score or Stop."""


class Listener:
    """One listener on one call."""

    def __init__(self, settings: ListenerSettings, model: LanguageModel, call: AgentCall, owner: Heeding) -> None:
        self._settings, self._model, self._call, self._owner = settings, model, call, owner
        self._schemas = [
            FunctionSchema(name, ACTIONS[name].__doc__ or name, ACTIONS[name].model_json_schema())
            for name in settings.may
        ]
        self._waiting: Sequence[Message] | None = None
        self._task: asyncio.Task[None] | None = None

    def hear(self, messages: Sequence[Message]) -> None:
        """The conversation has gone on."""
        self._waiting = messages
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name=f"listener-{self._settings.name}")

    async def close(self) -> None:
        """The call is over; what it was thinking about is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _listen(self) -> None:
        while self._waiting is not None:
            messages, self._waiting = self._waiting, None
            try:
                await self._judge(messages)
            except Exception as error:  # a listener that fails must not be felt on the call
                self._call.note("listener_failed", listener=self._settings.name, error=str(error))

    async def _judge(self, messages: Sequence[Message]) -> None:
        said = "\n".join(f"{_who(message)}: {message['content']}" for message in messages if message.get("content"))
        request: list[Message] = [
            {"role": "system", "content": f"{INSTRUCTIONS}\n\n{self._settings.prompt}"},
            {"role": "user", "content": f"The call so far:\n{said}"},
        ]
        async with aclosing(self._model.reply(request, self._schemas)) as deltas:
            wishes = [delta async for delta in deltas if isinstance(delta, FunctionCall)]
        for wish in wishes:
            self._carry_out(wish)

    def _carry_out(self, wish: FunctionCall) -> None:
        action: Any = ACTIONS.get(wish.name) if wish.name in self._settings.may else None
        name = self._settings.name
        if action is None:
            self._call.note("listener_failed", listener=name, error=f"it may not {wish.name}")
            return
        try:
            wanted = action.model_validate_json(wish.arguments or "{}")
        except ValidationError as error:
            self._call.note("listener_failed", listener=name, error=f"{wish.name}: {error.errors()[0]['msg']}")
            return
        self._call.note("listener", listener=name, action=wish.name, wish=wanted.model_dump())
        self._owner.heed(name, wanted)


def _who(message: Message) -> str:
    return {"user": "caller", "assistant": "agent", "tool": "result of a function"}.get(message["role"], "note")
