"""Pings and the circuit breaker of a target."""

from __future__ import annotations

import pytest

from offhook.providers.sip.ping import FAILURES, TRANSITIONS, Circuit, Ping, random_share


def ping(interval: float = 30.0) -> Ping:
    return Ping(interval, 0.0, share=lambda: 0.0)


def broken(interval: float = 30.0) -> Ping:
    one = ping(interval)
    for _ in range(FAILURES):
        one.report(False, 0.0)
    return one


def test_every_state_can_take_calls_again() -> None:
    assert all(Circuit.CLOSED in steps.values() for steps in TRANSITIONS.values())


def test_a_target_that_answers_is_asked_every_interval() -> None:
    one = ping()
    assert (one.up, one.next_timer(), one.tick(0.0)) == (True, 0.0, True)
    assert (one.next_timer(), one.tick(1.0)) == (None, False)
    one.answered(200, 0.04)
    assert (one.round_trip, one.next_timer(), one.tick(30.0)) == (0.04, 30.04, False)
    assert one.tick(30.04)


@pytest.mark.parametrize("status", [200, 401, 404, 405, 483, 500, 501])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    one = broken()
    assert one.tick(5.0)
    one.answered(status, 5.1)
    assert one.up


@pytest.mark.parametrize("status", [408, 430, 502, 503, 504])
def test_two_failures_in_a_row_open_the_circuit(status: int) -> None:
    one = ping()
    assert one.tick(0.0)
    one.answered(status, 1.0)
    assert (one.up, one.admit(1.0), one.next_timer()) == (True, True, 6.0)
    assert one.tick(6.0)
    one.answered(status, 7.0)
    assert (one.circuit, one.admit(7.0), one.next_timer()) == (Circuit.OPEN, False, 12.0)


def test_one_failure_between_successes_opens_nothing() -> None:
    one = ping()
    for good in (False, True, False, True, False):
        one.report(good, 1.0)
    assert one.up


def test_probes_become_rarer_up_to_once_a_minute_and_no_calls_pass() -> None:
    one = broken()
    pauses, now = [], 0.0
    for _ in range(6):
        due = one.next_timer()
        assert due is not None
        pauses.append(due - now)
        now = due
        assert one.tick(now)
        assert (one.circuit, one.admit(now)) == (Circuit.HALF_OPEN, False)
        one.answered(408, now)
        assert one.circuit is Circuit.OPEN
    assert pauses == [5, 10, 20, 40, 60, 60]
    one.report(True, now)  # a call placed long ago was answered at last
    assert (one.up, one.next_timer()) == (True, now + 30)
    one.report(False, now)
    one.report(False, now)
    assert one.next_timer() == now + 5


def test_failures_of_old_calls_do_not_put_the_probe_off() -> None:
    one = broken()
    one.report(False, 4.9)
    assert one.next_timer() == 5.0


def test_without_pings_one_call_is_the_probe() -> None:
    one = broken(0)
    assert (one.next_timer(), one.tick(9.0), one.admit(4.9)) == (None, False, False)
    assert (one.admit(5.0), one.admit(5.1)) == (True, False)
    one.report(False, 5.2)
    assert (one.admit(15.0), one.admit(15.2), one.admit(20.0)) == (False, True, False)
    assert (one.admit(79.1), one.admit(79.3)) == (False, True)
    one.report(True, 80.0)
    assert one.admit(80.0)


def test_pauses_are_shortened_by_a_tenth_at_most() -> None:
    one = Ping(30.0, 0.0, share=lambda: 1.0)
    one.report(True, 0.0)
    assert one.next_timer() == 27.0
    assert all(0 <= random_share() < 1 for _ in range(100))
