"""Claude, by the Messages API.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import anthropic
import httpx2
from pydantic import Field, field_validator

from offhook.agents.api import SettingsError
from offhook.agents.services.access import ApiKey, Header, HttpUrl, plain_headers, role_key
from offhook.agents.services.anthropic.messages import Block, system_of, tools_of, turns_of
from offhook.agents.services.base import (
    Delta,
    FunctionCall,
    FunctionSchema,
    LanguageModel,
    Message,
    ServiceError,
    ServiceSettings,
    TextDelta,
    Usage,
)
from offhook.agents.services.http import MISSHAPEN, Patience, http_client, misread, refused, warmed
from offhook.agents.services.keepsakes import Keepsakes

ANTHROPIC: Final = "https://api.anthropic.com"

DEFAULT_MODEL: Final = "claude-haiku-4-5"
"""The quickest that answers without thinking first."""

STREAM_ERRORS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""What an error told in the midst of a stream would have been as a status; others are 500."""


class Anthropic(LanguageModel):
    """Claude at Anthropic, or at a gateway that speaks the Messages API."""

    class Settings(ServiceSettings):
        """How the model is asked. What is not here goes into `options`."""

        base_url: HttpUrl = ANTHROPIC
        """Without /v1."""
        api_key: ApiKey | None = None
        """Taken from the environment variable ANTHROPIC_API_KEY when it is not given."""
        model: str = DEFAULT_MODEL
        max_tokens: int = Field(default=1000, ge=1)
        """Longest reply, thinking included. A thousand tokens are four minutes of speech."""
        temperature: float | None = Field(default=None, ge=0, le=1)
        """Not sent unless given: the newer models refuse it."""
        thinking: Literal["disabled", "adaptive"] | None = "disabled"
        """A caller waits while a model thinks. None leaves it to the model, for those that refuse to be told."""
        cache: bool = True
        """Have the prompt and the functions kept at the service between the turns of a call (prompt caching)."""
        headers: dict[str, Header] = Field(default_factory=dict)
        """Sent with each request."""
        options: dict[str, Any] = Field(default_factory=dict)
        """Put into the body of each request as they are, over what we put there."""

        @field_validator("base_url")
        @classmethod
        def _root(cls, url: str) -> str:
            return url.removesuffix("/v1")

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        if settings.api_key is None and settings.base_url != ANTHROPIC:
            raise SettingsError("llm.api_key: missing: give the key of the server at base_url")
        key = role_key("llm", settings.api_key, "ANTHROPIC_API_KEY", "https://platform.claude.com/settings/keys")
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=settings.base_url,
            default_headers=plain_headers(settings.headers),
            max_retries=0,
            timeout=None,
            http_client=http_client(),
        )
        self._messages = self._client.messages  # loaded here, as that takes time, and not for the first caller
        self._thoughts: Keepsakes[list[Block]] = Keepsakes()

    async def warm(self) -> None:
        """Open a connection by asking for the list of models."""
        await warmed(self.name, self._models())

    async def close(self) -> None:
        await self._client.close()

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        """See LanguageModel. A call of a function comes as soon as it is whole."""
        patience = Patience(self.name, self.settings)
        reply = _Reply(self.name, self._thoughts)
        request = self._request(messages, functions)
        with _translated(self.name):
            stream: Any = await patience.wait(self._messages.create(**request))
            try:
                while (event := await patience.wait(anext(stream, None))) is not None:
                    delta = reply.read(event)
                    if reply.begun:
                        patience.begun()
                    if delta is not None:
                        yield delta
            finally:
                await stream.close()
        yield reply.finished()

    async def _models(self) -> None:
        with _translated(self.name):
            await self._client.models.list()

    def _request(self, messages: Sequence[Message], functions: Sequence[FunctionSchema]) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {"messages": turns_of(messages, self._thoughts.get)}
        if system := system_of(messages, cache=settings.cache):
            body["system"] = system
        if functions:
            body["tools"] = tools_of(functions, cache=settings.cache)
        if settings.thinking is not None:
            body["thinking"] = {"type": settings.thinking}
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        # As arguments the SDK would go over each message field by field, on the event loop; and it has no
        # `temperature` any more, though the models that take it are still served.
        return {
            "model": settings.model,
            "max_tokens": settings.max_tokens,
            "messages": [],
            "stream": True,
            "extra_body": {**body, **settings.options},
        }


