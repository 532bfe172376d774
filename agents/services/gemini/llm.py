"""Gemini, by Google's own API or by Vertex AI in a chosen region.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

import httpx2
from google import genai
from google.auth.exceptions import GoogleAuthError, TransportError
from google.genai import errors, types
from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services.access import ApiKey, Header, HttpUrl, plain_headers, role_key, tls
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
from offhook.agents.services.gemini.messages import Signed, contents_of, instruction_of, tool_of
from offhook.agents.services.http import MISSHAPEN, Patience, http_client, misread, refused, warmed
from offhook.agents.services.keepsakes import Keepsakes
from offhook.agents.services.messages import CALLER_PRESENT, new_call_id

DEFAULT_MODEL: Final = "gemini-3.8-flash"

UNANSWERED: Final = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MISSING_THOUGHT_SIGNATURE",
}
"""Ends of a reply that the same request would come to again."""

MALFORMED: Final = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"}
"""Ends of a reply in which the model did not find the form."""


class Gemini(LanguageModel):
    """Gemini at Google."""

    class Settings(ServiceSettings):
        """How the model is asked. What is not here goes into `options`."""

        api_key: ApiKey | None = None
        """Taken from the environment variable GEMINI_API_KEY when it is not given."""
        vertexai: bool = False
        """Ask Vertex AI, with the host's Google credentials: the data stays in `region`."""
        project: str | None = None
        """Needed for Vertex AI."""
        region: str = "global"
        """Region of Vertex AI, such as europe-west4."""
        base_url: HttpUrl | None = None
        """Another address than Google's own."""
        api_version: str | None = None
        """Such as v1beta; by itself what the SDK takes."""
        model: str = DEFAULT_MODEL
        max_tokens: int | None = Field(default=2000, ge=1)
        """Longest reply, thinking included. A thousand tokens are four minutes of speech."""
        temperature: float | None = Field(default=None, ge=0, le=2)
        """Not sent unless given: Google advises against it from Gemini 3 on."""
        thinking: Literal["minimal", "low", "medium", "high"] | None = "low"
        """A caller waits while a model thinks. `minimal` is refused by some; None leaves it to the model."""
        headers: dict[str, Header] = Field(default_factory=dict)
        """Sent with each request."""
        options: dict[str, Any] = Field(default_factory=dict)
        """Put into the body of each request as they are, over what we put there, such as `safetySettings`. Objects
        are merged: `generationConfig: {topP: 0.9}`."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        access = self._access(settings)
        self._http = http_client()
        self._http.event_hooks = {"response": [_note]}
        self._client = genai.Client(
            **access,
            http_options=types.HttpOptions(
                base_url=settings.base_url,
                api_version=settings.api_version,
                headers=plain_headers(settings.headers),
                httpx_async_client=self._http,
                client_args={"verify": tls()},  # else the SDK reads the certificates twice more
                async_client_args={"ssl": tls()},
                # One attempt, told in so many words: without it the SDK sleeps for seconds before a second.
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        version = re.match(r"(?:models/)?gemini-(\d+)", settings.model)
        self._generation = int(version[1]) if version else 3
        "Names without a number, such as gemini-flash-latest, are of the newest models."
        self._signed: Keepsakes[Signed] = Keepsakes()

    async def warm(self) -> None:
        """Open a connection by asking about the model, and have the SDK's types ready, which takes it 0.1 s."""
        await asyncio.to_thread(_build_types)
        await warmed(self.name, self._model())

    async def close(self) -> None:
        await self._client.aio.aclose()
        await self._http.aclose()
        self._client.close()

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        """See LanguageModel. A call of a function comes as soon as the service has sent it, which it does whole."""
        patience = Patience(self.name, self.settings)
        reply = _Reply(self.name, self._signed)
        # As arguments the SDK would go over each message field by field: 0.5 ms of the event loop for every one.
        config = types.GenerateContentConfig(
            http_options=types.HttpOptions(extra_body=self._body(messages, functions)),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        with _translated(self.name):
            stream: Any = await patience.wait(
                self._client.aio.models.generate_content_stream(
                    model=self.settings.model, contents=CALLER_PRESENT, config=config
                )
            )
            responses: list[httpx2.Response] = []
            try:
                while (chunk := await patience.wait(_next(stream, responses))) is not None:
                    for delta in reply.read(chunk):
                        patience.begun()
                        yield delta
            finally:
                for response in responses:
                    await response.aclose()
                await stream.aclose()
        yield reply.finished()

    async def _model(self) -> None:
        with _translated(self.name):
            await self._client.aio.models.get(model=self.settings.model)

    def _body(self, messages: Sequence[Message], functions: Sequence[FunctionSchema]) -> dict[str, Any]:
        settings = self.settings
        chosen = {
            "temperature": settings.temperature,
            "maxOutputTokens": settings.max_tokens,
            "thinkingConfig": self._thinking(),
        }
        body: dict[str, Any] = {
            "contents": contents_of(messages, self._signed.get, sign=self._generation >= 3),
            "generationConfig": {name: value for name, value in chosen.items() if value is not None},
        }
        if instruction := instruction_of(messages):
            body["systemInstruction"] = {"parts": [{"text": instruction}]}
        if functions:
            body["tools"] = [tool_of(functions)]
        for name, value in settings.options.items():
            ours = body.get(name)
            body[name] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, dict) else value
        return body

    def _thinking(self) -> dict[str, Any] | None:
        level = self.settings.thinking
        if level is None:
            return None
        if self._generation >= 3:
            return {"thinkingLevel": level.upper()}
        # Gemini 2.5 counts tokens instead; before it there was no thinking.
        if "2.5" in self.settings.model and level in ("minimal", "low"):
            return {"thinkingBudget": 0}
        return None

    @staticmethod
    def _access(settings: Settings) -> dict[str, Any]:
        """The arguments that let the SDK in."""
        if settings.vertexai:
            if not settings.project:
                raise SettingsError("llm.project: missing: Vertex AI needs the id of the Google Cloud project")
            return {"vertexai": True, "project": settings.project, "location": settings.region}
        if settings.project:
            raise SettingsError("llm.project: only Vertex AI has projects: set vertexai: true, or leave it out")
        key = role_key(
            "llm",
            settings.api_key,
            "GEMINI_API_KEY",
            "https://aistudio.google.com/apikey",
            otherwise="; for Vertex AI set vertexai: true",
        )
        return {"vertexai": False, "api_key": key}


