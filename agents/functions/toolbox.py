"""The MCP servers of an agent, shared by the calls of a host, and all its functions in one list.

servers = mcp_servers(settings["mcp"])              # `Agent.warm` has done this once, for the import takes long
await connect(servers, 1.5, control)                # while the phone rings
runner.replace(combined(functions, servers))        # and again when `server.on_change` says so
...
await release(servers)                              # the call is over
await close_shared()                                # the host goes down
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import CallControl, Function
from offhook.agents.functions.python import checked_settings

if TYPE_CHECKING:
    from offhook.agents.functions.mcp import McpServer

_servers: dict[str, McpServer] = {}


def mcp_servers(sections: Sequence[Mapping[str, Any]]) -> list[McpServer]:
    """The servers of a section of the configuration: the host's own, or new ones where they are `per_call`.

    Nothing is contacted. The first call of this function imports the SDK, which blocks for a second or two.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    if not sections:
        return []
    try:
        from offhook.agents.functions.mcp import McpServer, McpSettings
    except ImportError as error:
        text = f"mcp: needs a package that is missing ({error}): pip install 'offhook[mcp]'"
        raise SettingsError(text) from error
    found = []
    for number, section in enumerate(sections):
        settings = checked_settings(McpSettings, section, f"mcp.{number}")
        key = settings.model_dump_json()
        server = None if settings.per_call else _servers.get(key)
        if server is None:
            server = McpServer(settings)
            if not settings.per_call:
                _servers[key] = server
        found.append(server)
    return found


async def connect(servers: Sequence[McpServer], within: float, control: CallControl) -> None:
    """Wait at most so many seconds for the servers, all at once. The record says which are not there."""
    there = await asyncio.gather(*(server.ready(within) for server in servers))
    for server, ready in zip(servers, there, strict=True):
        if ready:
            control.note("mcp", server=server.name, functions=len(server.functions))
        else:
            control.note("mcp.unavailable", server=server.name, error=server.fault)


async def release(servers: Sequence[McpServer]) -> None:
    """The call is over: its own servers are let go of, shared ones stay connected."""
    await asyncio.gather(*(server.close() for server in servers if server.settings.per_call))


async def close_shared() -> None:
    """Disconnect from every shared server. The host is going down."""
    servers = list(_servers.values())
    _servers.clear()
    await asyncio.gather(*(server.close() for server in servers))


def combined(own: Iterable[Function], servers: Iterable[McpServer]) -> list[Function]:
    """The agent's functions and those of its servers, each name once.

    Names that several have get their server's name before them; the agent's own stay as they are.
    """
    functions = list(own)
    servers = list(servers)
    taken = {function.schema.name for function in functions}
    count = Counter(function.schema.name for server in servers for function in server.functions)
    for server in servers:
        for function in server.functions:
            name = function.schema.name
            if name in taken or count[name] > 1:
                name = _free(f"{server.name}_{name}", taken)
                function = replace(function, schema=replace(function.schema, name=name))
            taken.add(name)
            functions.append(function)
    return functions


def _free(name: str, taken: set[str]) -> str:
    """The name, or the first of name_2, name_3, … that nobody has; at most the 64 characters that vendors allow."""
    candidate, number = name[:64], 1
    while candidate in taken:
        number += 1
        candidate = f"{name[:60]}_{number}"
    return candidate
