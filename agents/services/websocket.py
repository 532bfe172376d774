"""A vendor's WebSocket: opened without holding up the event loop, its failures told as a ServiceError.

Shared by the services whose SDK has no asynchronous client for its sockets, or one that loads the system's
certificates anew for each connection: 30 ms on the event loop, which every other call of the host would hear.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from offhook.agents.services.base import FaultKind, ServiceError

PING_INTERVAL: Final = 5.0
PING_TIMEOUT: Final = 10.0
"""Seconds. A network that has gone silent is noticed within 15 s, also while nothing is said."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a vendor has to answer a goodbye; nobody waits for it but a call that is over."""

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes. A sentence of a minute in one message, 24 kHz and base64, takes 3.8 MB."""

MAX_DETAIL: Final = 200
"""Characters of a vendor's explanation that go into an error."""

REJECTED_CLOSES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes (RFC 6455 7.4.1) that say that we were at fault; so do 4000 to 4999, which vendors define."""


def _websocket_url(url: str) -> str:
    """`url` with the scheme ws or wss and no slash at its end."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the address of a service; write one like wss://api.example.com")
    return parts._replace(scheme=scheme).geturl().rstrip("/")


WebSocketUrl = Annotated[str, AfterValidator(_websocket_url)]
"""Address of a service, with or without a path; https is taken for wss."""


def present_key(key: SecretStr, hint: str) -> SecretStr:
    """Check that a key is there and can travel in a header.

    Args:
        key: as it is written in the configuration.
        hint: where to get one and how to write it.

    Raises:
        ValueError: it is empty, or has spaces, line breaks or signs beyond ASCII in it.
    """
    text = key.get_secret_value().strip()
    if not text:
        raise ValueError(f"missing; {hint}")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"holds signs that no key has, such as a space or a line break; {hint}")
    return SecretStr(text)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


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
        options["ssl"] = await asyncio.to_thread(_tls)
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
        why = next(iter(response.headers.get_all("dg-error")), "") or response.body.decode(errors="replace").strip()
        detail = f"HTTP {response.status_code} {why}".strip()[:MAX_DETAIL]
        wait = retry_after(response.headers)
        return ServiceError(service, status_fault(response.status_code), detail, retry_after=wait)
    if isinstance(error, TimeoutError):
        return ServiceError(service, "timeout", f"no connection within {timeout:g} s")
    if isinstance(error, ConnectionClosed):
        return closing_fault(service, error)
    return ServiceError(service, "unavailable", f"no connection: {error}"[:MAX_DETAIL])


def closing_fault(service: str, error: ConnectionClosed) -> ServiceError:
    """Why there is no connection any more; no close frame at all counts as 1006 (RFC 6455 7.1.5)."""
    code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "connection lost")
    kind: FaultKind = "unavailable"
    if code == 4429:
        kind = "rate_limited"
    elif code in REJECTED_CLOSES or 4000 <= code < 5000:
        kind = "rejected"
    return ServiceError(service, kind, f"closed with {code} {reason}".strip()[:MAX_DETAIL])


def status_fault(status: int) -> FaultKind:
    """The kind of fault that an HTTP status of 300 or more stands for."""
    if status == 429:
        return "rate_limited"
    if status in (408, 504):
        return "timeout"
    if status >= 500:
        return "unavailable"
    return "rejected" if status >= 400 else "bad_reply"


def retry_after(headers: Headers) -> float:
    """Seconds the service asks us to wait (RFC 9110 10.2.3), 0 when it does not say or not so that it is understood."""
    value = next(iter(headers.get_all("Retry-After")), "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
