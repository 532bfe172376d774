"""MCP servers shared by calls, and functions of many sources in one list."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.control import FakeControl

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import CallControl, Function
from offhook.agents.functions.toolbox import close_shared, combined, connect, mcp_servers, release
from offhook.agents.services.base import FunctionSchema

NOWHERE = {"url": "http://127.0.0.1:1/mcp", "name": "nowhere"}


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_shared()


def make(name: str) -> Function:
    async def call(arguments: dict[str, Any], control: CallControl) -> str:
        return name

    return Function(FunctionSchema(name, name, {}), call)


def test_calls_share_a_server_unless_it_is_their_own() -> None:
    [first], [second] = mcp_servers([NOWHERE]), mcp_servers([dict(NOWHERE)])
    assert first is second
    [other] = mcp_servers([{**NOWHERE, "timeout": 3}])
    assert other is not first
    mine = {**NOWHERE, "per_call": True}
    assert mcp_servers([mine]) != mcp_servers([mine])
    assert mcp_servers([]) == []


async def test_what_is_not_there_is_noted_and_blocks_nobody() -> None:
    servers = mcp_servers([NOWHERE, {**NOWHERE, "per_call": True, "name": "mine"}])
    control = FakeControl()
    await connect(servers, 5, control)
    assert [(name, data["server"]) for name, data in control.notes] == [
        ("mcp.unavailable", "nowhere"),
        ("mcp.unavailable", "mine"),
    ]
    assert "ConnectError" in control.notes[0][1]["error"]
    await release(servers)


def test_names_that_several_have() -> None:
    one, two = mcp_servers([{**NOWHERE, "name": "one"}, {**NOWHERE, "name": "two"}])
    one.functions = [make("book"), make("find"), make("free")]
    two.functions = [make("find"), make("x" * 64)]
    own = [make("book"), make("one_book"), make("x" * 64)]
    names = [function.schema.name for function in combined(own, [one, two])]
    assert names == [
        "book", "one_book", "x" * 64, "one_book_2", "one_find", "free", "two_find", "two_" + "x" * 60,
    ]  # fmt: skip
    assert combined(own, []) == own


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"url": "http://h/", "alow": ["x"]}, "mcp.0.alow: is not known; there are allow, args, command"),
        ({"timeout": 3}, "mcp.0: give `url`, or `command` and `args`"),
        ({"url": "http://h/", "timeout": "long"}, "mcp.0.timeout: input should be a valid number"),
    ],
)
def test_settings_that_cannot_work(section: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        mcp_servers([section])
    assert str(error.value).startswith(said)


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "offhook.agents.functions.mcp", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(SettingsError, match=r"pip install 'offhook\[mcp\]'"):
        mcp_servers([NOWHERE])
