"""Orders a call of the gateway that runs on this machine, for `offhook calls place`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from offhook.gateway.config import Config

PATIENCE: Final = 20.0
"""Seconds for the gateway to find the trunk's address and take the order."""

WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound


class Unplaced(Exception):
    """The call was not placed; the text says why. `unreachable`: there was nobody to ask."""

    def __init__(self, text: str, *, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


def place(config: Config, order: Mapping[str, Any]) -> dict[str, str]:
    """Place a call; gives its ids. Raises Unplaced.

    Args:
        config: of the running gateway.
        order: as in `operator_api.PlaceCall`, by its names in JSON.
    """
    token = config.api.token
    if token is None:
        raise Unplaced("api.token is not set; set it and restart the gateway")
    host = WILDCARDS.get(config.listen.host, config.listen.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.listen.port}/v1/calls"
    headers = {"Authorization": f"Bearer {token.get_secret_value()}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(order).encode(), headers, method="POST")  # http
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310  # as above
            placed: dict[str, str] = json.load(answer)
            return placed
    except urllib.error.HTTPError as error:
        with error:
            raise Unplaced(_said(error.read()) or f"the gateway says {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Unplaced(f"no gateway answers at {url}: {reason}", unreachable=True) from error


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
