"""OpenAI's wire, as its own servers and the many compatible ones speak it: chat, transcription, speech."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from fakes.web import (
    CUT_JSON,
    GARBAGE,
    Answer,
    Call,
    Drop,
    End,
    LanguageServer,
    Part,
    Raw,
    Refusal,
    Replies,
    Reply,
    Request,
    Silence,
    Text,
    Think,
    words,
)

__all__ = [
    "CUT_JSON",
    "GARBAGE",
    "Call",
    "Drop",
    "End",
    "FakeOpenAi",
    "Raw",
    "Refusal",
    "Reply",
    "Silence",
    "Text",
    "Think",
    "delta",
    "event",
    "form_of",
]

SECONDS_PER_CHARACTER = 0.06
"""Length of the tone that stands for speech: about what a voice takes."""

SPEECH_PIECE_MS = 100
"""How much speech goes out at a time."""


class FakeOpenAi(LanguageServer):
    """Serves /v1/chat/completions, /v1/audio/transcriptions, /v1/audio/speech and /v1/models.

    Args:
        replies, ttft, token_interval: see LanguageServer.
        transcripts: what is heard, one for each upload in turn, the last for all that follow; a Refusal, Silence or
            Drop is acted out.
        stt_delay: seconds from the upload to its transcript.
        ttfb: seconds from a text to its first audio.
        rate: samples a second of the speech.
        speech: parts acted out in place of the tone; Raw is audio.
        wav: put a WAV header before the speech, whatever format was asked for.
    """

    def __init__(
        self,
        replies: Replies = (),
        *,
        ttft: float = 0.0,
        token_interval: float = 0.0,
        transcripts: Sequence[str | Part] = ("Hello.",),
        stt_delay: float = 0.0,
        ttfb: float = 0.0,
        rate: int = 24000,
        speech: Sequence[Part] = (),
        wav: bool = False,
    ) -> None:
        super().__init__(replies, ttft=ttft, token_interval=token_interval)
        self.transcripts, self.stt_delay = list(transcripts), stt_delay
        self.ttfb, self.rate, self.speech, self.wav = ttfb, rate, list(speech), wav

    async def answer(self, request: Request, answer: Answer) -> None:
        match (request.method, request.path):
            case ("GET", "/v1/models"):
                answer.json(200, {"object": "list", "data": [{"id": "fake", "object": "model"}]})
            case ("POST", "/v1/chat/completions"):
                await self._chat(request, answer)
            case ("POST", "/v1/audio/transcriptions"):
                await self._transcribe(request, answer)
            case ("POST", "/v1/audio/speech"):
                await self._speak(request, answer)
            case _:
                refuse(answer, Refusal(404, f"{request.path} is not served"))

    # --- chat

    async def _chat(self, request: Request, answer: Answer) -> None:
        body = request.json
        parts = self.reply_to(body["messages"])
        if isinstance(parts[0], Refusal):
            refuse(answer, parts[0])
            return
        answer.start("text/event-stream")
        await self.first_token()
        calls = tokens = 0
        answer.piece(delta({"role": "assistant", "content": ""}))
        for part in parts:
            match part:
                case Text(text):
                    for word in words(text):
                        answer.piece(delta({"content": word}))
                        tokens += 1
                        await self.next_token()
                case Think(text):
                    answer.piece(delta({"reasoning_content": text}))
                    await self.next_token()
                case Call():
                    for fragment in fragments(part, calls):
                        answer.piece(delta({"tool_calls": [fragment]}))
                        tokens += 1
                        await self.next_token()
                    calls += 1
                case _:
                    if await self.fault(part, answer):
                        return
        answer.piece(delta({}, finish="tool_calls" if calls else "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            size = len(json.dumps(body["messages"])) // 4
            answer.piece(event({"choices": [], "usage": usage(size, tokens)}))
        answer.piece(b"data: [DONE]\n\n")
        answer.end()

    # --- transcription

    async def _transcribe(self, request: Request, answer: Answer) -> None:
        text = self.transcripts.pop(0) if len(self.transcripts) > 1 else self.transcripts[0]
        await asyncio.sleep(self.stt_delay)
        if isinstance(text, Refusal):
            refuse(answer, text)
        elif not isinstance(text, str):
            await self.fault(text, answer)
        elif form_of(request).get("stream") == b"true":
            answer.start("text/event-stream")
            for word in words(text):
                answer.piece(event({"type": "transcript.text.delta", "delta": word}))
                await self.next_token()
            answer.piece(event({"type": "transcript.text.done", "text": text}))
            answer.end()
        else:
            answer.json(200, {"text": text})

    # --- speech

    async def _speak(self, request: Request, answer: Answer) -> None:
        await asyncio.sleep(self.ttfb)
        if self.speech and isinstance(self.speech[0], Refusal):
            refuse(answer, self.speech[0])
            return
        answer.start("audio/pcm")
        if self.wav:
            answer.piece(wav_header(self.rate))
        for part in self.speech:
            if await self.fault(part, answer):
                return
        if not self.speech:
            audio = tone(len(request.json["input"]) * SECONDS_PER_CHARACTER, self.rate)
            step = self.rate * SPEECH_PIECE_MS // 1000 * 2
            for at in range(0, len(audio), step):
                answer.piece(audio[at : at + step])
        answer.end()


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(content: dict[str, Any], finish: str | None = None) -> bytes:
    """One chunk of a chat completion."""
    return event(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "fake",
            "choices": [{"index": 0, "delta": content, "finish_reason": finish}],
        }
    )


def fragments(call: Call, index: int) -> Iterable[dict[str, Any]]:
    """A function call the way OpenAI sends it: the name first, the arguments in small pieces."""
    id = call.id or f"call_{index}_{call.name}"
    yield {"index": index, "id": id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    for at in range(0, len(call.json), 5):
        yield {"index": index, "function": {"arguments": call.json[at : at + 5]}}


def usage(given: int, made: int) -> dict[str, Any]:
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": given // 2},
    }


def refuse(answer: Answer, refusal: Refusal) -> None:
    headers = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:g}"}
    answer.json(refusal.status, {"error": {"message": refusal.message, "type": "fake", "code": None}}, headers)


def form_of(request: Request) -> dict[str, bytes]:
    """The fields of a multipart form; the file is one of them (RFC 7578)."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    fields = {}
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        fields[name] = content.removesuffix(b"\r\n")
    return fields


def tone(seconds: float, rate: int) -> bytes:
    """A quiet 200 Hz tone, l16."""
    period = [int(3000 * math.sin(2 * math.pi * n * 200 / rate)) for n in range(rate // 200)]
    samples = int(seconds * rate)
    return (struct.pack(f"<{len(period)}h", *period) * (samples // len(period) + 1))[: samples * 2]


def wav_header(rate: int) -> bytes:
    """A header as servers write it that do not know the length yet."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        0xFFFFFFFF,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        rate * 2,
        2,
        16,
        b"data",
        0xFFFFFFFF,
    )