class _Reply:
    """What has come of a reply so far. The SDK checks no types."""

    def __init__(self, service: str, thoughts: Keepsakes[list[Block]]) -> None:
        self._service = service
        self._thoughts = thoughts
        self._thought: list[Block] = []
        self._block: Block = {}
        self._arguments = ""
        self._input = self._cached = self._output = 0
        self._stop: str | None = None
        self.begun = False
        "There is text to speak, or a call of a function has begun."

    def read(self, event: Any) -> Delta | None:
        """Take the next event and give what it brings."""
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "content_block_start":
                self._block, self._arguments = event.content_block.model_dump(exclude_none=True), ""
                self.begun = self.begun or self._block["type"] == "tool_use"
                return self._text(self._block["text"]) if self._block["type"] == "text" else None
            case "content_block_delta":
                return self._delta(event.delta)
            case "content_block_stop":
                return self._ended()
            case "message_delta":
                self._stop = event.delta.stop_reason or self._stop
                self._count(event.usage)
        return None

    def _delta(self, delta: Any) -> Delta | None:
        match delta.type:
            case "text_delta":
                return self._text(delta.text)
            case "input_json_delta":
                self._arguments += delta.partial_json
            case "thinking_delta":
                self._block["thinking"] += delta.thinking
            case "signature_delta":
                self._block["signature"] = delta.signature
        return None

    def _text(self, text: str) -> TextDelta | None:
        self.begun = self.begun or bool(text)
        return TextDelta(text) if text else None

    def _ended(self) -> FunctionCall | None:
        block, self._block = self._block, {}
        if block.get("type") in ("thinking", "redacted_thinking"):
            self._thought.append(block)
        elif block.get("type") == "tool_use":
            if self._thought:
                self._thoughts.keep(block["id"], self._thought)
                self._thought = []
            return FunctionCall(block["id"], block["name"], self._arguments or json.dumps(block["input"]))
        return None

    def _count(self, usage: Any) -> None:
        """Counts are cumulative, and left out where they have not changed."""
        if usage is None:
            return
        if usage.input_tokens is not None:
            self._cached = usage.cache_read_input_tokens or 0
            self._input = usage.input_tokens + self._cached + (usage.cache_creation_input_tokens or 0)
        self._output = usage.output_tokens or self._output

    def finished(self) -> Usage:
        """What the reply cost.

        Raises:
            ServiceError: the stream ended before the reply did, or the reply was withheld.
        """
        if self._stop is None:
            raise ServiceError(self._service, "bad_reply", "the stream ended before the reply did (no stop_reason)")
        if self._stop == "refusal" and not self.begun:
            raise ServiceError(self._service, "rejected", "the model refused to answer")
        return Usage(self._input, self._output, self._cached)


@contextmanager
def _translated(service: str) -> Iterator[None]:
    """Raise ServiceError for what the SDK raises."""
    try:
        yield
    except anthropic.APIStatusError as error:
        # An error in the midst of a stream comes with the status of the stream, 200.
        status = error.status_code if error.status_code >= 400 else STREAM_ERRORS.get(str(error.type), 500)
        raise refused(service, status, error.api_message or error.message, error.response.headers) from error
    except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
        raise ServiceError(service, "timeout", str(error) or type(error).__name__) from error
    except (anthropic.APIConnectionError, httpx2.TransportError) as error:
        cause = error.__cause__ or error
        raise ServiceError(service, "unavailable", str(cause) or type(cause).__name__) from error
    except anthropic.APIError as error:
        raise ServiceError(service, "bad_reply", error) from error
    except MISSHAPEN as error:
        raise misread(service, error) from error
