"""Functions that an MCP server offers, over streamable HTTP or as a child process on its standard input and output.

Theory of operation
-------------------
Importing this module imports the SDK, which takes a second or two: do it where blocking is allowed (`Agent.warm`).

One server object serves all calls of a host, or one call where the server keeps a state for each client
(`per_call`). A task of its own holds the connection, because the SDK wants to be entered and left in one task;
functions are called from anybody's. The first `ready` begins to connect, while the phone rings, and waits no longer
than it is told; `functions` is what the server offers at the moment, nothing as long as it is not there.

A connection that breaks is made anew once, at once. When that fails, or it breaks again within STEADY seconds, the
server counts as down, with `fault` saying why, until the next call rings or the next function is called. A function
that was running when the connection broke is called again only if the server says that this does no harm.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client import IncomingMessage, Transport
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    CallToolResult,
    EmbeddedResource,
    TextContent,
    TextResourceContents,
    Tool,
    ToolListChangedNotification,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, to_json

from offhook.agents.functions.base import CallControl, Function, FunctionFailed
from offhook.agents.functions.python import DEFAULT_TIMEOUT
from offhook.agents.services.base import FunctionSchema

CONNECT_TIMEOUT: Final = 30.0
"""Seconds until a connection stands; servers that are installed as they start (npx, uvx) take long the first time.
No caller waits for it."""

STEADY: Final = 10.0
"""Seconds a connection must have lasted for another attempt when it breaks: a server that dies at once stays down."""

RECONNECT_PATIENCE: Final = 5.0
"""Seconds a function call waits for a connection that is being made."""

READ_TIMEOUT: Final = 300.0
"""Seconds an HTTP server may say nothing on a stream that is open, the SDK's own limit."""

MAX_PAGES: Final = 20
"""Pages of a list of tools; a list without end must not keep us."""

MAX_TOOLS: Final = 128
"""Functions of one server; models that are offered more choose badly, and vendors refuse them. Use `allow`."""

MAX_DESCRIPTION: Final = 2_000
"""Characters of a tool's description: it costs its tokens in every reply."""


SESSION_FORGOTTEN: Final = re.compile(r"session.*(not found|terminated|expired|unknown|invalid)", re.IGNORECASE)
"""How a server of before 2026 says 404, in its own words or the SDK's: restarted, it has not looked at the call."""


