from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.gemini import Call, Drop, End, FakeGemini, Raw, Refusal, Silence, Text, Think, chunk
from fakes.web import Answer, Request

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Delta, FunctionCall, FunctionSchema, Message, ServiceError, TextDelta, Usage
from offhook.agents.services.gemini.llm import Gemini
from offhook.agents.services.registry import make_service

ASKED: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
BOOK = FunctionSchema("book", "Book a day.", {"type": "object", "properties": {"day": {"type": "string"}}})
HANG_UP = FunctionSchema("hang_up", "End the call.", {"type": "object", "properties": {}})


@asynccontextmanager
async def model(fake: FakeGemini, **settings: Any) -> AsyncIterator[Gemini]:
    async with fake:
        service = Gemini(Gemini.Settings(service="gemini", **{"base_url": fake.url, "api_key": "key", **settings}))
        try:
            yield service
        finally:
            await service.close()


async def replied(
    fake: FakeGemini, functions: Sequence[FunctionSchema] = (), messages: list[Message] = ASKED, **settings: Any
) -> list[Delta]:
    async with model(fake, **settings) as service:
        return [piece async for piece in service.reply(messages, functions)]


async def failed(fake: FakeGemini, **settings: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await replied(fake, **settings)
    return caught.value


def ended(reason: str) -> list[Any]:
    return [Raw(chunk([], finish=reason)), End()]


async def test_the_request_carries_the_settings() -> None:
    fake = FakeGemini()
    await replied(
        fake,
        [BOOK, HANG_UP],
        temperature=0.3,
        max_tokens=50,
        api_version="v1beta",
        options={"safetySettings": [], "generationConfig": {"topP": 0.9}},
        headers={"x-team": "a"},
    )
    (request,) = fake.requests
    body = request.json
    assert request.path == "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
    declared = body["tools"][0]["functionDeclarations"]
    assert [one["name"] for one in declared] == ["book", "hang_up"]
    assert declared[0]["parametersJsonSchema"] == BOOK.parameters
    assert "parametersJsonSchema" not in declared[1]
    assert body["contents"] == [{"role": "user", "parts": [{"text": "Hello?"}]}]
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert body["generationConfig"] == {
        "temperature": 0.3,
        "maxOutputTokens": 50,
        "topP": 0.9,
        "thinkingConfig": {"thinkingLevel": "LOW"},
    }
    assert body["safetySettings"] == []
    assert request.headers["x-goog-api-key"] == "key"
    assert request.headers["x-team"] == "a"


@pytest.mark.parametrize(
    ("name", "thinking", "config"),
    [
        ("gemini-2.5-flash", "minimal", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "high", None),
        ("gemini-2.0-flash", "low", None),
        ("gemini-flash-latest", "medium", {"thinkingLevel": "MEDIUM"}),
        ("gemini-3.8-flash", None, None),
    ],
)
async def test_each_generation_is_told_in_its_own_way_how_long_to_think(name: str, thinking: Any, config: Any) -> None:
    fake = FakeGemini()
    await replied(fake, model=name, thinking=thinking)
    assert fake.requests[0].json["generationConfig"].get("thinkingConfig") == config


async def test_text_comes_piece_by_piece_and_the_cost_last() -> None:
    deltas = await replied(FakeGemini([[Think("He greets."), Text("Good morning to you.")]]))
    assert deltas[:-1] == [TextDelta("Good"), TextDelta(" morning"), TextDelta(" to"), TextDelta(" you.")]
    cost = deltas[-1]
    assert isinstance(cost, Usage)
    assert (cost.output_tokens, cost.cached_tokens) == (4, 10)
    assert cost.input_tokens > 10


async def test_a_call_without_id_gets_one() -> None:
    fake = FakeGemini([[Call("book", {"day": "Montag – früh"}), Call("hang_up")]])
    first, second, _ = await replied(fake, [BOOK, HANG_UP])
    assert isinstance(first, FunctionCall)
    assert isinstance(second, FunctionCall)
    assert (first.name, json.loads(first.arguments)) == ("book", {"day": "Montag – früh"})
    assert (second.name, second.arguments) == ("hang_up", "{}")
    assert first.id
    assert first.id != second.id


async def test_signatures_and_ids_go_back_with_their_calls() -> None:
    fake = FakeGemini([[Think("Monday.", "c2lnbmVk"), Call("book", {"day": "Monday"}, id="fc-1"), Call("hang_up")]])
    async with model(fake) as service:
        calls = [piece async for piece in service.reply(ASKED, [BOOK]) if isinstance(piece, FunctionCall)]
        talk: list[Message] = [*ASKED, agent_calls(*calls)]
        talk += [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
        async for _ in service.reply(talk, [BOOK]):
            pass
    assert fake.requests[1].json["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "fc-1", "name": "book", "args": {"day": "Monday"}},
                    "thoughtSignature": "c2lnbmVk",
                },
                {"functionCall": {"name": "hang_up", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "fc-1", "name": "book", "response": {"output": "done"}}},
                {"functionResponse": {"name": "hang_up", "response": {"output": "done"}}},
            ],
        },
    ]


def agent_calls(*calls: FunctionCall) -> Message:
    wanted = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"role": "assistant", "content": None, "tool_calls": wanted}


@pytest.mark.parametrize(("name", "signature"), [("gemini-3.8-flash", True), ("gemini-2.5-flash", False)])
async def test_a_signature_that_was_lost_is_stood_in_for(name: str, signature: bool) -> None:
    fake = FakeGemini()
    talk = [*ASKED, agent_calls(FunctionCall("x", "book", "{}"), FunctionCall("y", "book", "{}"))]
    await replied(fake, messages=talk, model=name)
    parts = fake.requests[0].json["contents"][1]["parts"]
    expected = "skip_thought_signature_validator" if signature else None
    assert [part.get("thoughtSignature") for part in parts] == [expected, None]


