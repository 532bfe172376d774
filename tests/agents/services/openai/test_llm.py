from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.openai import (
    CUT_JSON,
    GARBAGE,
    Call,
    Drop,
    End,
    FakeOpenAi,
    Raw,
    Refusal,
    Silence,
    Text,
    Think,
    delta,
    event,
)
from fakes.web import Answer, Request

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Delta, FunctionCall, FunctionSchema, Message, ServiceError, TextDelta, Usage
from offhook.agents.services.openai.llm import OpenAi
from offhook.agents.services.registry import make_service

ASKED: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
BOOK = FunctionSchema("book", "Book a day.", {"type": "object", "properties": {"day": {"type": "string"}}})


@asynccontextmanager
async def model(fake: FakeOpenAi, **settings: Any) -> AsyncIterator[OpenAi]:
    async with fake:
        service = OpenAi(
            OpenAi.Settings(service="openai", **{"base_url": f"{fake.url}/v1", "model": "fake", **settings})
        )
        try:
            yield service
        finally:
            await service.close()


async def replied(
    fake: FakeOpenAi, functions: Sequence[FunctionSchema] = (), messages: list[Message] = ASKED, **settings: Any
) -> list[Delta]:
    async with model(fake, **settings) as service:
        return [piece async for piece in service.reply(messages, functions)]


async def failed(fake: FakeOpenAi, **settings: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await replied(fake, **settings)
    return caught.value


def text_of(deltas: list[Delta]) -> str:
    return "".join(piece.text for piece in deltas if isinstance(piece, TextDelta))


def calls_of(deltas: list[Delta]) -> list[FunctionCall]:
    return [piece for piece in deltas if isinstance(piece, FunctionCall)]


def raw_calls(*fragments: dict[str, Any]) -> list[Raw]:
    return [Raw(delta({"tool_calls": [fragment]})) for fragment in fragments]


# --- what is asked


async def test_the_request_carries_the_settings() -> None:
    fake = FakeOpenAi()
    await replied(
        fake, [BOOK], temperature=0.3, max_tokens=50, options={"reasoning_effort": "none"}, headers={"x-team": "a"}
    )
    (request,) = fake.requests
    assert request.json == {
        "model": "fake",
        "messages": ASKED,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 50,
        "temperature": 0.3,
        "reasoning_effort": "none",
        "tools": [
            {
                "type": "function",
                "function": {"name": "book", "description": "Book a day.", "parameters": BOOK.parameters},
            }
        ],
    }
    assert request.headers["x-team"] == "a"


async def test_a_sparing_server_is_asked_for_nothing_it_may_not_know() -> None:
    fake = FakeOpenAi()
    await replied(fake, ask_usage=False, max_tokens=None)
    assert fake.requests[0].json == {"model": "fake", "messages": ASKED, "stream": True}


async def test_the_key_goes_along() -> None:
    fake = FakeOpenAi()
    await replied(fake, api_key="sk-1")
    assert fake.requests[0].headers["authorization"] == "Bearer sk-1"


async def test_our_key_for_openai_does_not_go_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    fake = FakeOpenAi()
    await replied(fake)
    assert "sk-secret" not in str(fake.requests[0].headers)


async def test_a_conversation_that_was_cut_is_repaired() -> None:
    fake = FakeOpenAi()
    cut: Message = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "book"}}]}
    await replied(fake, messages=[*ASKED, cut])
    assert [message["role"] for message in fake.requests[0].json["messages"]] == ["system", "user", "assistant", "tool"]


GREETED: list[Message] = [ASKED[0], {"role": "assistant", "content": "Hello."}, ASKED[1], ASKED[0]]


def strict(messages: list[Message]) -> Any:
    """As Gemma's chat template has it."""
    roles = [message["role"] for message in messages]
    if roles[:2] == ["system", "assistant"]:
        return Refusal(400, "Conversation roles must alternate user/assistant/user/assistant/...")
    return Text("Yes.")


