"""Functions behind HTTP endpoints: what is sent, what the model gets of the answer, and of every kind of failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from fakes.control import FakeControl

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import Function, FunctionFailed
from offhook.agents.functions.http import HttpPool, http_function
from offhook.agents.link import CallInfo

pytestmark = pytest.mark.own_tasks("the fixture `endpoint` ends its server's tasks")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoint:
    """A server on loopback that keeps what it was asked and answers as the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.answer: Answer | None = None
        self.pool = HttpPool()
        self.connections: set[Any] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        parsed = json.loads(body) if body and request.content_type == "application/json" else body
        self.asked.append((request.method, request.path_qs, dict(request.headers), parsed))
        self.connections.add(request.transport)
        return await self.answer(request) if self.answer is not None else web.json_response({"ok": [1, 2]})

    def function(self, **settings: Any) -> Function:
        filled = {"name": "look", "description": "Look.", "url": self.url + "/look", **settings}
        return http_function(filled, self.pool)

    async def call(self, arguments: dict[str, Any], **settings: Any) -> Any:
        return await self.function(**settings).call(arguments, FakeControl())


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    found = Endpoint()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await found.pool.close()
    await runner.cleanup()


def answers(status: int, text: str = "", **options: Any) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=text.encode(), **options)

    return answer


async def test_arguments_go_into_a_json_object(endpoint: Endpoint) -> None:
    result = await endpoint.call(
        {"city": "Köln", "days": "3"},
        parameters={"city": "string", "days": "optional integer", "units": "optional string"},
    )
    assert result == '{"ok":[1,2]}'
    [(method, path, headers, body)] = endpoint.asked
    assert (method, path, body) == ("POST", "/look", {"city": "Köln", "days": 3})
    assert (headers["X-Offhook-Call-Id"], headers["X-Offhook-From"], headers["X-Offhook-To"]) == (
        "call-1", "+15550123", "+15550100",
    )  # fmt: skip


async def test_arguments_of_a_get_go_into_the_query(endpoint: Endpoint) -> None:
    await endpoint.call(
        {"city": "a b&c=d", "day": "x/../y", "exact": True},
        method="get",
        url=endpoint.url + "/look/{day}?lang=en",
        query={"units": "metric", "n": 3, "near": "{near}"},
        parameters={"city": "string", "day": "string", "exact": "boolean", "near": "optional string"},
        send_call="fields",
    )
    [(method, path, headers, body)] = endpoint.asked
    assert (method, body) == ("GET", "")
    assert path == (
        "/look/x%2F..%2Fy?lang=en&units=metric&n=3&city=a+b%26c%3Dd&exact=true"
        "&call_id=call-1&from_number=%2B15550123&to_number=%2B15550100"
    )
    assert "X-Offhook-From" not in headers


async def test_a_template_says_what_is_sent(endpoint: Endpoint) -> None:
    body = {
        "order": {"id": "{id}", "text": "No. {id} of {call.from}", "urgent": "{urgent}", "fixed": 1},
        "tags": ["phone", "{tag}"],
    }
    parameters = {"id": "integer", "urgent": "optional boolean", "tag": "optional string", "unused": "optional string"}
    await endpoint.call({"id": 7, "unused": "x"}, body=body, parameters=parameters, method="PUT", send_call="fields")
    [(method, _, _, sent)] = endpoint.asked
    assert (method, sent) == (
        "PUT",
        {
            "order": {"id": 7, "text": "No. 7 of +15550123", "fixed": 1},
            "tags": ["phone"],
            "call_id": "call-1",
            "from_number": "+15550123",
            "to_number": "+15550100",
        },
    )
    await endpoint.call({}, body="hello {call.id}", headers={"Content-Type": "text/x-greeting"}, send_call="none")
    assert endpoint.asked[1][3] == "hello call-1"
    assert endpoint.asked[1][2]["Content-Type"] == "text/x-greeting"


def test_what_the_model_is_told() -> None:
    settings = {"name": "look", "description": "Look.", "url": "http://h/", "filler": "Hm.", "timeout": 3, "keep": True}
    short = http_function({**settings, "parameters": {"a": "integer", "b": {"enum": ["x"], "default": "x"}}})
    assert short.schema.parameters == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"], "default": "x"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert (short.filler, short.timeout, short.keep) == (("Hm.",), 4.0, True)
    whole = {"type": "object", "properties": {"type": {"type": "string"}}}
    assert http_function({**settings, "parameters": whole}).schema.parameters == whole


async def test_wrong_arguments_never_reach_the_endpoint(endpoint: Endpoint) -> None:
    parameters = {"city": "string", "days": "integer", "kind": {"type": "string", "enum": ["a", "b"]}}
    with pytest.raises(FunctionFailed) as failed:
        await endpoint.call({"days": "many", "kind": "c", "more": 1}, parameters=parameters)
    assert str(failed.value) == (
        "Wrong arguments: city: is missing; days: input should be a valid integer, unable to parse string as an "
        "integer; kind: input should be 'a' or 'b'; more: is not known. Correct them and call look again."
    )
    for wrong in ("", ".", ".."):
        with pytest.raises(FunctionFailed, match="cannot stand in an address"):
            await endpoint.call({"id": wrong}, url=endpoint.url + "/{id}/x", parameters={"id": "string"})
    assert endpoint.asked == []


