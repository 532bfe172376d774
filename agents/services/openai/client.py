"""What the three services of OpenAI's API share: where they are, the key, and what their errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import openai
from openai.resources.models import AsyncModels
from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services.access import ApiKey, Header, HttpUrl, plain_headers, role_key
from offhook.agents.services.base import ServiceError, ServiceSettings
from offhook.agents.services.http import MISSHAPEN, http_client, misread, refused, warmed

OPENAI: Final = "https://api.openai.com/v1"

NO_KEY: Final = "none"
"""What is sent to a server that asks for no key: the SDK cannot send nothing."""


class OpenAiSettings(ServiceSettings):
    """Where the server is. For one of your own: `base_url: http://localhost:8000/v1`, no key, its own `model`."""

    base_url: HttpUrl = OPENAI
    """Up to and with /v1. OpenAI in one region: https://eu.api.openai.com/v1."""
    api_key: ApiKey | None = None
    """OpenAI's own is taken from the environment variable OPENAI_API_KEY when it is not given."""
    model: str | None = None
    """Needed for servers that are not OpenAI's."""
    headers: dict[str, Header] = Field(default_factory=dict)
    """Sent with each request."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Put into the body of each request as they are, over what we put there."""

    @property
    def official(self) -> bool:
        """The server is OpenAI's own, in any region."""
        host = urlsplit(self.base_url).hostname or ""
        return host == "api.openai.com" or host.endswith(".api.openai.com")


def make_client(role: str, settings: OpenAiSettings) -> openai.AsyncOpenAI:
    """Make the SDK's client over a pool of its own; nothing is contacted.

    Raises:
        SettingsError: the key is missing, or cannot be sent.
    """
    if settings.official:
        own = "; for a server of your own give base_url"
        key = role_key(role, settings.api_key, "OPENAI_API_KEY", "https://platform.openai.com/api-keys", otherwise=own)
    else:
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    return openai.AsyncOpenAI(
        api_key=key or NO_KEY,
        base_url=settings.base_url,
        default_headers=plain_headers(settings.headers),
        max_retries=0,
        timeout=None,
        http_client=http_client(),
    )


async def warm_up(service: str, client: openai.AsyncOpenAI) -> None:
    """Open a connection by asking for the list of models."""
    models: AsyncModels = client.models

    async def ask() -> None:
        with translated(service):
            await models.list()

    await warmed(service, ask())


def model_of(role: str, settings: OpenAiSettings, default: str) -> str:
    """The model to ask for.

    Raises:
        SettingsError: the server is not OpenAI's, and the model not named.
    """
    if settings.model:
        return settings.model
    if not settings.official:
        raise SettingsError(f"{role}.model: missing: name the model that {settings.base_url} serves")
    return default


@contextmanager
def translated(service: str) -> Iterator[None]:
    """Raise ServiceError for what the SDK raises."""
    try:
        yield
    except openai.APIStatusError as error:
        raise refused(service, error.status_code, error.message, error.response.headers) from error
    except (openai.APITimeoutError, httpx2.TimeoutException) as error:
        raise ServiceError(service, "timeout", str(error) or type(error).__name__) from error
    except (openai.APIConnectionError, httpx2.TransportError) as error:
        cause = error.__cause__ or error
        raise ServiceError(service, "unavailable", str(cause) or type(cause).__name__) from error
    except openai.APIError as error:  # an error told in the midst of a stream
        status = int(error.code) if error.code is not None and error.code.isdigit() else 500
        if "rate_limit" in f"{error.code} {error.type}":
            status = 429
        raise refused(service, status, error.message) from error
    except MISSHAPEN as error:
        raise misread(service, error) from error
