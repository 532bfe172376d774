from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from offhook.agents.services.faults import kind_of_close, kind_of_status, retry_after


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("rejected", (400, 401, 403, 404, 422)),
        ("timeout", (408, 504)),
        ("rate_limited", (429,)),
        ("unavailable", (500, 502, 503, 529)),
        ("bad_reply", (204, 302)),
    ],
)
def test_a_status_is_a_kind_of_fault(kind: str, statuses: tuple[int, ...]) -> None:
    assert {kind_of_status(status) for status in statuses} == {kind}


def test_a_close_code_is_a_kind_of_fault() -> None:
    assert {kind_of_close(code) for code in (1000, 1001, 1006, 1011, 3000)} == {"unavailable"}
    assert {kind_of_close(code) for code in (1003, 1008, 4000, 4999)} == {"rejected"}
    assert kind_of_close(4429) == "rate_limited"


def test_a_wait_is_read_in_all_its_forms() -> None:
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert retry_after({"retry-after-ms": "soon", "retry-after": "2"}) == 2
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=2)
    for nonsense in ("soon", "inf", "nan", "-3", ""):
        assert retry_after({"retry-after": nonsense}) == 0
    assert retry_after({}) == 0
