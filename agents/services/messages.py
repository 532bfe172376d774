"""Making a conversation one that vendors accept, whatever interruptions have done to it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

from offhook.agents.services.base import Message

NO_RESULT: Final = "There is no result: the function was cut off before it answered."
"""Stands for the result that a call of a function never got."""

CALLER_PRESENT: Final = "(The caller is on the line.)"
"""Opens, as the caller, a conversation in which the agent spoke first, for vendors that ask for that order."""

CALLER_SILENT: Final = "(The caller says nothing.)"
"""Closes, as the caller, a conversation that ends with the agent, for vendors that would else continue its text."""

KEYS: Final = ("role", "content", "name", "tool_calls", "tool_call_id")
"""What of a message goes to a vendor; some refuse what they do not know."""


def repaired(messages: Sequence[Message]) -> list[Message]:
    """Give the conversation such that it is accepted everywhere; the messages given are left as they are.

    * Every call of a function has exactly one result, right after the message that calls: a result that came later
      is moved up, a missing one is made up, one that belongs to no call is left out.
    * Arguments that are no JSON object become `{}`.
    * Messages that say nothing are left out, and so are keys that are not OpenAI's.
    """
    results: dict[int, Message] = {}  # by the position of the call: (message, call) counted through
    calls: list[tuple[str, int]] = []
    waiting: dict[str, list[int]] = {}
    for message in messages:
        if message.get("role") == "assistant":
            for call in message.get("tool_calls") or ():
                waiting.setdefault(call.get("id", ""), []).append(len(calls))
                calls.append((call.get("id", ""), len(calls)))
        elif message.get("role") == "tool" and (places := waiting.get(message.get("tool_call_id", ""))):
            results[places.pop(0)] = message

    done: list[Message] = []
    at = 0
    for message in messages:
        kept = {key: message[key] for key in KEYS if message.get(key) is not None}
        called = kept.pop("tool_calls", None) or []
        if kept.get("role") == "tool":
            continue
        if called:
            done.append(
                {**kept, "content": kept.get("content") or None, "tool_calls": [_sound(call) for call in called]}
            )
            for call in called:
                result = results.get(at)
                content = NO_RESULT if result is None else _text(result.get("content"))
                done.append({"role": "tool", "tool_call_id": call.get("id", ""), "content": content})
                at += 1
        elif kept.get("content"):
            done.append(kept)
    return done


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Let caller and agent take turns in a repaired conversation, the caller first and last.

    The templates of many open models refuse all else (Gemma, Mistral), or a system message that does not come first
    (Qwen). Those at the beginning become one; one in the midst becomes the caller's, in a tag.
    """
    prompt: list[str] = []
    turns: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content")
        if role in ("system", "developer"):
            if not turns:
                prompt.append(_text(content))
                continue
            message = {"role": "user", "content": in_tag(_text(content))}
        if turns and turns[-1]["role"] == message["role"] != "tool":
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": CALLER_PRESENT})
    if turns[-1]["role"] == "assistant":
        turns.append({"role": "user", "content": CALLER_SILENT})
    return [{"role": "system", "content": "\n\n".join(prompt)}, *turns] if prompt else turns


def in_tag(text: str) -> str:
    """An instruction that must go by as the caller's words, so that it is not taken for them."""
    return f"<system>\n{text}\n</system>"


def arguments_of(call: Message) -> dict[str, Any]:
    """The arguments of one of `tool_calls`; empty when they are no JSON object."""
    try:
        found = json.loads(call["function"]["arguments"])
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _joined(one: Message, other: Message) -> Message:
    """Two messages of one speaker as one. (After one with calls come their results, so only the second has any.)"""
    texts = [message["content"] for message in (one, other) if message.get("content")]
    if all(isinstance(text, str) for text in texts):
        content: Any = "\n\n".join(texts) or None
    else:
        content = [part for text in texts for part in (text if isinstance(text, list) else [_part(text)])]
    return {**one, **other, "content": content}


def _part(text: str) -> Message:
    return {"type": "text", "text": text}


def new_call_id() -> str:
    """An id for a call that came without one: nine letters and digits, which is what the strictest API takes."""
    return secrets.token_hex(5)[:9]


def _sound(call: Message) -> Message:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if not (isinstance(arguments, str) and (arguments == "{}" or arguments_of(call))):
        arguments = "{}"
    return {
        "id": call.get("id", ""),
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": arguments},
    }


def _text(content: object) -> str:
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
