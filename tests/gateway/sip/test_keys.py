"""Which way of telling a key counts."""

from __future__ import annotations

import pytest

from offhook.gateway.sip.keys import SAME, Source, Way


@pytest.mark.parametrize("ways", [("rtp", "info"), ("info", "rtp")])
def test_a_key_told_twice_is_one_key(ways: tuple[Way, Way]) -> None:
    first, second = ways
    both = Source("auto")
    assert [both.takes(first, digit, 10.0 + 0.2 * i) for i, digit in enumerate("1553")] == [True] * 4
    assert [both.takes(second, digit, 10.4 + 0.2 * i) for i, digit in enumerate("1553")] == [False] * 4
    assert both.takes(first, "3", 11.5), "another press"


def test_one_way_does_not_shut_the_other_out() -> None:
    both = Source("auto")
    assert both.takes("rtp", "1", 10.0), "a tone that was none"
    assert [both.takes("info", digit, 11.0) for digit in "2345"] == [True] * 4
    assert both.takes("info", "1", 10.0 + SAME + 0.1)
    for number in range(1000):
        both.takes("info", "7", 20.0 + number / 1000)


@pytest.mark.parametrize(("wanted", "rtp"), [("rfc4733", True), ("inband", True), ("info", False)])
def test_the_trunk_says_what_counts(wanted: str, rtp: bool) -> None:
    source = Source(wanted)  # type: ignore[arg-type]
    assert source.takes("rtp", "1", 1.0) is rtp
    assert source.takes("info", "1", 1.0) is not rtp