async def test_a_model_that_wants_turns_gets_them_from_its_first_refusal_on() -> None:
    fake = FakeOpenAi(strict)
    async with model(fake) as service:
        for _ in range(2):
            assert text_of([piece async for piece in service.reply(GREETED)]) == "Yes."
    sent = [[message["role"] for message in request.json["messages"]] for request in fake.requests]
    assert sent[0] == ["system", "assistant", "user", "system"]
    assert sent[1] == sent[2] == ["system", "user", "assistant", "user"]


async def test_whether_to_take_turns_may_be_set() -> None:
    fake = FakeOpenAi(strict)
    assert text_of(await replied(fake, messages=GREETED, alternate=True)) == "Yes."
    assert len(fake.requests) == 1
    fake = FakeOpenAi(strict)
    with pytest.raises(ServiceError, match="roles must alternate"):
        await replied(fake, messages=GREETED, alternate=False)
    assert len(fake.requests) == 1


# --- what comes


async def test_text_comes_piece_by_piece_and_the_cost_last() -> None:
    deltas = await replied(FakeOpenAi([Text("Good morning to you.")]))
    assert deltas[:-1] == [TextDelta("Good"), TextDelta(" morning"), TextDelta(" to"), TextDelta(" you.")]
    assert isinstance(deltas[-1], Usage)
    assert deltas[-1].output_tokens == 4
    assert deltas[-1].cached_tokens == deltas[-1].input_tokens // 2 > 0


async def test_the_first_word_is_not_held_back() -> None:
    async with model(FakeOpenAi([[Text("Hello"), Silence()]])) as service:
        reply = service.reply(ASKED)
        started = time.monotonic()
        assert await anext(reply) == TextDelta("Hello")
        assert time.monotonic() - started < 1
        await reply.aclose()


async def test_reasoning_is_not_spoken() -> None:
    thoughts = [Think("He greets me."), Text("<think> I should greet him.\n</think>\n\nHello there.")]
    assert text_of(await replied(FakeOpenAi([thoughts]))) == "Hello there."
    late = FakeOpenAi([Text("So he greets. </think> Hello.")])
    assert text_of(await replied(late, begins_thinking=True)) == "Hello."
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello."}]
    assert text_of(await replied(FakeOpenAi([[Raw(delta({"content": parts}))]]))) == "Hello."


async def test_calls_are_put_together_from_fragments() -> None:
    fake = FakeOpenAi([[Text("One moment."), Call("book", {"day": "Monday"}), Call("book", {"day": "Friday"})]])
    deltas = await replied(fake, [BOOK])
    assert text_of(deltas) == "One moment."
    assert calls_of(deltas) == [
        FunctionCall("call_0_book", "book", '{"day": "Monday"}'),
        FunctionCall("call_1_book", "book", '{"day": "Friday"}'),
    ]


async def test_calls_do_not_wait_for_the_end_of_the_stream() -> None:
    fake = FakeOpenAi([[Call("book", {"day": "Monday"}), Raw(delta({}, finish="tool_calls")), Silence()]])
    async with model(fake) as service:
        reply = service.reply(ASKED, [BOOK])
        async with asyncio.timeout(2):
            assert await anext(reply) == FunctionCall("call_0_book", "book", '{"day": "Monday"}')
        await reply.aclose()


async def test_a_server_that_finishes_with_every_call_loses_none() -> None:
    parts = [Raw(delta({"tool_calls": [whole("a", "{}", index=0, id=id)]}, finish="tool_calls")) for id in ("1", "2")]
    assert [call.id for call in calls_of(await replied(FakeOpenAi([parts])))] == ["1", "2"]


