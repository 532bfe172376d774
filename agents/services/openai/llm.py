"""Chat completions: OpenAI's own, and those of vLLM, Ollama, llama.cpp, Groq, Together and many more.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Literal

import openai
from openai.resources.chat.completions import AsyncCompletions
from pydantic import Field

from offhook.agents.services.access import without_secrets
from offhook.agents.services.base import (
    MAX_DETAIL,
    Delta,
    FunctionSchema,
    LanguageModel,
    Message,
    ServiceError,
    TextDelta,
    Usage,
)
from offhook.agents.services.http import Patience, log
from offhook.agents.services.messages import alternating, repaired
from offhook.agents.services.openai.calls import CallAssembly
from offhook.agents.services.openai.client import OpenAiSettings, make_client, model_of, translated, warm_up
from offhook.agents.services.reasoning import SpokenText

DEFAULT_MODEL: Final = "gpt-5.4-mini"
"""Answers without reasoning first, unless asked to."""

WANTS_TURNS: Final = re.compile(r"alternat|system (message|role)|after the optional system", re.IGNORECASE)
"""How servers quote a chat template that refuses the order of the messages, with status 400 or 500: "Conversation
roles must alternate user/assistant/user/assistant/..." (Gemma, Mistral), "System message must be at the beginning."
(Qwen)."""


class OpenAi(LanguageModel):
    """Any server that speaks OpenAI's chat completions."""

    class Settings(OpenAiSettings):
        """How the model is asked. What is not here goes into `options`, such as `reasoning_effort: none`."""

        temperature: float | None = Field(default=None, ge=0, le=2)
        """Not sent unless given: models that reason refuse it."""
        max_tokens: int | None = Field(default=1000, ge=1)
        """Longest reply. A thousand tokens are four minutes of speech; it ends models that never do."""
        max_tokens_key: Literal["max_tokens", "max_completion_tokens"] | None = None
        """What the server calls that; by itself the newer name for OpenAI's, the older one for others."""
        ask_usage: bool = True
        """Ask for the number of tokens; a few servers refuse the question."""
        alternate: bool | None = None
        """Let caller and agent take turns, and system messages come first only, as the templates of many open models
        demand. By itself so from the first refusal on that speaks of it."""
        begins_thinking: bool = False
        """The reply begins within reasoning that only `</think>` ends, as some chat templates have it."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._alternate = bool(settings.alternate)
        self._model = model_of("llm", settings, DEFAULT_MODEL)
        self._client = make_client("llm", settings)
        # By its type, which the SDK would else import on first use, for 40 ms.
        self._chat: AsyncCompletions = self._client.chat.completions

    async def warm(self) -> None:
        """Open a connection by asking for the list of models."""
        await warm_up(self.name, self._client)

    async def close(self) -> None:
        await self._client.close()

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        """See LanguageModel. Calls of functions come together, after the text."""
        patience = Patience(self.name, self.settings)
        reply = _Reply(self.name, self.settings.begins_thinking)
        request = self._request(messages, functions)
        with translated(self.name):
            stream = await self._stream(patience, request)
            try:
                while (chunk := await patience.wait(anext(stream, None))) is not None:
                    deltas = reply.read(chunk)
                    if reply.begun:
                        patience.begun()
                    for delta in deltas:
                        yield delta
            finally:
                await stream.close()
        for delta in reply.finished():
            yield delta

    async def _stream(self, patience: Patience, request: dict[str, Any]) -> Any:
        try:
            return await patience.wait(self._chat.create(**request))
        except openai.APIStatusError as error:
            given = request["extra_body"]["messages"]
            turns = alternating(given)
            if self.settings.alternate is False or turns == given or not WANTS_TURNS.search(error.message):
                raise
            self._alternate = True
            log.info("service.alternates", service=self.name, reason=without_secrets(error.message)[:MAX_DETAIL])
            request["extra_body"]["messages"] = turns
        return await patience.wait(self._chat.create(**request))

    def _request(self, messages: Sequence[Message], functions: Sequence[FunctionSchema]) -> dict[str, Any]:
        settings = self.settings
        key = settings.max_tokens_key or ("max_completion_tokens" if settings.official else "max_tokens")
        talk = repaired(messages)
        if self._alternate:
            talk = alternating(talk)
        body: dict[str, Any] = {"messages": talk}
        if settings.ask_usage:
            body["stream_options"] = {"include_usage": True}
        if settings.max_tokens is not None:
            body[key] = settings.max_tokens
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if functions:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": one.name, "description": one.description, "parameters": one.parameters},
                }
                for one in functions
            ]
        # As arguments the SDK would go over each message field by field: 0.4 ms of the event loop for every one.
        return {"model": self._model, "messages": [], "stream": True, "extra_body": {**body, **settings.options}}


class _Reply:
    """What has come of a reply so far. The SDK checks no types: what a server leaves out or nulls is None here."""

    def __init__(self, service: str, thinking: bool) -> None:
        self._service = service
        self._spoken = SpokenText(thinking=thinking)
        self._calls = CallAssembly()
        self._usage: Usage | None = None
        self._finish: str | None = None
        self.begun = False
        "There is text to speak, or a call of a function has begun."

    def read(self, chunk: Any) -> list[Delta]:
        """Take the next chunk and give what it completes. Calls are complete when the reply says that it is: some
        servers take their time from there to the end of the stream."""
        if (usage := chunk.usage) is not None:
            details = usage.prompt_tokens_details
            cached = details.cached_tokens if details is not None else None
            self._usage = Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cached or 0)
        text = ""
        for choice in chunk.choices or ():
            self._finish = choice.finish_reason or self._finish
            if choice.delta is None:
                continue
            text += self._spoken.feed(_text_of(choice.delta.content))
            for fragment in choice.delta.tool_calls or ():
                self._calls.feed(fragment)
                self.begun = True
        if self._finish is not None:
            text += self._spoken.end()
        self.begun = self.begun or bool(text)
        deltas: list[Delta] = [TextDelta(text)] if text else []
        if self._finish is not None:
            deltas += self._calls.take()
        return deltas

    def finished(self) -> list[Delta]:
        """What is left to give when the stream has ended.

        Raises:
            ServiceError: it ended before the reply did, or the reply was withheld.
        """
        if self._finish is None:
            raise ServiceError(self._service, "bad_reply", "the stream ended before the reply did (no finish_reason)")
        if self._finish == "content_filter" and not self.begun:
            raise ServiceError(self._service, "rejected", "the reply was withheld by the content filter")
        return [self._usage] if self._usage is not None else []


def _text_of(content: Any) -> str:
    """The text of a delta's content; Mistral's reasoning models send a list, with the reasoning apart."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""
