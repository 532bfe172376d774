"""Quantities as people write them."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from offhook.qa.scenario.units import Limit, decibel, duration, in_unit, limit, share


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1500ms", 1.5), ("5s", 5.0), (" 2m ", 120.0), ("1h", 3600.0), ("0.5 s", 0.5), (0.25, 0.25)],
)
def test_durations(written: object, seconds: float) -> None:
    assert duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["5", "s", "5 sec", "-1s", "1e3s", "", "٣s ", "9" * 40 + "s"])
def test_no_durations(written: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"duration|negative"):
        duration(written)


def test_shares_and_levels() -> None:
    assert [share(text) for text in ("1%", "0.01", "100%", 0)] == [0.01, 0.01, 1.0, 0.0]
    for text in ("101%", "-1%", "x", "nan"):
        with pytest.raises(PydanticCustomError, match="is no share"):
            share(text)
    assert [decibel(text) for text in ("-22dBov", "15 dB", "-3.5dBFS")] == [-22.0, 15.0, -3.5]
    with pytest.raises(PydanticCustomError, match="is no level"):
        decibel("15")


def test_limits() -> None:
    assert limit("<=800") == Limit("<=", 800, "")
    assert limit("=4s") == Limit("==", 4, "s")
    assert limit("0") == Limit("==", 0, "")
    assert str(limit(">= 97%")) == ">=97%"
    with pytest.raises(PydanticCustomError, match="is no limit"):
        limit("~4")
    kept = {"<=": (True, True, False), ">=": (False, True, True), "<": (True, False, False)}
    for op, expected in (kept | {">": (False, False, True), "==": (False, True, False)}).items():
        assert tuple(Limit(op, 2, "").holds(value) for value in (1, 2, 3)) == expected


def test_units() -> None:
    assert in_unit(limit("<=4s"), "ms") == Limit("<=", 4000, "ms")
    assert in_unit(limit("<=500ms"), "s").value == 0.5
    assert in_unit(limit("<=500"), "s").value == 500
    assert in_unit(limit("<=3%"), "pct").value == 3
    assert in_unit(limit(">=-36dBov"), "dBov").value == -36
    for text, unit in (("3%", "ms"), ("3s", ""), ("3dB", "pct")):
        with pytest.raises(ValueError, match="is not in"):
            in_unit(limit(text), unit)
