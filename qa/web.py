"""The carrier's HTTP client: one request, one connection, the carrier's own deadlines, no redirects, no proxies."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 15.0
"""Twilio's limits for a voice webhook; Plivo's are wider."""

MAX_BODY: Final = 1 << 20
"""Bytes of an answer that are read. Carriers take 64 to 100 kB of markup."""

MAX_REQUESTS: Final = 64
"""Requests under way at once. Each waits in a thread of its own, for an answer may take a whole ring budget."""


class Unreachable(Exception):
    """Nobody answered the request; the text says what was tried and what happened."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    "Names in lower case."
    body: bytes


_LOCAL_SCHEMES: Final = {"https": "http", "wss": "ws", "http": "http", "ws": "ws"}
_SECURE_SCHEMES: Final = {"https": "https", "wss": "wss", "http": "https", "ws": "wss"}


class BotAddress:
    """Where a bot is, and where it believes to be.

    Args:
        webhook_url: where its incoming-call webhook is served.
        public_url: the origin that it believes to be reached at; empty: that of webhook_url.
    """

    def __init__(self, webhook_url: str, public_url: str = "") -> None:
        self._local = urlsplit(webhook_url)
        self._public = urlsplit(public_url) if public_url else self._local
        self.webhook_url = self._local._replace(scheme=self._public.scheme, netloc=self._public.netloc).geturl()
        "The webhook by its public name, over which signatures go."

    def reach(self, url: str) -> str:
        """Where a public URL is served: what is addressed to the bot's public name goes to where the bot is."""
        parts = urlsplit(url)
        if parts.netloc not in (self._public.netloc, self._local.netloc):
            return url
        schemes = _LOCAL_SCHEMES if self._local.scheme == "http" else _SECURE_SCHEMES
        return parts._replace(scheme=schemes.get(parts.scheme, parts.scheme), netloc=self._local.netloc).geturl()


class Requests(Protocol):
    """Who sends requests: a `WebClient`, or one that takes notes."""

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """One request. Raises Unreachable."""


class WebClient:
    """Sends requests from threads of its own; `close` when done."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="qa-web")

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """One request.

        Raises:
            Unreachable: no connection, no answer in time, or no HTTP.
        """
        loop = asyncio.get_running_loop()
        attempt = _Attempt()
        timer = loop.call_later(CONNECT_TIMEOUT_S + READ_TIMEOUT_S, attempt.cut)
        try:
            return await loop.run_in_executor(self._threads, attempt.make, method, url, headers, body)
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Wait for what is under way and let go of the threads."""
        await asyncio.to_thread(self._threads.shutdown)


class _Attempt:
    """One request. A socket's own timeout is for each piece of the answer: a bot that sends a byte a second would never
    be given up."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_cut = False

    def cut(self) -> None:
        """It has taken too long."""
        self._is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def make(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Make it. Raises Unreachable."""
        late = f"{method} {url}: no whole answer within {READ_TIMEOUT_S:g} s"
        try:
            reply = _request(method, url, headers, body, self._opened)
        except Unreachable as error:
            raise Unreachable(late if self._is_cut else str(error)) from error
        if self._is_cut:
            raise Unreachable(late)
        return reply

    def _opened(self, sock: socket.socket) -> None:
        self._socket = sock


def _request(
    method: str, url: str, headers: Mapping[str, str], body: bytes, opened: Callable[[socket.socket], None]
) -> Reply:
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.connect()
        assert isinstance(connection.sock, socket.socket)
        connection.sock.settimeout(READ_TIMEOUT_S)
        opened(connection.sock)
        connection.request(
            method, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body or None, dict(headers)
        )
        response = connection.getresponse()
        answer = response.read(MAX_BODY)
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, answer)
    except http.client.BadStatusLine as error:
        # its text may be anything, control characters included; a RemoteDisconnected has one of its own
        what = str(error) if isinstance(error, OSError) else f"no answer of HTTP, but {str(error)[:40]!a}"
        raise Unreachable(f"{method} {url}: {what}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{method} {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()
