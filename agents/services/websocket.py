"""A vendor's WebSocket: opened without holding up the event loop, its failures told as a ServiceError.

Shared by the services whose SDK has no asynchronous client for its sockets, or one that loads the system's
certificates anew for each connection: 30 ms on the event loop, which every other call of the host would hear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from offhook.agents.services.access import tls
from offhook.agents.services.base import ServiceError
from offhook.agents.services.faults import kind_of_close, kind_of_status, retry_after

PING_INTERVAL: Final = 5.0
PING_TIMEOUT: Final = 10.0
"""Seconds. A network that has gone silent is noticed within 15 s, also while nothing is said."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a vendor has to answer a goodbye; nobody waits for it but a call that is over."""

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes. A sentence of a minute in one message, 24 kHz and base64, takes 3.8 MB."""


async def connection_options(url: str, timeout: float) -> dict[str, Any]:
    """How every connection to a vendor is made: arguments of `websockets.connect`.

    No compression: audio does not get smaller by it, and it takes some 100 kB a connection.
    """
    options: dict[str, Any] = {
        "compression": None,
        "open_timeout": timeout,
        "ping_interval": PING_INTERVAL,
        "ping_timeout": PING_TIMEOUT,
        "close_timeout": CLOSE_TIMEOUT,
        "max_size": MAX_MESSAGE,
    }
    if url.startswith("wss:"):
        options["ssl"] = await asyncio.to_thread(tls)
    return options


async def open_socket(service: str, url: str, headers: Mapping[str, str], timeout: float) -> ClientConnection:
    """Connect to `url` within `timeout` seconds.

    Raises:
        ServiceError: it cannot be reached, refused, or did not answer in time.
    """
    options = await connection_options(url, timeout)
    try:
        return await connect(url, additional_headers=headers, **options)
    except (OSError, WebSocketException) as error:
        raise opening_fault(service, error, timeout) from error


def opening_fault(service: str, error: Exception, timeout: float) -> ServiceError:
    """Why there is no connection, from what `websockets.connect` raised."""
    if isinstance(error, InvalidStatus):
        response = error.response
        # The first of several: `Headers` would raise.
        headers = {name.lower(): value for name, value in reversed(list(response.headers.raw_items()))}
        why = headers.get("dg-error") or response.body.decode(errors="replace")
        kind = kind_of_status(response.status_code)
        return ServiceError(service, kind, f"HTTP {response.status_code} {why}", retry_after=retry_after(headers))
    if isinstance(error, TimeoutError):
        return ServiceError(service, "timeout", f"no connection within {timeout:g} s")
    if isinstance(error, ConnectionClosed):
        return closing_fault(service, error)
    return ServiceError(service, "unavailable", f"no connection: {error}")


def closing_fault(service: str, error: ConnectionClosed) -> ServiceError:
    """Why there is no connection any more; no close frame at all counts as 1006 (RFC 6455 7.1.5)."""
    code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "connection lost")
    return ServiceError(service, kind_of_close(code), f"closed with {code} {reason}")
