"""What a fault of a service means, whichever way it is told: an HTTP status, a close code, a time to wait."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from offhook.agents.services.base import FaultKind

REJECTED_CLOSES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes (RFC 6455 7.4.1) that say that we were at fault; so do 4000 to 4999, which vendors define."""


def kind_of_status(status: int) -> FaultKind:
    """What an HTTP status that is none of success says (RFC 9110 15)."""
    if status == 429:
        return "rate_limited"
    if status in (408, 504):
        return "timeout"
    if status >= 500:
        return "unavailable"
    return "rejected" if status >= 400 else "bad_reply"


def kind_of_close(code: int) -> FaultKind:
    """What the code says with which a WebSocket was closed."""
    if code == 4429:
        return "rate_limited"
    return "rejected" if code in REJECTED_CLOSES or 4000 <= code < 5000 else "unavailable"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds the service asked us to wait, by Retry-After (RFC 9110 10.2.3) or `retry-after-ms`; else 0.

    Args:
        headers: by their names in small letters.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return 0.0
