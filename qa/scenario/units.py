"""Quantities as people write them in scenarios: `1500ms`, `1%`, `-22dBov`, `<=800`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_NUMBER: Final = r"[+-]?\d{1,9}(?:\.\d{1,6})?"
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(rf"({_NUMBER})\s*(ms|s|m|h)\Z", re.ASCII)
_PERCENT: Final = re.compile(rf"({_NUMBER})\s*%\Z", re.ASCII)
_DECIBEL: Final = re.compile(rf"({_NUMBER})\s*(?:dB|dBov|dBFS|dBfs)\Z", re.ASCII)
_LIMIT: Final = re.compile(rf"(<=|>=|<|>|==|=)?\s*({_NUMBER})\s*(ms|s|m|%|dB|dBov|dBFS)?\Z", re.ASCII)


def _bad(message: str) -> PydanticCustomError:
    return PydanticCustomError("quantity", "{message}", {"message": message})


def duration(value: Any) -> float:
    """Seconds of `1500ms`, `5s`, `2m`, `1h`; numbers that are seconds already are kept.

    Raises:
        PydanticCustomError: it has no unit, or is negative.
    """
    if isinstance(value, float):
        return value
    found = _DURATION.match(str(value).strip())
    if not found:
        raise _bad(f"{value!s} is no duration; write a number with its unit, such as 800ms, 5s or 2m")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds < 0:
        raise _bad(f"{value!s} is negative; a duration is not")
    return seconds


def share(value: Any) -> float:
    """0 to 1 of `1%` or `0.01`. Raises PydanticCustomError."""
    text = str(value).strip()
    found = _PERCENT.match(text)
    try:
        part = float(found[1]) / 100 if found else float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise _bad(f"{value!s} is no share; write 1% or 0.01")
    return part


def decibel(value: Any) -> float:
    """dB of `-22dBov` or `15dB`. Raises PydanticCustomError."""
    if isinstance(value, float):
        return value
    found = _DECIBEL.match(str(value).strip())
    if not found:
        raise _bad(f"{value!s} is no level; write a number with its unit, such as -22dBov or 15dB")
    return float(found[1])


Duration = Annotated[float, BeforeValidator(duration), WithJsonSchema({"type": "string", "examples": ["800ms", "5s"]})]
"""Seconds."""

Share = Annotated[float, BeforeValidator(share), WithJsonSchema({"type": ["string", "number"], "examples": ["1%"]})]
"""0 to 1."""

Decibel = Annotated[
    float, BeforeValidator(decibel), WithJsonSchema({"type": "string", "examples": ["-22dBov", "15dB"]})
]
"""dB; of a level, below full scale."""


class Limit(NamedTuple):
    """A bound on a measured value. Metrics end in their unit: `_ms`, `_s`, `_pct`, `_db`."""

    op: str
    "One of <=, >=, <, >, ==."
    value: float
    unit: str
    "As written: ms, s, m, %, dB; empty: the metric's own."

    def holds(self, measured: float) -> bool:
        """Whether a value of the metric's unit, to which `self` was converted, is within the bound."""
        match self.op:
            case "<=":
                return measured <= self.value
            case ">=":
                return measured >= self.value
            case "<":
                return measured < self.value
            case ">":
                return measured > self.value
            case _:
                return measured == self.value

    def __str__(self) -> str:
        return f"{self.op}{self.value:g}{self.unit}"


def limit(value: Any) -> Limit:
    """A limit of `<=800`, `>=0.97`, `<=4s`; a bare number is equality, as in `holes: 0`. Raises PydanticCustomError."""
    if isinstance(value, Limit):
        return value
    found = _LIMIT.match(str(value).strip())
    if not found:
        raise _bad(f"{value!s} is no limit; write <=800, >=97% or 0")
    return Limit({"=": "==", None: "=="}.get(found[1], found[1]), float(found[2]), found[3] or "")


_TO_MS: Final = {"ms": 1.0, "s": 1000.0, "m": 60_000.0}


def in_unit(bound: Limit, unit: str) -> Limit:
    """A limit in the unit of its metric: ms, s, pct, dBov … A bare number has that unit already.

    Raises:
        ValueError: its unit is of another kind.
    """
    if not bound.unit or bound.unit == unit or (bound.unit, unit) == ("%", "pct"):
        return bound
    if bound.unit in _TO_MS and unit in _TO_MS:
        return bound._replace(value=bound.value * _TO_MS[bound.unit] / _TO_MS[unit], unit=unit)
    if bound.unit.startswith("dB") and unit.startswith("dB"):
        return bound
    raise ValueError(f"{bound} is not in {unit or 'a bare number'}")


LimitOf = Annotated[
    Limit, BeforeValidator(limit), WithJsonSchema({"type": ["string", "number"], "examples": ["<=800", "<=4s", 0]})
]
