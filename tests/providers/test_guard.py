"""How much a peer may send."""

from __future__ import annotations

import pytest

from offhook.providers.guard import GIVE_UP, MAX_MESSAGES, SPEED, WINDOW, FloodGuard

START = 1000.0


@pytest.fixture
def guard() -> FloodGuard:
    return FloodGuard(8000)


def send(guard: FloodGuard, seconds: float, speed: float, at: float) -> list[bool]:
    """Frames of 20 ms at a multiple of real time; whether each was admitted."""
    count = round(seconds * speed * 50)
    return [guard.admit(160, at + number * seconds / count) for number in range(count)]


def test_real_time_and_twice_of_it_pass(guard: FloodGuard) -> None:
    assert all(send(guard, 20, 1, START))
    assert all(send(guard, 20, SPEED, START + 20))
    assert not guard.hopeless(START + 40)


def test_what_is_above_twice_real_time_is_dropped(guard: FloodGuard) -> None:
    admitted = send(guard, WINDOW, 4, START)
    assert admitted.count(True) == WINDOW * SPEED * 50
    assert admitted.index(False) == WINDOW * SPEED * 50
    assert not guard.hopeless(START + WINDOW)


def test_many_small_messages_are_a_flood_too(guard: FloodGuard) -> None:
    admitted = [guard.admit(0, START + number / 1000) for number in range(1000)]
    assert admitted.count(True) == MAX_MESSAGES


def test_a_flood_without_end_is_hopeless(guard: FloodGuard) -> None:
    send(guard, GIVE_UP - 1, 4, START)
    assert not guard.hopeless(START + GIVE_UP - 1)
    send(guard, 3, 4, START + GIVE_UP - 1)
    assert guard.hopeless(START + GIVE_UP + 2)


def test_a_calm_window_forgives(guard: FloodGuard) -> None:
    send(guard, 6, 4, START)
    assert all(send(guard, 4, 1, START + 8))
    send(guard, 6, 4, START + 14)
    assert not guard.hopeless(START + 20)


def test_silence_forgives_too(guard: FloodGuard) -> None:
    send(guard, WINDOW, 4, START)
    assert not guard.hopeless(START + 5)
    send(guard, WINDOW, 4, START + 60)
    assert not guard.hopeless(START + 62)
