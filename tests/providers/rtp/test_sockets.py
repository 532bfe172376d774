"""Sockets that are read together."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from offhook.providers.rtp.sockets import ROUNDS, Sockets, drain


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with udp() as here, udp() as there:
        yield here, there


Pair = tuple[socket.socket, socket.socket]


def test_what_came_is_given_with_its_source(pair: Pair) -> None:
    here, there = pair
    sockets, came = Sockets(), list[tuple[bytes, Any]]()
    sockets.add(here, lambda data, source, _: came.append((data, source)))
    sockets.read(time.monotonic())
    assert came == []
    for text in (b"one", b"", b"three"):
        there.sendto(text, here.getsockname())
    sockets.read(time.monotonic())
    assert came == [(text, there.getsockname()) for text in (b"one", b"", b"three")]
    sockets.discard(here)
    sockets.discard(here)
    there.sendto(b"four", here.getsockname())
    sockets.read(time.monotonic())
    assert len(came) == 3
    assert len(sockets) == 0


def test_a_flood_of_one_is_read_in_portions(pair: Pair) -> None:
    here, there = pair
    sockets, came = Sockets(), list[bytes]()
    sockets.add(here, lambda data, *_: came.append(data))
    sockets.add(there, lambda data, *_: came.append(data))
    for _ in range(50):
        there.sendto(b"flood", here.getsockname())
    here.sendto(b"voice", there.getsockname())
    sockets.read(time.monotonic())
    assert came.count(b"flood") == ROUNDS
    assert came.index(b"voice") < 2
    sockets.discard(here)
    sockets.discard(there)


def test_a_taker_may_end_its_own_call_and_others(pair: Pair) -> None:
    here, there = pair
    sockets, came = Sockets(), list[bytes]()

    def take(data: bytes, source: Any, at: float) -> None:
        came.append(data)
        sockets.discard(here)
        sockets.discard(there)

    sockets.add(here, take)
    sockets.add(there, take)
    there.sendto(b"a", here.getsockname())
    here.sendto(b"b", there.getsockname())
    sockets.read(time.monotonic())
    assert len(came) == 1


def test_what_came_too_early_is_thrown_away(pair: Pair) -> None:
    here, there = pair
    for _ in range(3):
        there.sendto(b"early", here.getsockname())
    assert drain(here) == 3
    assert drain(here) == 0


def test_after_a_stall_of_ours_the_kernel_says_when_each_came(pair: Pair) -> None:
    here, there = pair
    sockets, came = Sockets(), list[float]()
    sockets.add(here, lambda _, __, at: came.append(at))
    sockets.read(time.monotonic())
    sent = []
    for _ in range(3):
        sent.append(time.monotonic())
        there.sendto(b"x", here.getsockname())
        time.sleep(0.02)
    sockets.read(time.monotonic())
    assert came == pytest.approx(sent, abs=0.01)
    sockets.discard(here)
