"""An ASGI application on a port of the running loop, leaving the process's signals alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, Self

import uvicorn


class _Server(uvicorn.Server):
    """A server that lives inside somebody else's process, and stops at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up, self.stop = asyncio.Event(), asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)  # fills in the default headers
        self.up.set()
        await self.stop.wait()


class Listener:
    """Serves `app` from `async with` to its end, at a free port of 127.0.0.1 unless another address is given.

    >>> async with Listener(app) as listener:
    ...     listener.url
    'http://127.0.0.1:40123'
    """

    def __init__(self, app: Any, host: str = "127.0.0.1", port: int = 0) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.host, self.port = host, port

    @property
    def url(self) -> str:
        """Where it listens, no slash at the end."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        listening = socket.create_server((self.host, self.port))
        self.port = listening.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listening]), name="qa-listener")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait([up, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            up.cancel()
            await self._task
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._server.stop.set()
        await self._task
