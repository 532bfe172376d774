from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.anthropic import Call, Drop, End, FakeAnthropic, Raw, Refusal, Silence, Text, Think, event
from fakes.web import Answer, Request

from offhook.agents.api import SettingsError
from offhook.agents.services.anthropic.llm import Anthropic
from offhook.agents.services.base import Delta, FunctionCall, FunctionSchema, Message, ServiceError, TextDelta, Usage
from offhook.agents.services.registry import make_service

ASKED: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
REFUSAL = Raw(event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 1}))
BOOK = FunctionSchema("book", "Book a day.", {"type": "object", "properties": {"day": {"type": "string"}}})


@asynccontextmanager
async def model(fake: FakeAnthropic, **settings: Any) -> AsyncIterator[Anthropic]:
    async with fake:
        service = Anthropic(
            Anthropic.Settings(service="anthropic", **{"base_url": fake.url, "api_key": "sk-ant", **settings})
        )
        try:
            yield service
        finally:
            await service.close()


async def replied(
    fake: FakeAnthropic, functions: Sequence[FunctionSchema] = (), messages: list[Message] = ASKED, **settings: Any
) -> list[Delta]:
    async with model(fake, **settings) as service:
        return [piece async for piece in service.reply(messages, functions)]


async def failed(fake: FakeAnthropic, **settings: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await replied(fake, **settings)
    return caught.value


async def test_the_request_carries_the_settings() -> None:
    fake = FakeAnthropic()
    await replied(fake, [BOOK], temperature=0.3, max_tokens=50, options={"top_k": 4}, headers={"x-team": "a"})
    (request,) = fake.requests
    cache = {"cache_control": {"type": "ephemeral"}}
    assert request.json == {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", **cache}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
        "tools": [{"name": "book", "description": "Book a day.", "input_schema": BOOK.parameters, **cache}],
        "thinking": {"type": "disabled"},
        "temperature": 0.3,
        "top_k": 4,
        "stream": True,
    }
    assert request.headers["authorization"] == "Bearer sk-ant"
    assert request.headers["x-team"] == "a"


async def test_text_comes_piece_by_piece_and_the_cost_last() -> None:
    fake = FakeAnthropic([Text("Good morning to you.")])
    deltas = await replied(fake)
    assert deltas[:-1] == [TextDelta("Good"), TextDelta(" morning"), TextDelta(" to"), TextDelta(" you.")]
    cost = deltas[-1]
    assert isinstance(cost, Usage)
    assert (cost.output_tokens, cost.cached_tokens) == (4, 10)
    assert cost.input_tokens > 10


async def test_calls_come_whole_after_the_text() -> None:
    fake = FakeAnthropic([[Text("One moment."), Call("book", {"day": "Monday"}), Call("hang_up", "")]])
    deltas = await replied(fake, [BOOK])
    assert deltas[:-1] == [
        TextDelta("One"),
        TextDelta(" moment."),
        FunctionCall("toolu_1", "book", '{"day": "Monday"}'),
        FunctionCall("toolu_2", "hang_up", "{}"),
    ]


async def test_reasoning_is_not_spoken_and_goes_back_with_its_call() -> None:
    fake = FakeAnthropic([[Think("He wants Monday.", "signed"), Call("book", {"day": "Monday"})], Text("Done.")])
    async with model(fake, thinking="adaptive") as service:
        call, *_ = [piece async for piece in service.reply(ASKED, [BOOK])]
        assert isinstance(call, FunctionCall)
        talk = [
            *ASKED,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "booked"},
        ]
        assert TextDelta("Done.") in [piece async for piece in service.reply(talk, [BOOK])]
    assert fake.requests[1].json["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "He wants Monday.", "signature": "signed"},
        {"type": "tool_use", "id": call.id, "name": "book", "input": {"day": "Monday"}},
    ]


async def test_no_first_word_is_a_timeout() -> None:
    started = time.monotonic()
    assert (await failed(FakeAnthropic([Silence()]), timeout=0.05)).kind == "timeout"
    thinking = FakeAnthropic([[*[Think("hm")] * 100, Text("Hi.")]], token_interval=0.02)
    assert (await failed(thinking, timeout=0.05)).kind == "timeout"
    assert time.monotonic() - started < 1