def _build_types() -> None:
    """Use each once: they are built on first use, nested ones too."""
    types.GenerateContentConfig(http_options=types.HttpOptions())
    types.GenerateContentResponse.model_validate({"candidates": [{"content": {"parts": [{"text": ""}]}}]})


_opened: ContextVar[list[httpx2.Response] | None] = ContextVar("_opened", default=None)
"""Where to note the responses that come while one reply is waited for."""


async def _note(response: httpx2.Response) -> None:
    if (opened := _opened.get()) is not None:
        opened.append(response)


async def _next(stream: Any, responses: list[httpx2.Response]) -> Any:
    """The next chunk, or None; `responses` is told what it comes from.

    The SDK's stream is a generator over others, and leaves it to the garbage collector to close the innermost, which
    holds the response: a reply that nobody wants would be generated, and paid for, to its end.
    """
    token = _opened.set(responses)
    try:
        return await anext(stream, None)
    finally:
        _opened.reset(token)


class _Reply:
    """What has come of a reply so far."""

    def __init__(self, service: str, signed: Keepsakes[Signed]) -> None:
        self._service = service
        self._signed = signed
        self._begun = False
        self._finish: str | None = None
        self._usage = Usage(0, 0)

    def read(self, chunk: types.GenerateContentResponse) -> Iterator[Delta]:
        """Take the next chunk and give what it brings.

        Raises:
            ServiceError: the request was not let through to the model.
        """
        if (count := chunk.usage_metadata) is not None:
            made = (count.candidates_token_count or 0) + (count.thoughts_token_count or 0)
            self._usage = Usage(count.prompt_token_count or 0, made, count.cached_content_token_count or 0)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            raise ServiceError(
                self._service, "rejected", f"the request was blocked: {chunk.prompt_feedback.block_reason.value}"
            )
        for candidate in chunk.candidates or ():
            if candidate.finish_reason is not None:
                self._finish = candidate.finish_reason.value
            parts = candidate.content.parts if candidate.content is not None else None
            for part in parts or ():
                if part.function_call is not None:
                    self._begun = True
                    yield self._call(part.function_call, part.thought_signature)
                elif part.text and not part.thought:
                    self._begun = True
                    yield TextDelta(part.text)

    def _call(self, call: types.FunctionCall, signature: bytes | None) -> FunctionCall:
        id = call.id or new_call_id()
        if call.id or signature:
            text = base64.urlsafe_b64encode(signature).decode() if signature else None
            self._signed.keep(id, Signed(call.id, text))
        return FunctionCall(id, call.name or "", json.dumps(call.args or {}, ensure_ascii=False))

    def finished(self) -> Usage:
        """What the reply cost.

        Raises:
            ServiceError: the stream ended before the reply did, or the reply was withheld or malformed.
        """
        if self._finish is None:
            raise ServiceError(self._service, "bad_reply", "the stream ended before the reply did (no finishReason)")
        if self._finish in MALFORMED:
            raise ServiceError(self._service, "bad_reply", f"the reply ended with {self._finish}")
        if self._finish in UNANSWERED and not self._begun:
            raise ServiceError(self._service, "rejected", f"the reply was withheld: {self._finish}")
        return self._usage


@contextmanager
def _translated(service: str) -> Iterator[None]:
    """Raise ServiceError for what the SDK raises."""
    try:
        yield
    except errors.APIError as error:
        headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
        fault = refused(service, error.code or 500, error.message or error.status or error, headers)
        fault.retry_after = fault.retry_after or _retry_delay(error.details)
        raise fault from error
    except httpx2.TimeoutException as error:
        raise ServiceError(service, "timeout", str(error) or type(error).__name__) from error
    except (httpx2.TransportError, TransportError) as error:
        raise ServiceError(service, "unavailable", str(error) or type(error).__name__) from error
    except GoogleAuthError as error:
        raise ServiceError(service, "rejected", f"no access with the host's credentials: {error}") from error
    except MISSHAPEN as error:
        raise misread(service, error) from error


def _retry_delay(details: Any) -> float:
    """Seconds to wait by google.rpc.RetryInfo in the body of a 429 (`"retryDelay": "31s"`); 0 without it."""
    error = details.get("error") if isinstance(details, dict) else None
    for detail in (error.get("details") or ()) if isinstance(error, dict) else ():
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", ""))):
            return float(found[1])
    return 0.0
