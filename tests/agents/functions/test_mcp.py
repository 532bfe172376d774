"""Functions from MCP servers: real ones, made with the same SDK, over both transports, and every way they fail."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from fakes import mcp_server as fake
from fakes.control import FakeControl
from mcp import Client
from pydantic import ValidationError

from offhook.agents.functions import mcp as subject
from offhook.agents.functions.base import Function, FunctionFailed
from offhook.agents.functions.mcp import McpServer, McpSettings

pytestmark = pytest.mark.own_tasks("`connected` and `serving` end the tasks of their servers")

STDIO = {"command": sys.executable, "args": [fake.__file__]}


class Web(uvicorn.Server):
    """A server on loopback that leaves the signals alone."""

    def __init__(self, port: int = 0) -> None:
        app = fake.make_server().streamable_http_app()
        super().__init__(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1, lifespan="on"))

    def install_signal_handlers(self) -> None:
        """Not in a test."""

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[Web]:
    web = Web(port)
    task = asyncio.create_task(web._serve())
    while not web.started:
        await asyncio.sleep(0.005)
    try:
        yield web
    finally:
        web.should_exit = True
        await asyncio.wait([task])


@asynccontextmanager
async def connected(within: float = 20.0, **settings: object) -> AsyncIterator[McpServer]:
    server = McpServer(McpSettings.model_validate(settings))
    await server.ready(within)
    try:
        yield server
    finally:
        await server.close()


def url(web: Web) -> str:
    return f"http://127.0.0.1:{web.port}/mcp"


def tool(server: McpServer, name: str) -> Function:
    [found] = [function for function in server.functions if function.schema.name == name]
    return found


async def call(server: McpServer, name: str, **arguments: object) -> str:
    return str(await tool(server, name).call(arguments, FakeControl()))


async def test_over_http() -> None:
    async with serving() as web, connected(url=url(web)) as server:
        assert (server.name, server.fault) == ("127_0_0_1", "")
        names = [function.schema.name for function in server.functions]
        assert names == ["add", "shop_find", "fail", "wait", "picture", "grow", "die", "die_once"]
        add = tool(server, "add").schema
        assert add.description == "Add two numbers."
        assert add.parameters["required"] == ["a", "b"]
        assert await call(server, "add", a=1, b=2) == "3"
        assert '"state": "sent"' in await call(server, "shop_find", order="7")
        assert await call(server, "picture") == "Look:\n[image]"
        with pytest.raises(FunctionFailed, match="the till is closed"):
            await call(server, "fail")
        with pytest.raises(FunctionFailed, match="a\n"):
            await call(server, "add", a="x", b=2)
        began = time.monotonic()
        await asyncio.gather(*[call(server, "wait", seconds=0.2) for _ in range(5)])
        assert time.monotonic() - began < 0.9  # side by side over one connection


async def test_only_what_is_allowed_and_only_in_time() -> None:
    async with serving() as web, connected(url=url(web), allow=["wait", "gone"], timeout=0.2, filler="Hm.") as server:
        assert [function.schema.name for function in server.functions] == ["wait"]
        assert tool(server, "wait").filler == ("Hm.",)
        with pytest.raises(FunctionFailed, match="did not answer in time"):
            await call(server, "wait", seconds=5)


async def test_tools_that_come_later() -> None:
    async with serving() as web, connected(url=url(web)) as server:
        changed = asyncio.Event()
        server.on_change.add(changed.set)
        await asyncio.sleep(0.1)  # the subscription goes its own way
        assert await call(server, "grow") == "grown"
        await asyncio.wait_for(changed.wait(), 5)
        assert await call(server, "grown") == "here"


async def test_a_server_of_before_2026(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "Client", partial(Client, mode="legacy"))
    monkeypatch.setattr(subject, "STEADY", 0.0)
    async with serving() as web:
        port = web.port
        async with connected(url=url(web)) as server:
            changed = asyncio.Event()
            server.on_change.add(changed.set)
            assert await call(server, "grow") == "grown"
            await asyncio.wait_for(changed.wait(), 5)
            wait = tool(server, "wait")
            web.should_exit = web.force_exit = True
            while web.started and web.servers and web.servers[0].sockets:
                await asyncio.sleep(0.02)
            async with serving(port):
                # A new server on the old port, which has never heard of our session; the call reaches it all the same.
                assert await wait.call({"seconds": 0}, FakeControl()) == "waited"


async def test_a_server_that_is_not_there_blocks_nobody() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        async with connected(url=f"http://127.0.0.1:{port}/mcp") as server:
            assert server.functions == []
            assert server.fault.startswith("ConnectError: ")
        deaf.listen()  # accepts, and says nothing
        began = time.monotonic()
        async with connected(0.05, url=f"http://127.0.0.1:{port}/mcp", connect_timeout=0.3) as server:
            assert time.monotonic() - began < 0.2
            assert server.fault == "still connecting"
            await asyncio.sleep(0.4)
            assert server.fault == "no answer in time"
    async with connected(command="/no/such/program") as server:
        assert "No such file or directory" in server.fault


async def test_a_server_that_comes_back() -> None:
    async with serving() as web:
        port = web.port
        async with connected(url=url(web)) as server:
            add = tool(server, "add")
            web.should_exit = web.force_exit = True
            await asyncio.sleep(0.3)
            with pytest.raises(FunctionFailed, match="cannot be reached"):
                await add.call({"a": 1, "b": 2}, FakeControl())
            assert server.functions == []
            assert server.fault
            async with serving(port):
                assert await add.call({"a": 1, "b": 2}, FakeControl()) == "3"
                assert len(server.functions) == 8


async def test_as_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "STEADY", 0.0)
    async with connected(name="till", **STDIO) as server:
        assert server.name == "till"
        assert await call(server, "add", a=2, b=2) == "4"
        marker = tmp_path / "died"
        # It dies under a call that may be repeated, and is started again by itself.
        monkeypatch.setattr(subject, "RECONNECT_PATIENCE", 20.0)
        assert await call(server, "die_once", marker=str(marker)) == "alive again"
        # Under one that may not, the model learns that nobody knows.
        marker.unlink()
        with pytest.raises(FunctionFailed, match="It may or may not have done its work"):
            await call(server, "die", marker=str(marker))
        assert await server.ready(20)
        assert await call(server, "add", a=2, b=2) == "4"


async def test_a_program_that_dies_at_once_stays_down(tmp_path: Path) -> None:
    async with connected(**STDIO) as server:
        die = tool(server, "die")
        with pytest.raises(FunctionFailed, match="It may or may not"):
            await die.call({"marker": str(tmp_path / "died")}, FakeControl())
        await asyncio.sleep(0.05)
        assert server.functions == []
        assert server.fault == "_Lost: the connection broke"


async def test_a_program_that_says_nothing_or_nonsense() -> None:
    for script in ("import time; time.sleep(60)", "print('hello')"):
        arguments = ["-S", "-c", script]
        async with connected(command=sys.executable, args=arguments, connect_timeout=0.5) as server:
            assert server.functions == []
            assert server.fault


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "give `url`, or `command`"),
        ({"url": "http://h/", "command": "x"}, "give `url`, or `command`"),
        ({"url": "ftp://h/"}, "should match pattern"),
        ({"url": "http://h/", "args": ["x"]}, "`headers` go with `url`"),
        ({"command": "x", "headers": {"a": "b"}}, "`headers` go with `url`"),
        ({"url": "http://h/", "name": "a b"}, "should match pattern"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        McpSettings.model_validate(settings)


def test_what_a_server_is_called() -> None:
    names = [
        McpSettings.model_validate(settings).label
        for settings in ({"url": "https://mcp.example.com/x"}, {"command": "/opt/a b/shop-server"}, {"command": "/"})
    ]
    assert names == ["mcp_example_com", "shop-server", "mcp"]