async def test_no_first_word_is_a_timeout() -> None:
    started = time.monotonic()
    assert (await failed(FakeGemini([Silence()]), timeout=0.05)).kind == "timeout"
    thinking = FakeGemini([[*[Think("hm")] * 100, Text("Hi.")]], token_interval=0.02)
    assert (await failed(thinking, timeout=0.05)).kind == "timeout"
    assert time.monotonic() - started < 1


async def test_a_stall_in_the_midst_is_a_timeout() -> None:
    assert "stalled" in str(await failed(FakeGemini([[Text("Good mor"), Silence()]]), stall=0.1))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Refusal(400), "rejected"),
        (Refusal(403), "rejected"),
        (Refusal(429), "rate_limited"),
        (Refusal(500), "unavailable"),
        (Refusal(503), "unavailable"),
        (Drop(), "unavailable"),
        ([Text("Good"), Drop()], "unavailable"),
        (Raw(b"data: {{{ this is no JSON\r\n\r\n"), "bad_reply"),
        ([Text("Good"), Raw(b'data: {"candidates": [{"cont'), End()], "bad_reply"),
        ([Text("Good"), End()], "bad_reply"),
        (
            Raw(b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\r\n\r\n'),
            "unavailable",
        ),
        (Raw(b'data: {"promptFeedback": {"blockReason": "SAFETY"}}\r\n\r\n'), "rejected"),
        (ended("SAFETY"), "rejected"),
        (ended("MALFORMED_FUNCTION_CALL"), "bad_reply"),
    ],
)
async def test_a_fault_is_named(reply: Any, kind: str) -> None:
    assert (await failed(FakeGemini([reply]))).kind == kind


@pytest.mark.parametrize(
    "reply",
    [
        Raw(b"data: 5\r\n\r\n"),
        Raw(b'data: {"candidates": 5}\r\n\r\n'),
        Raw(b'data: {"candidates": [{"content": {"parts": 5}}]}\r\n\r\n'),
    ],
)
async def test_json_of_another_shape_is_a_bad_reply(reply: Raw) -> None:
    assert (await failed(FakeGemini([reply]))).kind == "bad_reply"


async def test_a_page_where_there_should_be_an_api_does_no_harm() -> None:
    class Page(FakeGemini):
        async def answer(self, request: Request, answer: Answer) -> None:
            answer.whole(200, b"<html>Welcome!</html>", {"content-type": "text/html"})

    async with model(Page()) as service:
        await service.warm()
        with pytest.raises(ServiceError) as caught:
            await anext(service.reply(ASKED))
        assert caught.value.kind == "bad_reply"


async def test_the_service_says_how_long_to_wait_and_nothing_is_tried_again_in_here() -> None:
    fake = FakeGemini([Refusal(429, "slow down", retry_after=31)])
    error = await failed(fake)
    assert error.retry_after == 31
    assert "slow down" in str(error)
    assert len(fake.requests) == 1


async def test_nobody_there_is_unavailable_at_once() -> None:
    service = Gemini(Gemini.Settings(service="gemini", base_url="http://127.0.0.1:9", api_key="x"))
    started = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        await anext(service.reply(ASKED))
    assert caught.value.kind == "unavailable"
    await service.warm()
    assert time.monotonic() - started < 1
    await service.close()


async def test_closing_the_reply_closes_the_request() -> None:
    fake = FakeGemini([Text("word " * 1000)], token_interval=0.01)
    async with model(fake) as service:
        reply = service.reply(ASKED)
        await anext(reply)
        started = time.monotonic()
        await reply.aclose()
        async with asyncio.timeout(1):
            await fake.requests[0].gone.wait()
        assert time.monotonic() - started < 0.1


async def test_cancelling_who_waits_for_the_first_word_closes_the_request() -> None:
    fake = FakeGemini([Silence()])
    async with model(fake) as service:
        waiting = asyncio.create_task(anext(service.reply(ASKED)))
        while not fake.requests:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1):
            await fake.requests[0].gone.wait()


async def test_replies_go_over_the_connection_that_was_warmed() -> None:
    fake = FakeGemini()
    async with model(fake) as service:
        await service.warm()
        for _ in range(3):
            assert [piece async for piece in service.reply(ASKED)]
    assert fake.connections == 1


def test_what_cannot_work_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"llm\.api_key: missing"):
        make_service("llm", {"service": "gemini"})
    with pytest.raises(SettingsError, match=r"llm\.project: missing: Vertex AI needs"):
        make_service("llm", {"service": "gemini", "vertexai": True})
    with pytest.raises(SettingsError, match=r"llm\.project: only Vertex AI"):
        make_service("llm", {"service": "gemini", "api_key": "x", "project": "p"})
    with pytest.raises(SettingsError, match=r"llm\.base_url: .*write one like"):
        make_service("llm", {"service": "gemini", "api_key": "x", "base_url": "proxy"})
    monkeypatch.setenv("GEMINI_API_KEY", "x")
    assert make_service("llm", {"service": "gemini"}).name == "gemini"


def test_vertex_ai_is_asked_in_its_region() -> None:
    service = make_service("llm", {"service": "gemini", "vertexai": True, "project": "p", "region": "europe-west4"})
    assert isinstance(service, Gemini)
    options = service._client._api_client._http_options
    assert options.base_url == "https://europe-west4-aiplatform.googleapis.com/"
