"""Phone numbers as carriers write them."""

from __future__ import annotations

import re
from typing import Final

_SEPARATORS = re.compile(r"[\s().-]+")
_DIGITS = re.compile(r"\+?([1-9][0-9]{6,14})", re.ASCII)
"""E.164: at most 15 digits, the country code never begins with 0. Under 7 it is a short code."""

WITHHELD: Final = frozenset({"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"})
"""ANONYMOUS, RESTRICTED, BLOCKED, UNKNOWN and UNAVAILABLE on a phone's keys: no numbers, though they look it."""


def normalise(number: str) -> str:
    """A number in E.164, `anonymous` for one that was withheld, or what the carrier gave.

    >>> normalise("15550001111"), normalise("+1 (555) 000-1111"), normalise("sip:ann@example.net")
    ('+15550001111', '+15550001111', 'sip:ann@example.net')
    """
    plain = _SEPARATORS.sub("", number)
    if not (digits := _DIGITS.fullmatch(plain)):
        return number if number.strip().lower() not in ("", "anonymous", "restricted", "unavailable") else "anonymous"
    found = "+" + digits.group(1)
    return "anonymous" if found in WITHHELD else found