async def test_a_long_answer_is_cut(endpoint: Endpoint) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 1000)
                sent += 1000
        except OSError:
            return response

    endpoint.answer = endless
    result = await endpoint.call({})
    assert result == "x" * 8000 + "\n[cut: only the first 8000 bytes of the answer]"
    await endpoint.pool.close()
    assert sent < 20_000_000


async def test_answers_that_are_odd(endpoint: Endpoint) -> None:
    for answer, said in (
        (answers(204), ""),
        (answers(200, "plain\n text"), "plain\n text"),
        (answers(200, "{broken", content_type="application/json"), "{broken"),
        (answers(200, "<a/>", headers={"Content-Type": "application/xml; charset=no-such"}), "<a/>"),
    ):
        endpoint.answer = answer
        assert await endpoint.call({}) == said

    async def picture(request: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG\0", content_type="image/png")

    endpoint.answer = picture
    assert await endpoint.call({}) == "[an answer of type image/png, which is no text]"


async def test_a_refusal_is_told_without_our_secrets(endpoint: Endpoint) -> None:
    endpoint.answer = answers(403, "key  s3cret-key and Bearer t0ken-t0ken\nof metric " + "x" * 500)
    with pytest.raises(FunctionFailed) as failed:
        await endpoint.call(
            {},
            headers={"Authorization": "Bearer t0ken-t0ken"},
            query={"api_key": "s3cret-key", "units": "metric"},
        )
    text = str(failed.value)
    assert text.startswith("The service answered 403: key [hidden] and [hidden] of metric xxx")
    assert len(text) < 340
    endpoint.answer = answers(500)
    with pytest.raises(FunctionFailed, match="answered 500: nothing"):
        await endpoint.call({})


async def test_redirects_stay_on_the_host(endpoint: Endpoint) -> None:
    async def redirect(request: web.Request) -> web.Response:
        if request.path == "/look":
            return web.Response(status=int(request.query["status"]), headers={"Location": "/there"})
        return web.Response(text="arrived")

    endpoint.answer = redirect
    for status, method in (("307", "POST"), ("302", "GET")):
        endpoint.asked.clear()
        assert await endpoint.call({"a": "b"}, query={"status": status}, parameters={"a": "string"}) == "arrived"
        assert (endpoint.asked[1][0], endpoint.asked[1][3]) == (method, {"a": "b"} if method == "POST" else "")

    endpoint.answer = answers(302, headers={"Location": "http://localhost:1/x"})
    with pytest.raises(FunctionFailed, match="another address, which is not followed"):
        await endpoint.call({})
    endpoint.answer = answers(302, headers={"Location": "/look"})
    with pytest.raises(FunctionFailed, match="without end"):
        await endpoint.call({})


async def test_faults_of_the_wire(endpoint: Endpoint) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response()

    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    endpoint.answer = hang
    with pytest.raises(FunctionFailed, match="did not answer in time"):
        await endpoint.call({}, timeout=0.05)
    endpoint.answer = drop
    with pytest.raises(FunctionFailed, match="cannot be reached"):
        await endpoint.call({})
    with pytest.raises(FunctionFailed, match="cannot be reached"):
        await endpoint.call({}, url="http://127.0.0.1:1/")

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    with pytest.raises(FunctionFailed, match="an answer that cannot be read"):
        await endpoint.call({}, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()
    await server.wait_closed()


async def test_one_connection_serves_many_calls(endpoint: Endpoint) -> None:
    for _ in range(5):
        await endpoint.call({})
    assert len(endpoint.connections) == 1


async def test_a_caller_without_a_number_breaks_no_header(endpoint: Endpoint) -> None:
    info = CallInfo("call-2", "sip:a\r\nX: y@h", "", "twilio")
    await endpoint.function().call({}, FakeControl(info))
    assert endpoint.asked[0][2]["X-Offhook-From"] == "sip:aX: y@h"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "shop/x"}, "tools.look.url: write it with its scheme and host"),
        ({"url": "https://{a}.example.com/", "parameters": {"a": "string"}}, "tools.look.url: write it with"),
        ({"url": "http://h/{a}"}, "tools.look: {a} is used but no parameter; add it to `parameters` or use one of"),
        ({"name": "a b"}, "tools.a b.name: string should match"),
        ({"parameters": {"a": "str"}}, "tools.look: a: 'str' is no type; there are string, integer"),
        ({"parameters": {"type": "object"}}, "tools.look: a JSON Schema of parameters has `type: object`"),
        ({"method": "GET", "body": {}}, "tools.look: GET sends no body; use `query`"),
        ({"body": "x", "send_call": "fields"}, "tools.look: `fields` need a `body` that is a mapping"),
        ({"headers": {"A B": "c"}}, "tools.look.headers: 'A B' is no header"),
        ({"headers": {"A": "c\nd"}}, "tools.look.headers: 'A' is no header of one line"),
        ({"methd": "GET"}, "tools.look.methd: is not known; there are background, body"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        http_function({"name": "look", "description": "Look.", "url": "http://h/", **settings})
    assert str(error.value).startswith(said)
