"""Anthropic's wire: the Messages API, streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fakes.web import (
    Answer,
    Call,
    Drop,
    End,
    LanguageServer,
    Raw,
    Refusal,
    Request,
    Silence,
    Text,
    Think,
    words,
)

__all__ = ["Call", "Drop", "End", "FakeAnthropic", "Raw", "Refusal", "Silence", "Text", "Think", "event"]


class FakeAnthropic(LanguageServer):
    """Serves /v1/messages and /v1/models; see LanguageServer for its arguments.

    Requests that the real one would refuse for the order of their messages are refused with 400 too.
    """

    async def answer(self, request: Request, answer: Answer) -> None:
        match (request.method, request.path):
            case ("GET", "/v1/models"):
                answer.json(200, {"data": [], "has_more": False, "first_id": None, "last_id": None})
            case ("POST", "/v1/messages"):
                await self._message(request, answer)
            case _:
                refuse(answer, Refusal(404, f"{request.path} is not served"))

    async def _message(self, request: Request, answer: Answer) -> None:
        body = request.json
        if fault := fault_in(body["messages"]):
            refuse(answer, Refusal(400, fault))
            return
        parts = self.reply_to(body["messages"])
        if isinstance(parts[0], Refusal):
            refuse(answer, parts[0])
            return
        answer.start("text/event-stream")
        size = len(json.dumps(body)) // 4
        cost = {"input_tokens": size, "output_tokens": 1, "cache_read_input_tokens": 10}
        start = {"id": "msg_fake", "type": "message", "role": "assistant", "model": "fake", "content": []}
        answer.piece(event("message_start", message={**start, "stop_reason": None, "usage": cost}))
        answer.piece(event("ping"))
        await self.first_token()
        reason, index, tokens = "end_turn", 0, 0
        for part in parts:
            match part:
                case Text(text):
                    block: dict[str, Any] = {"type": "text", "text": ""}
                    deltas = [{"type": "text_delta", "text": word} for word in words(text)]
                case Think(text, signature):
                    block = {"type": "thinking", "thinking": "", "signature": ""}
                    deltas = [
                        {"type": "thinking_delta", "thinking": text},
                        {"type": "signature_delta", "signature": signature},
                    ]
                case Call(name):
                    reason = "tool_use"
                    block = {"type": "tool_use", "id": part.id or f"toolu_{index}", "name": name, "input": {}}
                    pieces = [part.json[at : at + 5] for at in range(0, len(part.json), 5)]
                    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
                case _:
                    if await self.fault(part, answer):
                        return
                    continue
            answer.piece(event("content_block_start", index=index, content_block=block))
            for delta in deltas:
                answer.piece(event("content_block_delta", index=index, delta=delta))
                tokens += 1
                await self.next_token()
            answer.piece(event("content_block_stop", index=index))
            index += 1
        answer.piece(event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": tokens}))
        answer.piece(event("message_stop"))
        answer.end()
        await asyncio.sleep(0)


def event(kind: str, **content: Any) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **content})}\n\n".encode()


def refuse(answer: Answer, refusal: Refusal) -> None:
    headers = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:g}"}
    error = {"type": "error", "error": {"type": "fake_error", "message": refusal.message}}
    answer.json(refusal.status, error, headers)


def fault_in(messages: list[dict[str, Any]]) -> str:
    """What the Messages API would find wrong with a conversation; empty if nothing."""
    if not messages:
        return "messages: at least one message is required"
    if messages[0]["role"] != "user":
        return "messages: first message must use the user role"
    if messages[-1]["role"] != "user":
        return "This model does not support assistant message prefill"
    owed: set[str] = set()
    for at, message in enumerate(messages):
        if message["role"] not in ("user", "assistant"):
            return f"messages.{at}.role: unexpected {message['role']}"
        if at and messages[at - 1]["role"] == message["role"]:
            return f"messages.{at}: roles must alternate"
        blocks = message["content"] if isinstance(message["content"], list) else []
        if not message["content"] or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return f"messages.{at}: text content blocks must contain non-whitespace text"
        kinds = [block["type"] for block in blocks]
        if "tool_result" in kinds[len([kind for kind in kinds if kind == "tool_result"]) :]:
            return f"messages.{at}: tool_result blocks must come first"
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if owed != answered:
            return f"messages.{at}: tool_use ids without tool_result, or the other way round: {owed ^ answered}"
        owed = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if any(not set(id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for id in owed):
            return f"messages.{at}: tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    return ""
