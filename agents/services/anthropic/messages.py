"""A conversation in OpenAI's shape as the Messages API takes it.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from offhook.agents.services.base import FunctionSchema, Message
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT, arguments_of, in_tag, repaired

Block = dict[str, Any]

CACHED: Block = {"cache_control": {"type": "ephemeral"}}
"""Marks the end of what is the same in every request of a call."""


def system_of(messages: Sequence[Message], *, cache: bool) -> list[Block]:
    """The system messages at the beginning, as blocks."""
    blocks: list[Block] = []
    for message in repaired(messages):
        if message["role"] not in ("system", "developer"):
            break
        blocks += _texts(message["content"])
    if blocks and cache:
        blocks[-1] = {**blocks[-1], **CACHED}
    return blocks


def turns_of(messages: Sequence[Message], thoughts_before: Callable[[str], Sequence[Block] | None]) -> list[Message]:
    """All but the system messages at the beginning.

    Caller and agent take turns, the caller first and last; results of functions come first in the caller's. A system
    message in the midst becomes the caller's, in a tag: the API knows none there.

    Args:
        messages: in OpenAI's shape.
        thoughts_before: gives the blocks of reasoning that came before the call of a function with this id.
    """
    turns: list[Message] = []
    begun = False
    for message in repaired(messages):
        role, content = message["role"], message.get("content")
        if role in ("system", "developer"):
            if begun:
                _add(turns, "user", [_text(in_tag(block["text"])) for block in _texts(content)])
            continue
        begun = True
        if role == "tool":
            result = {"type": "tool_result", "tool_use_id": _id(message["tool_call_id"]), "content": content}
            _add(turns, "user", [result])
        elif role == "assistant":
            blocks = _texts(content)
            for at, call in enumerate(message.get("tool_calls", ())):
                thoughts = thoughts_before(call["id"]) or []
                blocks = [*blocks, *thoughts, _call(call)] if at else [*thoughts, *blocks, _call(call)]
            _add(turns, "assistant", blocks)
        else:
            _add(turns, "user", _texts(content))
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [_text(CALLER_PRESENT)]})
    if turns[-1]["role"] != "user":
        turns.append({"role": "user", "content": [_text(CALLER_SILENT)]})
    return turns


def tools_of(functions: Sequence[FunctionSchema], *, cache: bool) -> list[Block]:
    """The functions, as the API is told of them."""
    tools: list[Block] = [
        {"name": one.name, "description": one.description, "input_schema": one.parameters} for one in functions
    ]
    if tools and cache:
        tools[-1] = {**tools[-1], **CACHED}
    return tools


def _add(turns: list[Message], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _texts(content: Any) -> list[Block]:
    """Blocks of text; those of nothing but space are refused, so they stay out."""
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return [_text(part["text"]) for part in parts if isinstance(part.get("text"), str) and part["text"].strip()]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _call(call: Message) -> Block:
    return {
        "type": "tool_use",
        "id": _id(call["id"]),
        "name": call["function"]["name"],
        "input": arguments_of(call),
    }


def _id(id: str) -> str:
    """Ids that another service made may hold what this one refuses."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", id) or "_"
