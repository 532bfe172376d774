"""Opening hours, through midnight and through changes of the clock."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from offhook.gateway.hours import Hours

BERLIN = ZoneInfo("Europe/Berlin")


def open_at(hours: Hours, text: str, zone: str = "Europe/Berlin") -> bool:
    return hours.is_open(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def test_spans_begin_inclusive_and_end_exclusive() -> None:
    hours = Hours(timezone="Europe/Berlin", open={"mon-fri": "09:00-12:00, 13:00-17:30", "sat": "10:00-14:00"})
    monday = "2026-11-23T"
    assert not open_at(hours, monday + "08:59:59")
    assert open_at(hours, monday + "09:00")
    assert not open_at(hours, monday + "12:00")
    assert not open_at(hours, monday + "12:59")
    assert open_at(hours, monday + "13:00")
    assert open_at(hours, monday + "17:29:59")
    assert not open_at(hours, monday + "17:30")
    assert open_at(hours, "2026-11-28T10:00")
    assert not open_at(hours, "2026-11-29T10:00")


def test_times_may_be_a_list_and_days_may_wrap_around() -> None:
    hours = Hours.model_validate(
        {"timezone": "UTC", "open": {"Fri-Mon": ["08:00-09:00", "10:00-11:00"], "wed , thu": "00:00-24:00"}}
    )
    open_days = [day for day in range(23, 30) if open_at(hours, f"2026-11-{day}T10:30", "UTC")]
    assert open_days == [23, 25, 26, 27, 28, 29]


def test_a_span_may_cross_midnight() -> None:
    hours = Hours(timezone="Europe/Berlin", open={"fri": "22:00-06:00"})
    assert open_at(hours, "2026-11-27T23:00")
    assert open_at(hours, "2026-11-28T05:59")
    assert not open_at(hours, "2026-11-28T06:00")
    assert not open_at(hours, "2026-11-27T05:00")
    assert not open_at(hours, "2026-11-28T23:00")


def test_sunday_night_belongs_to_sunday() -> None:
    hours = Hours(timezone="Europe/Berlin", open={"sun": "20:00-02:00"})
    assert open_at(hours, "2026-11-30T01:00")
    assert not open_at(hours, "2026-11-29T01:00")


def test_daily_around_the_clock() -> None:
    hours = Hours(timezone="UTC", open={"daily": "00:00-24:00"})
    assert all(open_at(hours, f"2026-11-{day}T{hour:02}:59", "UTC") for day in range(23, 30) for hour in range(24))


def test_no_hours_are_never_open() -> None:
    assert not open_at(Hours(timezone="UTC", open={}), "2026-11-23T12:00", "UTC")


def test_hours_follow_the_change_of_the_clock() -> None:
    hours = Hours(timezone="Europe/Berlin", open={"daily": "09:00-17:00"})
    assert hours.is_open(datetime.fromisoformat("2026-07-01T07:00+00:00"))
    assert not hours.is_open(datetime.fromisoformat("2026-12-01T07:00+00:00"))
    assert hours.is_open(datetime.fromisoformat("2026-12-01T08:00+00:00"))


def test_the_caller_s_own_zone_does_not_matter() -> None:
    hours = Hours(timezone="Asia/Tokyo", open={"tue": "09:00-10:00"})
    assert hours.is_open(datetime.fromisoformat("2026-11-23T16:30-08:00"))


@pytest.mark.parametrize(
    ("timezone", "open", "said"),
    [
        ("Europe/Berln", {}, "did you mean 'Europe/Berlin'?"),
        ("Nowhere/At_all", {}, "no time zone 'Nowhere/At_all'"),
        ("../../etc/passwd", {}, "no time zone"),
        ("", {}, "no time zone ''"),
        ("UTC", {"mon-fry": "09:00-17:00"}, "names no weekdays"),
        ("UTC", {"": "09:00-17:00"}, "names no weekdays"),
        ("UTC", {"mon": "9-17"}, "'9-17' is no span of the day; write 09:00-17:30"),
        ("UTC", {"mon": "09:60-17:00"}, "is no span"),
        ("UTC", {"mon": "24:00-25:00"}, "is no span"),
        ("UTC", {"mon": "09:00-24:01"}, "is no span"),
        ("UTC", {"mon": "09:00-09:00"}, "is no span"),
        ("UTC", {"mon": ""}, "is no span"),
    ],
)
def test_mistakes_are_named_with_the_remedy(timezone: str, open: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Hours(timezone=timezone, open=open)
    assert said in str(caught.value)
