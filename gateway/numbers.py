"""Phone numbers as the configuration writes them, and how they are matched and hidden."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

_ADDRESS = re.compile(r"(?:sips?|client|tel):", re.IGNORECASE)
_SEPARATORS: Final = str.maketrans("", "", " -.()/")
_IN_TEXT = re.compile(r"\+[0-9][0-9 ()./-]{5,}[0-9](?!\w)|(?<![\w.+-])[0-9]{9,15}(?![\w.-])")

MASK: Final = "*"


def canonical(number: str) -> str:
    """The form numbers are compared in: digits without `+` and separators, or an address in lower case."""
    plain = number.strip()
    if _ADDRESS.match(plain):
        return plain.lower()
    return plain.translate(_SEPARATORS).removeprefix("+")


def matches(pattern: str, number: str) -> bool:
    """Whether a pattern (exact, `+1555*`, `*`) fits a number."""
    if pattern.endswith("*"):
        return canonical(number).startswith(canonical(pattern[:-1]))
    return canonical(pattern) == canonical(number)


def mask(number: str) -> str:
    """A number for a log: the last two digits stay."""
    hidden = len(number) - 2
    return "".join(MASK if char.isalnum() and index < hidden else char for index, char in enumerate(number))


def mask_text(text: str) -> str:
    """A text with the phone numbers in it masked: `+` and seven digits or more, or nine digits or more alone."""
    return _IN_TEXT.sub(lambda match: mask(match[0]), text)


def _as_text(value: Any) -> Any:
    """A number that is no text has lost its `+` (the file's reader keeps it; code and JSON do not)."""
    if isinstance(value, int | float):
        raise PydanticCustomError("phone_number", 'write the number in quotes, such as "+15550100"')
    return value


def _number(value: str) -> str:
    plain = value.strip()
    if _ADDRESS.match(plain):
        return plain
    plain = plain.translate(_SEPARATORS)
    if not re.fullmatch(r"\+?[0-9]{1,15}", plain):
        message = "{value} is no phone number; write it as +15550100, sip:… or client:…"
        raise PydanticCustomError("phone_number", message, {"value": repr(value)})
    return plain


def _pattern(value: str) -> str:
    plain = value.strip()
    head = plain.removesuffix("*")
    if "*" in head:
        message = "{value}: `*` stands only at the end, such as +1555*"
        raise PydanticCustomError("number_pattern", message, {"value": repr(value)})
    if head == plain:
        return _number(plain)
    return (head if head in ("", "+") or _ADDRESS.match(head) else _number(head)) + "*"


PhoneNumber = Annotated[str, BeforeValidator(_as_text), AfterValidator(_number)]
"""An exact number: E.164 (spaces, dots, dashes and brackets are taken out) or a `sip:`, `client:`, `tel:` address."""

NumberPattern = Annotated[str, BeforeValidator(_as_text), AfterValidator(_pattern)]
"""An exact number, a prefix such as `+1555*`, or `*` for every number."""