def whole(name: str, arguments: object, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


ODD_CALLS = [
    pytest.param([whole("a", '{"x": 1}', index=0, id="1"), whole("a", '{"x": 2}', index=0, id="2")], id="same index"),
    pytest.param([whole("a", '{"x": 1}', index=0), whole("a", '{"x": 2}', index=0)], id="same index, no ids"),
    pytest.param([whole("a", '{"x": 1}', id="1"), whole("a", '{"x": 2}', id="2")], id="no index"),
    pytest.param([whole("a", '{"x": 1}', id=""), whole("a", '{"x": 2}', id="")], id="no index, empty ids"),
    pytest.param([whole("a", '{"x": 1}', index=0, id="c"), whole("a", '{"x": 2}', index=1, id="c")], id="same ids"),
    pytest.param([whole("a", {"x": 1}, index=0, id="1"), whole("a", {"x": 2}, index=1, id="2")], id="objects"),
    pytest.param(
        [
            whole("a", "", index=0, id="1"),
            whole("a", '{"x"', index=0, id="1"),
            whole("a", ": 1}", index=0, id="1"),
            whole("a", '{"x": 2}', index=1, id="2"),
        ],
        id="name and id in every fragment",
    ),
    pytest.param(
        [
            whole("a", None, index=0, id="1"),
            {"index": 1, "id": "2", "function": {"name": "a"}},
            {"index": 1, "function": {"name": None, "arguments": '{"x": 2}'}},
            {"index": 0, "function": {"arguments": '{"x": 1}'}},
        ],
        id="interleaved",
    ),
]


@pytest.mark.parametrize("fragments", ODD_CALLS)
async def test_calls_are_understood_however_a_server_sends_them(fragments: list[dict[str, Any]]) -> None:
    calls = calls_of(await replied(FakeOpenAi([raw_calls(*fragments)]), [BOOK]))
    assert [(call.name, call.arguments) for call in calls] == [("a", '{"x": 1}'), ("a", '{"x": 2}')]
    assert all(call.id for call in calls)
    assert calls[0].id != calls[1].id


@pytest.mark.parametrize("arguments", ["", None])
async def test_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    fake = FakeOpenAi([raw_calls(whole("hang_up", arguments, index=0, id="1"))])
    assert calls_of(await replied(fake)) == [FunctionCall("1", "hang_up", "{}")]


async def test_sparse_chunks_do_no_harm() -> None:
    odd = [
        Raw(event({"choices": [], "prompt_filter_results": []})),
        Raw(event({"choices": None})),
        Raw(event({"choices": [{"index": 0}]})),
        Raw(b": keep-alive\n\n"),
        Text("Hello."),
    ]
    assert text_of(await replied(FakeOpenAi([odd]))) == "Hello."


# --- faults


async def test_no_first_word_is_a_timeout() -> None:
    started = time.monotonic()
    fake = FakeOpenAi([Silence()])
    error = await failed(fake, timeout=0.1)
    assert error.kind == "timeout"
    assert time.monotonic() - started < 1
    assert fake.requests[0].gone.is_set()


async def test_reasoning_does_not_count_as_a_first_word() -> None:
    thoughts = [Think("hm") for _ in range(1000)]
    assert (await failed(FakeOpenAi([thoughts], token_interval=0.02), timeout=0.1)).kind == "timeout"


async def test_a_stall_in_the_midst_is_a_timeout() -> None:
    async with model(FakeOpenAi([[Text("Good mor"), Silence()]]), stall=0.1) as service:
        reply = service.reply(ASKED)
        assert await anext(reply) == TextDelta("Good")
        assert await anext(reply) == TextDelta(" mor")
        with pytest.raises(ServiceError, match=r"stalled for 0\.1 s"):
            await anext(reply)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Refusal(400), "rejected"),
        (Refusal(401), "rejected"),
        (Refusal(403), "rejected"),
        (Refusal(404), "rejected"),
        (Refusal(429), "rate_limited"),
        (Refusal(500), "unavailable"),
        (Refusal(503), "unavailable"),
        (Drop(), "unavailable"),
        ([Text("Good"), Drop()], "unavailable"),
        (GARBAGE, "bad_reply"),
        ([Text("Good"), CUT_JSON, End()], "bad_reply"),
        ([Text("Good"), End()], "bad_reply"),
        ([Call("book", {"day": "Monday"}), End()], "bad_reply"),
        (Raw(event({"error": {"message": "busy", "code": 503}})), "unavailable"),
        (Raw(event({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})), "rate_limited"),
    ],
)
async def test_a_fault_is_named(reply: Any, kind: str) -> None:
    assert (await failed(FakeOpenAi([reply]))).kind == kind


@pytest.mark.parametrize(
    "reply",
    [
        Raw(b"data: 5\n\n"),
        Raw(event({"choices": 5})),
        Raw(event({"choices": [{"delta": {"content": 5}}]})),
        Raw(event({"choices": [{"delta": {"tool_calls": ["a"]}}]})),
    ],
)
async def test_json_of_another_shape_is_a_bad_reply(reply: Raw) -> None:
    assert (await failed(FakeOpenAi([reply]))).kind == "bad_reply"


