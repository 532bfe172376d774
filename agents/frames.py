"""Link frames onto a stream socket: everything written in one turn of the loop leaves in one write."""

from __future__ import annotations

import asyncio

from offhook.agents import link


class FrameWriter:
    """Coalesces frames for one transport. Once the transport closes they go nowhere."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._out: list[bytes] = []

    def write(self, call: int, kind: int, body: bytes) -> None:
        """Queue one frame."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(link.frame(call, kind, body))

    def _flush(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        if not self._transport.is_closing():
            self._transport.write(data)
