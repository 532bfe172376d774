"""SIP sockets with an inbox, and peers that write bytes as they like, for tests on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Message, Request, respond
from offhook.providers.sip.transport import SipTransport

HEAD = "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1;rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: {0}\r\n"
HEAD += "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"


def options(call_id: str = "1") -> bytes:
    return ("OPTIONS sip:c@d SIP/2.0\r\n" + HEAD.format(call_id)).encode()


class Side:
    """One process's SIP sockets, and what they told."""

    def __init__(self, **arguments: Any) -> None:
        self.inbox: asyncio.Queue[tuple[Message, Hop]] = asyncio.Queue()
        self.failed: asyncio.Queue[Hop] = asyncio.Queue()
        self.transport = SipTransport(self._took, self.failed.put_nowait, **arguments)
        self.answers = False

    def _took(self, message: Message, hop: Hop) -> None:
        self.inbox.put_nowait((message, hop))
        if self.answers and isinstance(message, Request):
            self.transport.send(respond(message, 200).encode(), hop)

    async def took(self) -> tuple[Message, Hop]:
        return await asyncio.wait_for(self.inbox.get(), 5)

    async def lost(self) -> Hop:
        return await asyncio.wait_for(self.failed.get(), 5)

    async def counted(self, kind: str, number: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.transport.counts[kind] < number:
                await asyncio.sleep(0.005)
        assert self.transport.counts[kind] == number


class Raw:
    """A peer that writes bytes as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def until_closed(self) -> bytes:
        try:
            return await asyncio.wait_for(self.reader.read(-1), 5)
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await self.writer.wait_closed()


def udp_peer() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(2)
    return sock


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def client_tls(certificate: Path) -> Callable[[Hop], ssl.SSLContext]:
    context = ssl.create_default_context(cafile=str(certificate))
    return lambda hop: context