class McpSettings(BaseModel):
    """One server: `url`, or `command` with `args`. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    name: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,32}$")
    "For records, and before the names of its functions where those are taken; default: from the url or command."
    url: str = Field(default="", pattern=r"^(https?://.+)?$")
    "Streamable HTTP."
    headers: dict[str, str] = {}
    command: str = ""
    "A program to start; it speaks MCP on standard input and output."
    args: list[str] = []
    env: dict[str, str] = {}
    "Of the program, besides PATH, HOME, USER and the like; nothing else of our own environment gets there."
    directory: str | None = None
    "Where the program runs; default: where the agent host does."
    allow: list[str] | None = None
    "Tools that the model may use; unset: all."
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, le=600)
    "Of one function call."
    connect_timeout: float = Field(default=CONNECT_TIMEOUT, gt=0, le=300)
    per_call: bool = False
    "A connection for every call, for servers that keep a state for each client."
    filler: str | list[str] = []
    "Said when a function is slow."

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.url) == bool(self.command):
            raise PydanticCustomError("mcp", "give `url`, or `command` and `args`")
        if (self.headers and self.command) or ((self.args or self.env) and self.url):
            raise PydanticCustomError("mcp", "`headers` go with `url`; `args` and `env` with `command`")
        return self

    @property
    def label(self) -> str:
        """What the server is called."""
        raw = self.name or urlsplit(self.url).hostname or re.split(r"[\\/]", self.command)[-1]
        return re.sub(r"[^A-Za-z0-9_-]+", "_", raw)[:32].strip("_") or "mcp"


class _Lost(Exception):
    """The connection is gone."""


class McpServer:
    """A server, and the connection to it as long as there is one. Never raises into a call."""

    def __init__(self, settings: McpSettings) -> None:
        self.settings = settings
        self.name = settings.label
        self.functions: list[Function] = []
        "What it offers at the moment."
        self.fault = ""
        "Why it cannot be used; empty: it can, or nobody has tried yet."
        self.on_change: set[Callable[[], None]] = set()
        "Called when `functions` have changed."
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        "Connected, or given up."
        self._wake = asyncio.Event()
        self._stopping = self._broken = self._stale = False

    async def ready(self, within: float) -> bool:
        """Connect if need be, and wait for it at most so many seconds. False: not there (yet); see `fault`."""
        self._begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._settled.wait()
        if self._client is None and not self.fault:
            self.fault = "still connecting"
        return self._client is not None

    async def close(self) -> None:
        """Disconnect; a child process is ended. `ready` would begin again."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            task, self._task = self._task, None
            if self._client is None:
                task.cancel()  # connecting: there is nobody to say goodbye to
            await asyncio.wait([task])
        self._stopping = False

    # --- the connection's task

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self.fault = ""
            self._settled.clear()
            # A context of its own: it outlives the call that happens to be the first.
            self._task = asyncio.get_running_loop().create_task(
                self._keep_up(), name=f"mcp-{self.name}", context=contextvars.Context()
            )

    async def _keep_up(self) -> None:
        clock = asyncio.get_running_loop().time
        steady = True
        try:
            while steady and not self._stopping:
                began = clock()
                self._broken = self._stale = False
                self._wake.clear()
                try:
                    async with AsyncExitStack() as stack:
                        await self._serve(stack)
                    self._down("closed")
                except Exception as error:  # the root of the SDK's code: told by `fault`, never into a call
                    steady = self._client is not None and clock() - began >= STEADY
                    self._down(_reason(error))
        finally:
            self._down(self.fault or "closed")
            self._settled.set()

    async def _serve(self, stack: AsyncExitStack) -> None:
        """Connect, list the tools, and stay until stopped. Raises whatever ends it otherwise."""
        async with asyncio.timeout(self.settings.connect_timeout):
            transport = await self._transport(stack)
            client = await stack.enter_async_context(
                Client(transport, message_handler=self._message, read_timeout_seconds=self.settings.timeout)
            )
            tools = await _tools(client)
        self._client, self.fault = client, ""
        self._offer(tools)
        self._settled.set()
        listening = asyncio.create_task(self._listen(client), name=f"mcp-{self.name}:changes")
        try:
            while not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                if self._broken:
                    raise _Lost("the connection broke")
                if self._stale and not self._stopping:
                    self._stale = False
                    self._offer(await _tools(client))
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        settings = self.settings
        if settings.url:
            limits = httpx2.Timeout(settings.connect_timeout, read=READ_TIMEOUT)
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=settings.headers, timeout=limits))
            return _watched(streamable_http_client(settings.url, http_client=http), self._break)
        program = StdioServerParameters(
            command=settings.command, args=settings.args, env=settings.env, cwd=settings.directory
        )
        return _watched(stdio_client(program, errlog=sys.stderr), self._break)

    async def _listen(self, client: Client) -> None:
        """Hear of changed tools from servers of 2026 on; older ones send notifications by themselves."""
        able = client.server_capabilities.tools
        if able is None or not able.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._refresh()
        except (MCPError, RuntimeError, TimeoutError):
            return  # not on this server, or no longer; a connection that is gone is noticed elsewhere

    async def _message(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._refresh()

    def _refresh(self) -> None:
        self._stale = True
        self._wake.set()

    def _break(self) -> None:
        self._broken = True
        self._wake.set()

    def _down(self, fault: str) -> None:
        self._client, self.fault = None, fault
        self._settled.clear()
        self._offer([])

    # --- functions

    def _offer(self, tools: list[Tool]) -> None:
        allowed = self.settings.allow
        chosen = [tool for tool in tools if allowed is None or tool.name in allowed][:MAX_TOOLS]
        had = bool(self.functions)
        self.functions = [self._function(tool) for tool in chosen]
        if had or chosen:
            for changed in list(self.on_change):
                changed()

    def _function(self, tool: Tool) -> Function:
        hints = tool.annotations
        harmless = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        filler = self.settings.filler

        async def call(arguments: dict[str, Any], control: CallControl) -> str:
            return await self._call(tool.name, arguments, harmless)

        return Function(
            FunctionSchema(
                re.sub(r"[^A-Za-z0-9_-]", "_", tool.name)[:64],
                (tool.description or tool.title or tool.name)[:MAX_DESCRIPTION],
                tool.input_schema,
            ),
            call,
            timeout=self.settings.timeout + RECONNECT_PATIENCE,
            filler=(filler,) if isinstance(filler, str) else tuple(filler),
        )

    async def _call(self, tool: str, arguments: dict[str, Any], harmless: bool) -> str:
        """Call a tool; once more where the connection broke and that does no harm. Raises FunctionFailed."""
        for first in (True, False):
            if not await self.ready(RECONNECT_PATIENCE) or (client := self._client) is None:
                break
            try:
                result = await client.call_tool(tool, arguments, self.settings.timeout)
            except MCPError as error:
                forgotten = SESSION_FORGOTTEN.search(error.message) is not None
                if error.code == CONNECTION_CLOSED or forgotten:
                    self._lose(client)
                    if first and (harmless or forgotten):
                        continue
                    text = "The connection to the service broke. It may or may not have done its work."
                    raise FunctionFailed(text) from error
                if error.code == REQUEST_TIMEOUT:
                    raise FunctionFailed("The service did not answer in time.") from error
                raise FunctionFailed(f"The service refused: {error.message}") from error
            except (RuntimeError, ValidationError) as error:
                raise FunctionFailed("The service gave an answer that cannot be read.") from error
            text = _text(result)
            if result.is_error:
                raise FunctionFailed(text or "The service says that it failed, and not why.")
            return text
        raise FunctionFailed("The service behind this function cannot be reached.")

    def _lose(self, client: Client) -> None:
        """A call has found the connection broken, perhaps before its own task has."""
        if self._client is client:
            self._settled.clear()
            self._break()


async def _tools(client: Client) -> list[Tool]:
    """Every tool of a server. Raises MCPError and what else the SDK raises."""
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _text(result: CallToolResult) -> str:
    """A tool's result as the model reads it; pictures and sounds are only named."""
    parts = []
    for block in result.content:
        if isinstance(block, TextContent):
            parts.append(block.text)
        elif isinstance(block, EmbeddedResource) and isinstance(block.resource, TextResourceContents):
            parts.append(block.resource.text)
        else:
            parts.append(f"[{block.type}]")
    if not parts and result.structured_content is not None:
        return to_json(result.structured_content).decode()
    return "\n".join(parts)


def _reason(error: BaseException) -> str:
    """Why it failed, in a line, out of the groups that the SDK's tasks wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:300]


# --- noticing the end -------------------------------------------------------------------


class _Watched:
    """The SDK's stream of messages, telling when it ends: a child process that died says nothing else."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream, self._ended = stream, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(*exception)
        return ended


@asynccontextmanager
async def _watched(transport: Any, ended: Callable[[], None]) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _Watched(read, ended), write
