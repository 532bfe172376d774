"""Sockets as SIP wants them: bound to one family, with room for bursts, quick to notice a dead peer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

from offhook.providers.sip.hop import Transport

if TYPE_CHECKING:
    from offhook.providers.sip.settings import SipTls

RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""Bytes of kernel buffer asked for a UDP socket: 2,000 INVITEs may wait while the loop does something else."""

DEAD_TIME_MS: Final = 20_000
"""Milliseconds that sent bytes may stay unacknowledged by TCP before the connection counts as lost."""

_TCP_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", 0)
"""Linux only; elsewhere the kernel's own patience holds."""


def family_of(host: str) -> socket.AddressFamily:
    """The family of an IP literal."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def bound_socket(transport: Transport, host: str, port: int) -> socket.socket:
    """A socket that is bound and not yet listening. Raises OSError."""
    family = family_of(host)
    sock = socket.socket(family, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # Else `::` would take the IPv4 port too, and show IPv4 peers by addresses that no allow-list has.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport == "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def tune(transport: asyncio.Transport) -> None:
    """Make a TCP connection notice that its peer is gone."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if _TCP_USER_TIMEOUT:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, DEAD_TIME_MS)


def server_context(tls: SipTls) -> ssl.SSLContext:
    """For sockets that listen. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert tls.cert_file is not None
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def client_context(tls: SipTls) -> ssl.SSLContext:
    """For connections that we open. Raises OSError."""
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