async def test_pings_do_not_hide_a_stall() -> None:
    pings = [Raw(event("ping"))] * 5
    assert "stalled" in str(await failed(FakeAnthropic([[Text("Good"), *pings, Silence()]]), stall=0.1))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Refusal(400), "rejected"),
        (Refusal(401), "rejected"),
        (Refusal(429), "rate_limited"),
        (Refusal(500), "unavailable"),
        (Refusal(529), "unavailable"),
        (Drop(), "unavailable"),
        ([Text("Good"), Drop()], "unavailable"),
        (Raw(b"event: content_block_start\ndata: {{{ this is no JSON\n\n"), "bad_reply"),
        ([Text("Good"), Raw(b'event: content_block_delta\ndata: {"type": "cont'), End()], "bad_reply"),
        ([Text("Good"), End()], "bad_reply"),
        (Raw(event("error", error={"type": "overloaded_error", "message": "Overloaded"})), "unavailable"),
        (Raw(event("error", error={"type": "rate_limit_error", "message": "Slow down"})), "rate_limited"),
        (
            [Raw(event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 1})), End()],
            "rejected",
        ),
    ],
)
async def test_a_fault_is_named(reply: Any, kind: str) -> None:
    assert (await failed(FakeAnthropic([reply]))).kind == kind


@pytest.mark.parametrize(
    "reply",
    [
        Raw(event("message_delta")),
        Raw(event("content_block_delta")),
        Raw(event("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"})),
        Raw(event("content_block_start", content_block=5)),
    ],
)
async def test_json_of_another_shape_is_a_bad_reply(reply: Raw) -> None:
    assert (await failed(FakeAnthropic([reply]))).kind == "bad_reply"


async def test_a_page_where_there_should_be_an_api_does_no_harm() -> None:
    class Page(FakeAnthropic):
        async def answer(self, request: Request, answer: Answer) -> None:
            answer.whole(200, b"<html>Welcome!</html>", {"content-type": "text/html"})

    async with model(Page()) as service:
        await service.warm()
        with pytest.raises(ServiceError) as caught:
            await anext(service.reply(ASKED))
        assert caught.value.kind == "bad_reply"


async def test_the_service_says_how_long_to_wait_and_nothing_is_tried_again_in_here() -> None:
    fake = FakeAnthropic([Refusal(429, "slow down", retry_after=7)])
    error = await failed(fake)
    assert error.retry_after == 7
    assert "slow down" in str(error)
    assert len(fake.requests) == 1


async def test_closing_the_reply_closes_the_request() -> None:
    fake = FakeAnthropic([Text("word " * 1000)], token_interval=0.01)
    async with model(fake) as service:
        reply = service.reply(ASKED)
        await anext(reply)
        started = time.monotonic()
        await reply.aclose()
        async with asyncio.timeout(1):
            await fake.requests[0].gone.wait()
        assert time.monotonic() - started < 0.1


async def test_replies_go_over_the_connection_that_was_warmed() -> None:
    fake = FakeAnthropic()
    async with model(fake) as service:
        await service.warm()
        for _ in range(3):
            assert [piece async for piece in service.reply(ASKED)]
    assert fake.connections == 1


async def test_nobody_there_is_unavailable() -> None:
    service = Anthropic(Anthropic.Settings(service="anthropic", base_url="http://127.0.0.1:9", api_key="x"))
    with pytest.raises(ServiceError) as caught:
        await anext(service.reply(ASKED))
    assert caught.value.kind == "unavailable"
    await service.warm()
    await service.close()


def test_what_cannot_work_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"llm\.api_key: missing"):
        make_service("llm", {"service": "anthropic"})
    with pytest.raises(SettingsError, match=r"llm\.base_url: .*write one like"):
        make_service("llm", {"service": "anthropic", "base_url": "proxy"})
    with pytest.raises(SettingsError, match=r"llm\.thinking"):
        make_service("llm", {"service": "anthropic", "api_key": "x", "thinking": "long"})
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    assert make_service("llm", {"service": "anthropic", "thinking": None}).name == "anthropic"
