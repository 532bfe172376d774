"""Keys in INFO."""

from __future__ import annotations

import pytest

from offhook.providers.sip.info import MAX_BODY, PLAIN, RELAY, from_info, to_info


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"Signal=5\r\nDuration=160\r\n", RELAY, ("5", 160)),
        (b"Signal= *\nDuration=250", RELAY, ("*", 250)),
        (b"signal=11\r\n", RELAY, ("#", 0)),
        (b"Duration=100\r\nSignal=d\r\n", RELAY, ("D", 100)),
        (b"7", PLAIN, ("7", 0)),
        (b" # \r\n", PLAIN, ("#", 0)),
        (b"Signal=3\r\n", PLAIN, ("3", 0)),
        (b"Signal=16\r\n", RELAY, None),
        (b"Signal=\r\n", RELAY, None),
        (b"Signal=5\r\nDuration=9999999999\r\n", RELAY, ("5", 0)),
        (b"Signal=12 34", RELAY, None),
        (b"\xff\xfe", PLAIN, None),
        (b"5", "text/plain", None),
        (b"5" * (MAX_BODY + 1), PLAIN, None),
    ],
)
def test_the_key_of_an_info(body: bytes, kind: str, expected: tuple[str, int] | None) -> None:
    assert from_info(body, kind) == expected


@pytest.mark.parametrize("digit", "0123456789ABCD*#")
def test_our_info_is_read_back(digit: str) -> None:
    found = from_info(to_info(digit), RELAY)
    assert found is not None
    assert found[0] == digit
