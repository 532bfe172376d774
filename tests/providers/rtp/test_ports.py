"""The pool of port pairs."""

from __future__ import annotations

import pytest

from offhook.providers.rtp.ports import NoPortLeft, PortPool


def test_ports_are_even_and_rest_after_a_call() -> None:
    pool = PortPool(20001, 20007, quarantine=30.0)
    assert pool.size == 3
    ports = [pool.take(0.0) for _ in range(3)]
    assert ports == [20002, 20004, 20006]
    with pytest.raises(NoPortLeft, match="widen"):
        pool.take(0.0)
    pool.give_back(20004, 1.0)
    assert pool.free(30.9) == 0
    with pytest.raises(NoPortLeft):
        pool.take(30.9)
    assert pool.take(31.0) == 20004


def test_the_port_that_rested_longest_comes_first() -> None:
    pool = PortPool(20000, 20005, quarantine=0.0)
    first = pool.take(0.0)
    pool.give_back(first, 0.0)
    pool.give_back(first, 0.0)  # once is enough
    assert [pool.take(1.0) for _ in range(3)] == [20002, 20004, 20000]
    assert pool.free(1.0) == 0


def test_a_port_that_was_not_taken_is_not_given_back() -> None:
    pool = PortPool(20000, 20001)
    pool.give_back(9, 0.0)
    assert pool.free(1e9) == 1


@pytest.mark.parametrize(("low", "high"), [(20000, 20000), (20001, 20002), (0, 10), (65000, 65536), (20010, 20000)])
def test_a_range_without_a_pair_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="no pair"):
        PortPool(low, high)
