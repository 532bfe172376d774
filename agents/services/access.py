"""Who we are to a service, and where it is: keys, addresses and the certificates its own is checked against.

A key is given as `api_key`, or is taken from an environment variable of the vendor's. It never leaves by another way
than the vendor's header: settings keep it as a SecretStr, and what we say of faults is searched for it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from offhook.agents.api import SettingsError

HIDDEN: Final = "[key]"
"""Stands for a key in what a service has told us."""

SHORTEST_HIDDEN: Final = 8
"""Characters. No vendor's key is shorter, and a short one would blot out words."""

_secrets: set[str] = set()


def without_secrets(text: str) -> str:
    """`text` without the keys that are known here: some services quote the one they refuse."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _sendable(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("it holds a sign that cannot be sent, such as a line break: copy it once more")
    if len(text) >= SHORTEST_HIDDEN:
        _secrets.add(text)
    return SecretStr(text)


def _key(value: SecretStr) -> SecretStr:
    key = _sendable(value)
    if " " in key.get_secret_value():
        raise ValueError("it holds a space, which no key does: copy it once more")
    return key


ApiKey = Annotated[SecretStr, BeforeValidator(lambda value: "" if value is None else value), AfterValidator(_key)]
"""A key that can be sent; empty counts as none."""

Header = Annotated[SecretStr, AfterValidator(_sendable)]
"""The value of a header, which may be a credential."""


def found_key(given: SecretStr | None, variable: str, place: str) -> SecretStr:
    """The key that is given, or else the one in the environment.

    Args:
        given: as it is written in the configuration.
        variable: name of the environment variable.
        place: where one is made.

    Raises:
        ValueError: there is none, or none that can be sent.
    """
    if given is not None and given.get_secret_value():
        return given
    if not (text := os.environ.get(variable, "").strip()):
        raise ValueError(f"missing: make one at {place} and give it here or in the environment as {variable}")
    return _key(SecretStr(text))


def key_from(variable: str, place: str) -> AfterValidator:
    """Marks a setting as the key of a service that cannot be used without: `Annotated[ApiKey, key_from(…)]`."""
    return AfterValidator(lambda given: found_key(given, variable, place))


def role_key(role: str, given: SecretStr | None, variable: str, place: str, *, otherwise: str = "") -> str:
    """The same for services that need a key under some settings only.

    Args:
        otherwise: what to do where there is no key to be had.

    Raises:
        SettingsError: as the ValueError of `found_key`.
    """
    try:
        return found_key(given, variable, place).get_secret_value()
    except ValueError as error:
        raise SettingsError(f"{role}.api_key: {error}{otherwise}") from error


def plain_headers(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    """Headers as they are sent."""
    return {name: value.get_secret_value() for name, value in headers.items()}


def _url(url: str, schemes: Mapping[str, str], example: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"this is not the address of a service; write one like {example}")
    return parts._replace(scheme=schemes[parts.scheme]).geturl().rstrip("/")


def _http_url(url: str) -> str:
    return _url(url, {"http": "http", "https": "https"}, "https://api.example.com")


def _websocket_url(url: str) -> str:
    return _url(url, {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}, "wss://api.example.com")


HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""Address of a service, with or without a path."""

WebSocketUrl = Annotated[str, AfterValidator(_websocket_url)]
"""The same; https is taken for wss."""


def required(remedy: str) -> AfterValidator:
    """Marks a text that must be given: `Annotated[str, required("choose one at …")]`."""

    def check(text: str) -> str:
        if not text.strip():
            raise ValueError(f"missing: {remedy}")
        return text.strip()

    return AfterValidator(check)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Languages = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One language, or a list of those that a caller may speak."""


@cache
def tls() -> ssl.SSLContext:
    """Certificates are read once a host: it takes 35 ms, and a megabyte, and is the same for all. Blocks."""
    return ssl.create_default_context()
