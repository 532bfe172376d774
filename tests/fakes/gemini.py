"""Gemini's wire: streamGenerateContent as server-sent events."""

from __future__ import annotations

import json
import re
from typing import Any

from fakes.web import Answer, Call, Drop, End, LanguageServer, Raw, Refusal, Request, Silence, Text, Think, words

__all__ = ["Call", "Drop", "End", "FakeGemini", "Raw", "Refusal", "Silence", "Text", "Think", "chunk"]


class FakeGemini(LanguageServer):
    """Serves models/*:streamGenerateContent and models/*; see LanguageServer for the first arguments.

    A Think before a Call puts its signature on the call. Calls have the id they were scripted with, or none.
    """

    async def answer(self, request: Request, answer: Answer) -> None:
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith(":streamGenerateContent"):
            await self._generate(request, answer)
        elif request.method == "GET" and (found := re.search(r"/models/([^/]+)$", path)):
            answer.json(200, {"name": f"models/{found[1]}"})
        else:
            refuse(answer, Refusal(404, f"{path} is not served"))

    async def _generate(self, request: Request, answer: Answer) -> None:
        body = request.json
        if fault := fault_in(body["contents"]):
            refuse(answer, Refusal(400, fault))
            return
        parts = self.reply_to(body["contents"])
        if isinstance(parts[0], Refusal):
            refuse(answer, parts[0])
            return
        answer.start("text/event-stream")
        await self.first_token()
        tokens, signature = 0, ""
        for part in parts:
            match part:
                case Text(text):
                    for word in words(text):
                        answer.piece(chunk([{"text": word}]))
                        tokens += 1
                        await self.next_token()
                case Think(text):
                    signature = part.signature
                    answer.piece(chunk([{"text": text, "thought": True}]))
                    await self.next_token()
                case Call(name):
                    call = {"name": name, "args": json.loads(part.json), **({"id": part.id} if part.id else {})}
                    signed = {"thoughtSignature": signature} if signature else {}
                    answer.piece(chunk([{"functionCall": call, **signed}]))
                    signature = ""
                    tokens += 1
                    await self.next_token()
                case _:
                    if await self.fault(part, answer):
                        return
        size = len(json.dumps(body)) // 4
        usage = {"promptTokenCount": size, "candidatesTokenCount": tokens, "cachedContentTokenCount": 10}
        answer.piece(chunk([], finish="STOP", usageMetadata=usage))
        answer.end()


def chunk(parts: list[dict[str, Any]], finish: str | None = None, **more: Any) -> bytes:
    """One piece of a reply."""
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
    ended = {"finishReason": finish} if finish else {}
    return b"data: " + json.dumps({"candidates": [{**candidate, **ended}], **more}).encode() + b"\r\n\r\n"


def refuse(answer: Answer, refusal: Refusal) -> None:
    details = []
    if refusal.retry_after is not None:
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refusal.retry_after:g}s"}
        details.append(info)
    error = {"code": refusal.status, "message": refusal.message, "status": "FAKE", "details": details}
    answer.json(refusal.status, {"error": error})


def fault_in(contents: list[dict[str, Any]]) -> str:
    """What Gemini would find wrong with a conversation; empty if nothing."""
    if not contents:
        return "contents is not specified"
    if contents[0]["role"] != "user" or contents[-1]["role"] != "user":
        return "the conversation must begin and end with the user"
    owed: list[str] = []
    for content in contents:
        if not content.get("parts"):
            return "contents.parts must not be empty"
        results = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        if results != owed:
            return "the number of function response parts is not that of the function call parts"
        owed = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
    return ""
