"""Keys in SIP INFO (RFC 6086 and the drafts before it)."""

from __future__ import annotations

from typing import Final

RELAY: Final = "application/dtmf-relay"
PLAIN: Final = "application/dtmf"

DIGITS: Final = frozenset("0123456789ABCD*#")

LENGTH_MS: Final = 160
"""Milliseconds of a key that we send."""

MAX_BODY: Final = 256
"""Bytes of such an INFO; a longer one is about something else."""


def from_info(body: bytes, content_type: str) -> tuple[str, int] | None:
    """The key and its milliseconds in the body of an INFO; None when it is none."""
    if len(body) > MAX_BODY or content_type not in (RELAY, PLAIN):
        return None
    text = body.decode("ascii", "replace")
    if content_type == PLAIN and "=" not in text:
        return _key(text, 0)
    signal, duration = "", 0
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip().lower() == "signal":
            signal = value
        elif name.strip().lower() == "duration" and (digits := value.strip()).isdecimal() and len(digits) < 6:
            duration = int(digits)
    return _key(signal, duration)


def _key(text: str, duration: int) -> tuple[str, int] | None:
    digit = {"10": "*", "11": "#", "12": "A", "13": "B", "14": "C", "15": "D"}.get(text.strip(), text.strip().upper())
    return (digit, duration) if digit in DIGITS and len(digit) == 1 else None


def to_info(digit: str, milliseconds: int = LENGTH_MS) -> bytes:
    """The body of an INFO for one key."""
    return f"Signal={digit}\r\nDuration={milliseconds}\r\n".encode()
