"""What the settings of all carriers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr


class CarrierSettings(BaseModel):
    """Base of a section under `carriers:`. A key it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_base: str = ""
    """Replaces the carrier's API host, such as http://127.0.0.1:9000. For tests and proxies."""
    api_timeout: float = Field(default=8.0, gt=0)
    """Seconds to wait for an answer of the carrier's API."""


def _not_empty(value: SecretStr) -> SecretStr:
    # An empty secret is one that everybody knows.
    if not value.get_secret_value().strip():
        raise ValueError("is empty: is the environment variable set?")
    return value


def _none_empty(value: SecretStr | list[SecretStr]) -> SecretStr | list[SecretStr]:
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise ValueError("is empty: give at least one")
    for item in listed:
        _not_empty(item)
    return value


Secret = Annotated[SecretStr, AfterValidator(_not_empty)]
"""One secret, not empty."""

Secrets = Annotated[SecretStr | list[SecretStr], AfterValidator(_none_empty)]
"""One secret, or a list of which any is good while one is being replaced; the first is the one we use."""


def plain(value: SecretStr | Iterable[SecretStr]) -> list[str]:
    """The secrets themselves."""
    return [item.get_secret_value() for item in ([value] if isinstance(value, SecretStr) else value)]
