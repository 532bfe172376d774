"""An MCP server made with the official SDK: in this loop over HTTP, or as a program on standard input and output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations


def make_server() -> MCPServer:
    """A server whose tools behave and misbehave as their names say."""
    server = MCPServer("fake", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    @server.tool(name="shop.find")
    async def find(order: str) -> dict[str, str]:
        """Find an order."""
        return {"order": order, "state": "sent"}

    @server.tool()
    async def fail() -> str:
        """Always fail."""
        raise ToolError("the till is closed")

    @server.tool()
    async def wait(seconds: float) -> str:
        """Wait."""
        await anyio.sleep(seconds)
        return "waited"

    @server.tool()
    async def picture() -> CallToolResult:
        """Show."""
        image = ImageContent(data="AAAA", mime_type="image/png")
        return CallToolResult(content=[TextContent(text="Look:"), image])

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Offer one more tool from now on."""
        server.add_tool(grown, name="grown")
        await ctx.notify_tools_changed()  # to clients of 2026 on
        await ctx.session.send_tool_list_changed()  # to older ones
        return "grown"

    @server.tool()
    async def die(marker: str) -> str:
        """End the process, the first time."""
        if Path(marker).exists():
            return "alive again"
        Path(marker).touch()
        os._exit(1)

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True))
    async def die_once(marker: str) -> str:
        """End the process, the first time; harmless when repeated."""
        return await die(marker)

    return server


async def grown() -> str:
    """Say that it is there."""
    return "here"


if __name__ == "__main__":
    make_server().run("stdio")
    sys.exit(0)
