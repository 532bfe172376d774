"""Timers of sessions."""

from __future__ import annotations

from offhook.providers.sip import timers as module
from offhook.providers.sip.timers import Repeater, Timers


def test_in_order_and_once() -> None:
    timers, done = Timers(), []
    timers.set(3.0, lambda now: done.append(("c", now)))
    timers.set(1.0, lambda now: done.append(("a", now)))
    gone = timers.set(2.0, lambda now: done.append(("b", now)))
    timers.set(1.0, lambda now: done.append(("a2", now)))
    gone.cancel()
    gone.cancel()
    assert timers.next() == 1.0
    timers.run(0.5)
    assert done == []
    timers.run(2.5)
    assert done == [("a", 2.5), ("a2", 2.5)]
    timers.run(9.0)
    assert done[2:] == [("c", 9.0)]
    assert timers.next() is None


def test_cancelled_by_one_that_is_due_too() -> None:
    timers, done = Timers(), []
    timers.set(1.0, lambda now: later.cancel())
    later = timers.set(2.0, done.append)
    timers.run(5.0)
    assert done == []


def test_cancelled_ones_do_not_pile_up() -> None:
    timers = Timers()
    kept = timers.set(10_000.0, lambda now: None)
    for _ in range(20 * module.COMPACT_AT):
        timers.set(5_000.0, lambda now: None).cancel()
    assert len(timers) <= 2 * module.COMPACT_AT
    assert timers.next() == kept.at


def test_repeater() -> None:
    timers, sent, given_up = Timers(), [], []
    Repeater(timers, sent.append, given_up.append, 0.0, first=0.5, longest=4.0, patience=32.0)
    while (at := timers.next()) is not None:
        timers.run(at)
    assert sent == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert given_up == [32.0]


def test_repeater_stopped_or_late() -> None:
    timers, sent, given_up = Timers(), [], []
    repeater = Repeater(timers, sent.append, given_up.append, 0.0, first=0.5, longest=4.0, patience=32.0)
    timers.run(20.0)
    assert sent == [20.0]  # no burst of what was missed
    repeater.stop()
    assert timers.next() is None
