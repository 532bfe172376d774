"""A conversation in OpenAI's shape as Gemini takes it.

https://ai.google.dev/gemini-api/docs/function-calling
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from google.genai import types

from offhook.agents.services.base import FunctionSchema, Message
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT, arguments_of, repaired

UNSIGNED: Final = base64.urlsafe_b64decode("skip_thought_signature_validator")
"""Stands for a signature that was lost, or never made because another service made the call: Gemini 3 and later
refuse a call without any. As documented at https://ai.google.dev/gemini-api/docs/thought-signatures; the field is
base64 on the wire, and this is what becomes that very text there."""


class Signed(NamedTuple):
    """What came with the call of a function and goes back with it."""

    id: str | None
    "The service's own id; None where it gave none, then it wants none."
    signature: bytes | None
    "Of several calls made at once only the first has one."


def instruction_of(messages: Sequence[Message]) -> str:
    """The system messages at the beginning, as one text."""
    texts = []
    for message in repaired(messages):
        if message["role"] not in ("system", "developer"):
            break
        texts.append(_text(message["content"]))
    return "\n\n".join(text for text in texts if text)


def contents_of(
    messages: Sequence[Message], signed: Callable[[str], Signed | None], *, sign: bool
) -> list[types.Content]:
    """All but the system messages at the beginning.

    Caller and agent take turns, the caller first and last. A system message in the midst becomes the caller's, in a
    tag: the API knows none there.

    Args:
        messages: in OpenAI's shape.
        signed: what is known of the call with this id.
        sign: put a stand-in where the first call of a turn has no signature, as Gemini 3 and later ask for.
    """
    contents: list[types.Content] = []
    names: dict[str, str] = {}
    begun = False
    for message in repaired(messages):
        role, text = message["role"], _text(message.get("content"))
        if role in ("system", "developer"):
            if begun and text:
                _add(contents, "user", [types.Part(text=f"<system>\n{text}\n</system>")])
            continue
        begun = True
        if role == "tool":
            id = message["tool_call_id"]
            known = signed(id)
            answer = types.FunctionResponse(
                id=known.id if known else None, name=names.get(id, ""), response={"output": text}
            )
            _add(contents, "user", [types.Part(function_response=answer)])
        elif role == "assistant":
            parts = [types.Part(text=text)] if text else []
            for at, call in enumerate(message.get("tool_calls", ())):
                names[call["id"]] = call["function"]["name"]
                parts.append(_call(call, signed(call["id"]), stand_in=sign and at == 0))
            _add(contents, "model", parts)
        elif text:
            _add(contents, "user", [types.Part(text=text)])
    if not contents or contents[0].role != "user":
        contents.insert(0, types.Content(role="user", parts=[types.Part(text=CALLER_PRESENT)]))
    if contents[-1].role != "user":
        contents.append(types.Content(role="user", parts=[types.Part(text=CALLER_SILENT)]))
    return contents


def tool_of(functions: Sequence[FunctionSchema]) -> types.Tool:
    """The functions, as the API is told of them; one without parameters is told without their schema."""
    return types.Tool(
        function_declarations=[
            types.FunctionDeclaration(
                name=one.name,
                description=one.description,
                parameters_json_schema=one.parameters if one.parameters.get("properties") else None,
            )
            for one in functions
        ]
    )


def _add(contents: list[types.Content], role: str, parts: list[types.Part]) -> None:
    """Add to the turn that goes on. Results of functions stand alone: as many as there were calls must be in a turn."""
    last = contents[-1] if contents else None
    if last is not None and last.parts is not None and last.role == role and _results(last.parts) == _results(parts):
        last.parts += parts
    elif parts:
        contents.append(types.Content(role=role, parts=parts))


def _results(parts: list[types.Part]) -> bool:
    return bool(parts) and parts[0].function_response is not None


def _call(call: Message, known: Signed | None, *, stand_in: bool) -> types.Part:
    signature = known.signature if known else None
    if signature is None and stand_in:
        signature = UNSIGNED
    wanted = types.FunctionCall(id=known.id if known else None, name=call["function"]["name"], args=arguments_of(call))
    return types.Part(function_call=wanted, thought_signature=signature)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
