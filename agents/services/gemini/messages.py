"""A conversation in OpenAI's shape as Gemini takes it.

https://ai.google.dev/gemini-api/docs/function-calling
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from offhook.agents.services.base import FunctionSchema, Message
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT, arguments_of, in_tag, repaired

Content = dict[str, Any]
Part = dict[str, Any]

UNSIGNED: Final = "skip_thought_signature_validator"
"""Stands for a signature that was lost, or never made because another service made the call: Gemini 3 and later
refuse a call without any. Documented at https://ai.google.dev/gemini-api/docs/thought-signatures."""


class Signed(NamedTuple):
    """What came with the call of a function and goes back with it."""

    id: str | None
    "The service's own id; None where it gave none, then it wants none."
    signature: str | None
    "Base64. Of several calls made at once only the first has one."


def instruction_of(messages: Sequence[Message]) -> str:
    """The system messages at the beginning, as one text."""
    texts = []
    for message in repaired(messages):
        if message["role"] not in ("system", "developer"):
            break
        texts.append(_text(message["content"]))
    return "\n\n".join(text for text in texts if text)


def contents_of(messages: Sequence[Message], signed: Callable[[str], Signed | None], *, sign: bool) -> list[Content]:
    """All but the system messages at the beginning.

    Caller and agent take turns, the caller first and last. A system message in the midst becomes the caller's, in a
    tag: the API knows none there.

    Args:
        messages: in OpenAI's shape.
        signed: what is known of the call with this id.
        sign: put a stand-in where the first call of a turn has no signature, as Gemini 3 and later ask for.
    """
    contents: list[Content] = []
    names: dict[str, str] = {}
    begun = False
    for message in repaired(messages):
        role, text = message["role"], _text(message.get("content"))
        if role in ("system", "developer"):
            if begun and text:
                _add(contents, "user", [{"text": in_tag(text)}])
            continue
        begun = True
        if role == "tool":
            id = message["tool_call_id"]
            answer = {"name": names.get(id, ""), "response": {"output": text}, **_known_id(signed(id))}
            _add(contents, "user", [{"functionResponse": answer}])
        elif role == "assistant":
            parts: list[Part] = [{"text": text}] if text else []
            for at, call in enumerate(message.get("tool_calls", ())):
                names[call["id"]] = call["function"]["name"]
                parts.append(_call(call, signed(call["id"]), stand_in=sign and at == 0))
            _add(contents, "model", parts)
        elif text:
            _add(contents, "user", [{"text": text}])
    if not contents or contents[0]["role"] != "user":
        contents.insert(0, {"role": "user", "parts": [{"text": CALLER_PRESENT}]})
    if contents[-1]["role"] != "user":
        contents.append({"role": "user", "parts": [{"text": CALLER_SILENT}]})
    return contents


def tool_of(functions: Sequence[FunctionSchema]) -> dict[str, Any]:
    """The functions, as the API is told of them; one without parameters is told without their schema."""
    declared = []
    for one in functions:
        schema = {"parametersJsonSchema": one.parameters} if one.parameters.get("properties") else {}
        declared.append({"name": one.name, "description": one.description, **schema})
    return {"functionDeclarations": declared}


def _add(contents: list[Content], role: str, parts: list[Part]) -> None:
    """Add to the turn that goes on. Results of functions stand alone: as many as there were calls must be in a turn."""
    if not parts:
        return
    last = contents[-1] if contents else None
    if last is not None and last["role"] == role and _results(last["parts"]) == _results(parts):
        last["parts"] += parts
    else:
        contents.append({"role": role, "parts": parts})


def _results(parts: list[Part]) -> bool:
    return "functionResponse" in parts[0]


def _call(call: Message, known: Signed | None, *, stand_in: bool) -> Part:
    signature = (known.signature if known else None) or (UNSIGNED if stand_in else None)
    wanted = {"name": call["function"]["name"], "args": arguments_of(call), **_known_id(known)}
    return {"functionCall": wanted, **({"thoughtSignature": signature} if signature else {})}


def _known_id(known: Signed | None) -> dict[str, str]:
    return {"id": known.id} if known and known.id else {}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
