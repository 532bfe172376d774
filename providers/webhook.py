"""Reading the fields of a webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from offhook.providers.base import CarrierProtocolError, CarrierRequest

MAX_FIELDS: Final = 500
"""Fields of one webhook; the longest we know has about forty."""


def fields(request: CarrierRequest) -> dict[str, str]:
    """Every field of a webhook, from the form or, for a GET, the query; of a repeated field the last value.

    Raises:
        CarrierProtocolError: more fields than any webhook has.
    """
    text = request.body.decode("utf-8", "replace")
    if request.method == "GET" or not text:
        text = request.url.partition("#")[0].partition("?")[2]
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise CarrierProtocolError(f"fields: {error}") from error


def need(found: Mapping[str, str], name: str) -> str:
    """A field that must be there. Raises CarrierProtocolError naming it."""
    if value := found.get(name, ""):
        return value
    raise CarrierProtocolError(f"{name}: the field is missing")


def number(found: Mapping[str, str], name: str) -> int | None:
    """A field as a number; None when it is absent or none."""
    text = found.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
