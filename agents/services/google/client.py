"""What Google's two services share: where they are, who asks, and what their errors mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import google.auth
from google.api_core.exceptions import GoogleAPICallError
from google.auth import api_key, exceptions
from google.auth.credentials import Credentials
from google.oauth2 import service_account
from grpc import StatusCode, aio  # type: ignore[import-untyped]  # grpcio brings no types
from pydantic import AfterValidator

from offhook.agents.api import SettingsError
from offhook.agents.services.access import ApiKey, HttpUrl
from offhook.agents.services.base import FaultKind, ServiceError, ServiceSettings

C = TypeVar("C")

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

KEEP_ALIVE: Final = 30_000
"""Milliseconds without traffic after which the connection is tried, so that one that has died is found before the next
call needs it. Google's servers allow no less than 10 s."""

KINDS: Final[dict[StatusCode, FaultKind]] = {
    StatusCode.UNAUTHENTICATED: "rejected",
    StatusCode.PERMISSION_DENIED: "rejected",
    StatusCode.INVALID_ARGUMENT: "rejected",
    StatusCode.NOT_FOUND: "rejected",
    StatusCode.FAILED_PRECONDITION: "rejected",
    StatusCode.UNIMPLEMENTED: "rejected",
    StatusCode.RESOURCE_EXHAUSTED: "rate_limited",
    StatusCode.DEADLINE_EXCEEDED: "timeout",
}
"""What a status says about the fault; those not here may pass."""


def _without_path(url: str) -> str:
    if urlsplit(url).path:
        raise ValueError("this has a path; write the host alone, like https://eu-speech.googleapis.com")
    return url


class GoogleSettings(ServiceSettings):
    """Who asks, and whom. Without key and file the application default credentials hold."""

    api_key: ApiKey | None = None
    """A key that is allowed to use the service."""
    credentials_file: Path | None = None
    """JSON file of a service account."""
    base_url: Annotated[HttpUrl, AfterValidator(_without_path)] | None = None
    """Another address than Google's own, of a region or a private connection; with http:// it is spoken to in the clear
    and without credentials, as a proxy of your own."""

    @property
    def in_the_clear(self) -> bool:
        """Neither TLS nor credentials."""
        return self.base_url is not None and self.base_url.startswith("http://")

    def host(self, own: str) -> str:
        """Whom to connect to; `own` is Google's."""
        return own if self.base_url is None else urlsplit(self.base_url).netloc


class Identity:
    """The credentials of one service, and the project they belong to. Looked up once, as late as possible."""

    def __init__(self, role: str, settings: GoogleSettings) -> None:
        self._role, self._settings = role, settings
        self._found: tuple[Credentials, str] | None = None
        if settings.api_key is not None and settings.credentials_file is not None:
            raise SettingsError(f"{role}.credentials_file: there is an api_key too; give one of them")
        if settings.credentials_file is not None and not settings.credentials_file.is_file():
            raise SettingsError(f"{role}.credentials_file: {settings.credentials_file} is no file")

    async def find(self) -> tuple[Credentials, str]:
        """Credentials, and their project or ''.

        Raises:
            SettingsError: there are none, or the file is not what it should be.
        """
        if self._found is None:
            self._found = await asyncio.to_thread(self._look)  # reads files, and may ask Google's own machines
        return self._found

    def _look(self) -> tuple[Credentials, str]:
        settings = self._settings
        from_key: Any = api_key.Credentials
        from_file: Any = service_account.Credentials.from_service_account_file
        found: tuple[Any, str | None]
        try:
            if settings.api_key is not None:
                found = from_key(settings.api_key.get_secret_value()), ""
            elif settings.credentials_file is not None:
                account = from_file(str(settings.credentials_file), scopes=[SCOPE])
                found = account, account.project_id
            else:
                found = google.auth.default(scopes=[SCOPE])
        except (exceptions.GoogleAuthError, ValueError) as error:  # ValueError: the file is no JSON
            raise SettingsError(
                f"{self._role}.credentials_file: {error}; give it or api_key, or set GOOGLE_APPLICATION_CREDENTIALS"
            ) from error
        return found[0], found[1] or os.environ.get("GOOGLE_CLOUD_PROJECT", "")


def open_channel(settings: GoogleSettings) -> aio.Channel | None:
    """A channel in the clear when the address says so; else None, and the SDK opens its own."""
    if not settings.in_the_clear:
        return None
    return aio.insecure_channel(settings.host(""), options=[("grpc.keepalive_time_ms", KEEP_ALIVE)])


class HostClient(Generic[C]):
    """The SDK's client that all calls of a host share.

    Args:
        own: Google's host.
        transport, client: the SDK's classes.
    """

    def __init__(
        self,
        role: str,
        settings: GoogleSettings,
        own: str,
        transport: Callable[..., Any],
        client: Callable[..., C],
    ) -> None:
        self._identity, self._settings, self._own = Identity(role, settings), settings, own
        self._new_transport, self._new_client = transport, client
        self._client: C | None = None
        self._transport: Any = None
        self.project = ""
        "That of the credentials, once there is a client; '' where they do not say."

    async def get(self) -> C:
        """Raises SettingsError when there are no credentials."""
        settings = self._settings
        credentials: Credentials | None = None
        if self._client is None and not settings.in_the_clear:
            credentials, self.project = await self._identity.find()
        if self._client is None:  # nobody else made it meanwhile
            channel = open_channel(settings)
            if channel is not None:
                self._transport = self._new_transport(channel=channel)
            else:
                self._transport = self._new_transport(host=settings.host(self._own), credentials=credentials)
            self._client = self._new_client(transport=self._transport)
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._transport.close()


def failure(service: str, error: GoogleAPICallError) -> ServiceError:
    """What an error of the SDK is to the conversation."""
    status = error.grpc_status_code
    kind = KINDS.get(status, "unavailable") if status is not None else "unavailable"
    name = status.name if status is not None else type(error).__name__
    return ServiceError(service, kind, f"{name} {error.message}", retry_after=_retry_after(error))


def _retry_after(error: GoogleAPICallError) -> float:
    """Seconds by google.rpc.RetryInfo among the details; else 0."""
    for detail in error.details or ():
        if (delay := getattr(detail, "retry_delay", None)) is not None:
            return float(delay.seconds) + float(delay.nanos) / 1e9
    return 0.0


@contextmanager
def translated(service: str) -> Iterator[None]:
    """Raise ServiceError for what the SDK raises."""
    try:
        yield
    except GoogleAPICallError as error:
        raise failure(service, error) from error
    except exceptions.GoogleAuthError as error:
        raise ServiceError(service, "unavailable", f"credentials: {error}") from error
