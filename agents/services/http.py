"""What the services reached by HTTP have in common: one pool of warm connections, patience, and what a fault means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Final, TypeVar

import httpx2
import structlog

from offhook.agents.services.access import tls
from offhook.agents.services.base import ServiceError, ServiceSettings
from offhook.agents.services.faults import kind_of_status, retry_after

T = TypeVar("T")

KEEP_ALIVE: Final = 60.0
"""Seconds an unused connection is kept: longer than a caller speaks, so that his answer needs no new handshake;
shorter than the idle limits of the big vendors' load balancers. (The library's own default is 5.)"""

MAX_CONNECTIONS: Final = 400
"""Per service and host; a call needs one, or two while a reply is prepared that may be thrown away."""

WARM_TIMEOUT: Final = 3.0
"""Seconds a warming request may take: it runs while a phone rings, and nothing depends on it."""

MISSHAPEN: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading an answer raises that is no JSON, or not of the shape it should have: the SDKs check no types."""

LATE: Final = ("httpcore2", "anyio._backends._asyncio")
"""What the library imports on first use, 60 ms of the event loop."""

log = structlog.get_logger("offhook.agents.services")


# Here, and not with the first client and its first request: nobody waits for an import.
tls()
for _late in LATE:
    with suppress(ImportError):
        import_module(_late)


def http_client() -> httpx2.AsyncClient:
    """A pool of connections for one service. It has no timeouts of its own: `Patience` keeps them."""
    limits = httpx2.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE
    )
    return httpx2.AsyncClient(verify=tls(), limits=limits, timeout=None, follow_redirects=True)


class Patience:
    """How long to wait for the next thing of one answer: `timeout` until the first of worth, then `stall` for each."""

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        self._service, self._settings = service, settings
        self._deadline = asyncio.get_running_loop().time() + settings.timeout
        self._begun = False

    def begun(self) -> None:
        """Something of the answer has come."""
        self._begun = True

    async def wait(self, coming: Awaitable[T]) -> T:
        """Give what is coming.

        Raises:
            ServiceError: `timeout`; what was awaited has been cancelled.
        """
        until = asyncio.get_running_loop().time() + self._settings.stall if self._begun else self._deadline
        try:
            async with asyncio.timeout_at(until):
                return await coming
        except TimeoutError:
            if self._begun:
                why = f"stalled for {self._settings.stall:g} s"
            else:
                why = f"no first result within {self._settings.timeout:g} s"
            raise ServiceError(self._service, "timeout", why) from None


def refused(service: str, status: int, detail: object, headers: Mapping[str, str] | None = None) -> ServiceError:
    """The error for an answer whose HTTP status is none of success."""
    return ServiceError(service, kind_of_status(status), f"{status} {detail}", retry_after=retry_after(headers or {}))


def misread(service: str, error: Exception) -> ServiceError:
    """The error for an answer that made one of MISSHAPEN."""
    return ServiceError(service, "bad_reply", f"not understood: {type(error).__name__}: {error}")


async def warmed(service: str, request: Awaitable[object]) -> None:
    """Make a request that costs nothing, for its connection alone; that it fails is logged and no more."""
    try:
        async with asyncio.timeout(WARM_TIMEOUT):
            await request
    except (ServiceError, TimeoutError) as error:
        log.info("service.not_warmed", service=service, reason=str(error) or "no answer in time")
