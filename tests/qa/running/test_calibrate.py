"""The table of the dialer's own error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from offhook.qa.phones.base import CallLog, CallOrder, Operator, Phone, Unreachable
from offhook.qa.reference import Reference
from offhook.qa.running import calibrate as module
from offhook.qa.running.calibrate import Calibration, Row, calibrate


def row(error: float, *, metric: str = "v2v_ms", tolerance: float = 20.0) -> Row:
    return Row("sip", metric, "ms", 700.0, 700.0 + error, error, tolerance, 5)


def test_passes_when_every_error_is_within_its_tolerance() -> None:
    assert Calibration([row(20.0), row(-20.0)]).passed
    assert not Calibration([row(3.0), row(-20.1)]).passed
    assert not Calibration([row(0.0)], wrong=["sip: not answered"]).passed
    assert not Calibration().passed


def test_shows_a_table() -> None:
    found = Calibration([row(4.2), row(31.0, metric="barge_stop_ms")], wrong=["sip: of the keys 12 it heard 1"])
    head, good, bad, wrong = found.as_text().splitlines()
    assert head.split() == ["way", "metric", "n", "true", "measured", "error", "limit"]
    assert good.split() == ["sip", "v2v_ms", "5", "700.0", "704.2", "+4.2", "20", "ms"]
    assert bad.endswith("TOO MUCH")
    assert wrong == "sip: of the keys 12 it heard 1"


def test_blames_a_busy_machine_when_it_fails() -> None:
    busy = Calibration([row(31.0)], own_late_p99_ms=33.0)
    assert busy.as_text().splitlines()[-1].startswith("This machine is too busy: the caller's frames left 33 ms late")
    assert "busy" not in Calibration([row(3.0)], own_late_p99_ms=33.0).as_text()


def test_gives_plain_data() -> None:
    found = Calibration([row(4.0)], own_late_p99_ms=1.234)
    assert found.as_dict() == {
        "passed": True,
        "rows": [
            {
                "way": "sip",
                "metric": "v2v_ms",
                "unit": "ms",
                "true": 700.0,
                "measured": 704.0,
                "error": 4.0,
                "tolerance": 20.0,
                "n": 5,
                "ok": True,
            }
        ],
        "wrong": [],
        "own_late_p99_ms": 1.23,
        "reference_late_ms": 0.0,
    }


async def test_knows_its_ways() -> None:
    with pytest.raises(ValueError, match="cannot be called by link, only by sip and twilio"):
        await calibrate(("link",))


class Dead(Phone):
    way = "sip"

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        raise Unreachable("nobody is at sip:reference@127.0.0.1:9")


async def test_goes_on_when_a_call_fails_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @asynccontextmanager
    async def nobody(**given: Any) -> AsyncIterator[Reference]:
        yield Reference("sip:reference@127.0.0.1:9", "twilio+http://127.0.0.1:9/twilio/voice", "x", tmp_path / "t", 0)

    monkeypatch.setattr(module, "reference", nobody)
    monkeypatch.setattr(module, "open_phone", lambda target, **given: Dead())
    told: list[str] = []
    found = await calibrate(("sip",), on_call=told.append, cache=tmp_path)
    assert not found.passed
    assert found.wrong == ["sip: nobody is at sip:reference@127.0.0.1:9"] * 4
    assert "sip: keys both ways" in told


@pytest.mark.slow
@pytest.mark.timeout(180)  # a call that a busy machine spoilt is made again
async def test_measures_what_the_reference_does() -> None:
    """All of it, over SIP and Twilio's streams: some 40 s of calls."""
    found = await calibrate()
    assert found.passed, found.as_text()