async def test_a_page_where_there_should_be_an_api_does_no_harm() -> None:
    class Page(FakeOpenAi):
        async def answer(self, request: Request, answer: Answer) -> None:
            answer.whole(200, b"<html>Welcome!</html>", {"content-type": "text/html"})

    async with model(Page()) as service:
        await service.warm()
        with pytest.raises(ServiceError) as caught:
            await anext(service.reply(ASKED))
        assert caught.value.kind == "bad_reply"


async def test_a_withheld_reply_is_rejected() -> None:
    withheld = [Raw(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]})), End()]
    assert (await failed(FakeOpenAi([withheld]))).kind == "rejected"


async def test_nothing_is_tried_again_in_here() -> None:
    fake = FakeOpenAi([Refusal(500)])
    await failed(fake)
    assert len(fake.requests) == 1


async def test_the_service_says_how_long_to_wait() -> None:
    error = await failed(FakeOpenAi([Refusal(429, "slow down", retry_after=7)]))
    assert error.retry_after == 7
    assert "slow down" in str(error)


async def test_nobody_there_is_unavailable() -> None:
    service = OpenAi(OpenAi.Settings(service="openai", base_url="http://127.0.0.1:9/v1", model="fake"))
    with pytest.raises(ServiceError) as caught:
        await anext(service.reply(ASKED))
    assert caught.value.kind == "unavailable"
    await service.warm()  # says so in the log and no more
    await service.close()


# --- connections


async def test_closing_the_reply_closes_the_request() -> None:
    fake = FakeOpenAi([Text("word " * 1000)], token_interval=0.01)
    async with model(fake) as service:
        reply = service.reply(ASKED)
        await anext(reply)
        started = time.monotonic()
        await reply.aclose()
        async with asyncio.timeout(1):
            await fake.requests[0].gone.wait()
        assert time.monotonic() - started < 0.1


async def test_cancelling_who_waits_for_the_first_word_closes_the_request() -> None:
    fake = FakeOpenAi([Silence()])
    async with model(fake) as service:
        waiting = asyncio.create_task(anext(service.reply(ASKED)))
        while not fake.requests:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1):
            await fake.requests[0].gone.wait()


async def test_replies_go_over_the_connection_that_was_warmed() -> None:
    fake = FakeOpenAi()
    async with model(fake) as service:
        await service.warm()
        for _ in range(3):
            assert [piece async for piece in service.reply(ASKED)]
    assert [request.path for request in fake.requests] == ["/v1/models", *["/v1/chat/completions"] * 3]
    assert fake.connections == 1


# --- settings


def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"llm\.api_key: missing"):
        make_service("llm", {"service": "openai"})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert make_service("llm", {"service": "openai"}).name == "openai"
    assert make_service("llm", {"service": "openai", "base_url": "https://eu.api.openai.com/v1"})


def test_what_cannot_work_is_told_at_once() -> None:
    with pytest.raises(
        SettingsError, match=r"llm\.model: missing: name the model that http://localhost:8000/v1 serves"
    ):
        make_service("llm", {"service": "openai", "base_url": "http://localhost:8000/v1"})
    with pytest.raises(SettingsError, match=r"llm\.base_url: .*write one like"):
        make_service("llm", {"service": "openai", "base_url": "localhost:8000"})
    with pytest.raises(SettingsError, match=r"llm\.api_key: it holds a sign"):
        make_service("llm", {"service": "openai", "api_key": "sk-\n1"})
    with pytest.raises(SettingsError, match=r"llm\.tempertature: .*temperature"):
        make_service("llm", {"service": "openai", "api_key": "sk-1", "tempertature": 1})


async def test_openai_is_asked_in_its_own_words() -> None:
    service = OpenAi(OpenAi.Settings(service="openai", api_key="sk-1"))
    request = service._request(ASKED, ())["extra_body"]
    assert request["max_completion_tokens"] == 1000
    assert "max_tokens" not in request
    assert "sk-1" not in repr(service.settings)
    await service.close()
