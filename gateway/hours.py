"""Opening hours of a route: a time zone and, for each weekday, when it is open."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 24 * 60

_SPAN = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*[-–]\s*([0-9]{1,2}):([0-9]{2})")


class Hours(BaseModel):
    """When a route is open, in local time; changes of the clock follow the time zone."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    timezone: str
    "A name of the IANA database, such as Europe/Berlin."
    open: dict[str, str]
    """Days → times: `{mon-fri: "09:00-12:00, 13:00-17:30", sat: "10:00-14:00"}`. `daily` is every day; a span may
    cross midnight."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise _unknown_zone(name) from error
        return name

    @field_validator("open", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """Times may also be a list: `["09:00-12:00", "13:00-17:30"]`."""
        if not isinstance(value, dict):
            return value
        return {day: ", ".join(map(str, times)) if isinstance(times, list) else times for day, times in value.items()}

    @field_validator("open")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        for days, times in value.items():
            _days(days)
            _spans(times)
        return value

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @cached_property
    def _week(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each weekday the open spans, in minutes from its midnight; an end past 1440 is tomorrow."""
        week: list[list[tuple[int, int]]] = [[] for _ in DAYS]
        for days, times in self.open.items():
            for day in _days(days):
                week[day] += _spans(times)
        return tuple(tuple(spans) for spans in week)

    def is_open(self, at: datetime) -> bool:
        """Whether the route is open at an aware moment."""
        local = at.astimezone(self._zone)
        minute = local.hour * 60 + local.minute
        today = local.weekday()
        yesterday = (local - timedelta(days=1)).weekday()
        return any(start <= minute < end for start, end in self._week[today]) or any(
            minute < end - DAY_MINUTES for _, end in self._week[yesterday]
        )


def _unknown_zone(name: str) -> PydanticCustomError:
    known = available_timezones()
    close = get_close_matches(name, known, 1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else "write a name such as Europe/Berlin"
        if known
        else "this machine has no time zones; install the tzdata package"
    )
    return PydanticCustomError("timezone", "no time zone {name}; {hint}", {"name": repr(name), "hint": hint})


def _days(text: str) -> list[int]:
    """Weekdays (0 = Monday) that `mon-fri, sun` or `daily` names."""
    days: list[int] = []
    for part in text.lower().replace(" ", "").split(","):
        if part == "daily":
            days += range(7)
            continue
        first, dash, last = part.partition("-")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            message = "{text} names no weekdays; write mon, mon-fri, sat,sun or daily"
            raise PydanticCustomError("weekdays", message, {"text": repr(text)})
        start, end = DAYS.index(first), DAYS.index(last)
        days += [(start + step) % 7 for step in range((end - start) % 7 + 1)]
    return days


def _spans(text: str) -> list[tuple[int, int]]:
    """Spans in minutes that `09:00-12:00, 13:00-17:30` names."""
    spans: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        if match is None:
            raise _bad_times(text)
        start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
        if int(match[2]) > 59 or int(match[4]) > 59 or start >= DAY_MINUTES or end > DAY_MINUTES or start == end:
            raise _bad_times(text)
        spans.append((start, end if end > start else end + DAY_MINUTES))
    return spans


def _bad_times(text: str) -> PydanticCustomError:
    message = "{text} is no span of the day; write 09:00-17:30, 00:00-24:00, or several with commas"
    return PydanticCustomError("times", message, {"text": repr(text)})
