"""What an agent may have done to its call: the route's lists and caps, kept whatever the agent asks for.

A language model decides about transfers and keys, and a caller can talk it into things. So the gateway asks here
before it carries an order out; a refusal goes back to the agent and into the journal with its reason.
"""

from __future__ import annotations

import re
from typing import Final

from offhook.gateway.config import Route
from offhook.gateway.routing import may_transfer

MAX_KEYS_AT_ONCE: Final = 64
"""Keys of one order: longer than a card number with its pauses, and some ten seconds of tones."""

NOT_UP: Final = "the call is not up"
"""Why an order that came too early, or too late, is not carried out."""

_KEYS: Final = re.compile(r"[0-9A-D*#w]+")


class Orders:
    """The orders of one call."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._patterns = [_regex(pattern) for pattern in route.allow_dtmf] if isinstance(route.allow_dtmf, list) else []
        self._transfers = self._keys = 0

    def transfer(self, to: str) -> str:
        """Count a transfer. Gives why it must not happen, for the agent to read; empty: it may be tried."""
        if not may_transfer(self._route, to):
            return "the route does not allow this number"
        if self._transfers >= self._route.max_transfers:
            return f"the transfers that the route allows a call ({self._route.max_transfers}) have been tried"
        self._transfers += 1
        return ""

    def dtmf(self, digits: str) -> str:
        """Count keys. Gives why they must not be pressed, for the agent to read; empty: they may."""
        if len(digits) > MAX_KEYS_AT_ONCE or not _KEYS.fullmatch(digits):
            return f"keys are 0-9, A-D, *, # and w for half a second, at most {MAX_KEYS_AT_ONCE} at a time"
        keys = digits.replace("w", "")
        if not self._allowed(keys):
            return "the route does not allow these keys"
        if self._keys + len(keys) > self._route.max_dtmf:
            left = self._route.max_dtmf - self._keys
            return f"the route allows {self._route.max_dtmf} keys a call, and {left} are left"
        self._keys += len(keys)
        return ""

    def _allowed(self, keys: str) -> bool:
        if isinstance(self._route.allow_dtmf, bool):
            return self._route.allow_dtmf
        return any(pattern.fullmatch(keys) for pattern in self._patterns)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern of the configuration (`X` any number, `.` at the end: anything more) as a regular expression."""
    head = pattern.removesuffix(".")
    body = "".join("[0-9]" if key == "X" else re.escape(key) for key in head)
    return re.compile(body + (".*" if head != pattern else ""))
