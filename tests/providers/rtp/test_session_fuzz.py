"""Whatever a peer sends, in whatever order and time: no exception, nothing that grows, nothing that takes long."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offhook.providers.base import FAULT_KINDS, MediaReceived, ProtocolFault
from offhook.providers.rtp.media import G722, L16_16K, OPUS, PCMA, PCMU, Address, MediaPlan
from offhook.providers.rtp.packet import RtpPacket
from offhook.providers.rtp.rtcp import Goodbye, ReceiverReport, ReportBlock, SenderReport, build
from offhook.providers.rtp.session import RtpSession

PEER = Address("192.0.2.10", 4000)
SOURCES = [PEER, Address(PEER.host, 4001), Address("203.0.113.1", 9), Address("127.0.0.1", 1)]
PLAN = MediaPlan(
    PCMU,
    0,
    {0: PCMU, 8: PCMA, 9: G722, 96: OPUS, 97: L16_16K},
    101,
    frozenset({101}),
    remote=PEER,
)

packets = st.builds(
    lambda kind, seq, at, ssrc, payload, marker: RtpPacket(kind, seq, at, ssrc, payload, marker).encode(),
    st.sampled_from([0, 0, 0, 8, 9, 13, 19, 96, 97, 101, 50]),
    st.one_of(st.integers(0, 20), st.integers(0, 65535)),
    st.one_of(st.integers(0, 20).map(lambda i: i * 160), st.integers(0, 2**32 - 1)),
    st.sampled_from([7, 7, 7, 8, 1]),
    st.one_of(st.just(b"\x55" * 160), st.binary(max_size=200)),
    st.booleans(),
)
numbers = st.integers(0, 2**32 - 1)
blocks = st.builds(ReportBlock, st.just(1), st.integers(0, 255), st.integers(-9, 9), numbers, numbers, numbers, numbers)
reports = st.builds(
    lambda ntp, block: build([SenderReport(7, ntp, 1, 2, 3, (block,)), ReceiverReport(7), Goodbye((7,))], "x"),
    st.integers(0, 2**64 - 1),
    blocks,
)


def damaged(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    def damage(data: bytes, place: int, value: int, cut: int) -> bytes:
        changed = bytearray(data)
        changed[place % len(changed)] = value
        return bytes(changed[: len(changed) - cut % 20])

    return st.builds(damage, whole, st.integers(0, 400), st.integers(0, 255), st.integers(0, 19))


datagrams = st.one_of(packets, packets, reports, damaged(packets), damaged(reports), st.binary(max_size=100))
steps = st.tuples(
    datagrams, st.sampled_from([0, 0, 0, 0, 1, 2, 3]), st.booleans(), st.sampled_from([0.0, 0.001, 0.02, 0.5, 10.0])
)


def held(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of everything that hangs on the session and was made for it."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type) or callable(thing) or hasattr(thing, "__code__"):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return size + sum(held(key, seen) + held(value, seen) for key, value in thing.items())
    if isinstance(thing, str | bytes | int | float):
        return size
    if isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        return size + sum(held(item, seen) for item in thing)
    for name in getattr(type(thing), "__slots__", ()):
        size += held(getattr(thing, name, None), seen)
    return size + sum(held(value, seen) for value in getattr(thing, "__dict__", {}).values())


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=60))
@example([(b"", 0, False, 0.0), (b"\x80", 0, True, 0.0), (b"\x80\xc8", 0, False, 0.0)])
@example([(RtpPacket(96, 1, 1, 7, b"\x7b\x3f").encode(), 0, False, 0.02)])
def test_any_datagrams_give_events_of_the_closed_list(script: list[tuple[bytes, int, bool, float]]) -> None:
    session = RtpSession(PLAN, 100.0, ssrc=1)
    now = 100.0
    for data, source, is_rtcp, pause in script:
        now += pause
        events = [*session.receive(data, SOURCES[source], now, is_rtcp=is_rtcp), *session.poll(now)]
        for packet, _, _ in session.tick(now):
            assert len(packet) < 1400
        for event in events:
            if isinstance(event, ProtocolFault):
                assert event.kind in FAULT_KINDS
                assert len(event.detail) <= 200
            if isinstance(event, MediaReceived):
                assert 0 < len(event.payload) <= 8000
    stats = session.stats()
    assert 0.0 <= stats.loss <= 1.0
    assert 1.0 <= stats.mos <= 4.5


@settings(max_examples=5, deadline=None)
@given(st.lists(datagrams, min_size=1, max_size=10), st.integers(0, 2**32))
def test_memory_is_bounded_whatever_comes(data: list[bytes], seed: int) -> None:
    chance = random.Random(seed)
    session = RtpSession(PLAN, 100.0, ssrc=1)
    now = 100.0
    for i in range(1500):
        now += 0.02
        packet = RtpPacket(
            chance.choice([0, 101, 13]), i * 3 & 0xFFFF, chance.getrandbits(32), 7, b"\x55" * 160
        ).encode()
        session.receive(packet, PEER, now)
        session.receive(chance.choice(data), PEER, now)
        session.play(b"\x11" * 400)
        session.tick(now)
        session.poll(now)
    assert held(session) < 400_000


@pytest.mark.timing
def test_the_worst_datagram_takes_no_time() -> None:
    session = RtpSession(PLAN, 100.0, ssrc=1)
    worst = [
        RtpPacket(0, 1, 1, 7, bytes(2000)).encode(),
        b"\x9f\x00" + bytes(8) + b"\xff" * 2000,
        b"\x80\xc9\x00\x00" * 400,
    ]
    for data in worst:
        began = time.perf_counter()
        session.receive(data, PEER, 100.0)
        assert time.perf_counter() - began < 0.005
