"""Sockets, clock and session together, over the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from offhook.providers.base import DtmfReceived, HoldChanged, MediaReceived, StreamEnded, StreamEvent
from offhook.providers.rtp.clock import FrameClock
from offhook.providers.rtp.leg import RtpLeg
from offhook.providers.rtp.media import PCMU, Address, MediaPlan
from offhook.providers.rtp.ports import NoPortLeft, PortPool
from offhook.providers.rtp.quality import MediaStats
from offhook.providers.rtp.rtcp import Goodbye, parse

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
LOW = 23_100 + 40 * WORKER
HIGH = LOW + 39


def pool() -> PortPool:
    return PortPool(LOW, HIGH)


def plan_to(leg: RtpLeg, direction: str = "sendrecv") -> MediaPlan:
    return MediaPlan(PCMU, 0, {0: PCMU}, 101, frozenset({101}), remote=leg.local, direction=direction)  # type: ignore[arg-type]


class Ear:
    """Keeps the events of a leg."""

    def __init__(self, leg: RtpLeg) -> None:
        self.events: list[StreamEvent] = []
        leg.on_events = self.hear

    def hear(self, events: Sequence[StreamEvent], now: float) -> None:
        assert now > 0
        self.events += events

    @property
    def audio(self) -> bytes:
        return b"".join(event.payload for event in self.events if isinstance(event, MediaReceived))


@asynccontextmanager
async def two_legs(host: str = "127.0.0.1") -> AsyncIterator[tuple[RtpLeg, RtpLeg]]:
    ports, clock = pool(), FrameClock()
    legs = [await RtpLeg.open(ports, clock, host) for _ in range(2)]
    try:
        yield legs[0], legs[1]
    finally:
        for leg in legs:
            leg.close()
        await asyncio.sleep(0)
        assert len(clock) == 0
        await asyncio.sleep(0.01)


async def until(condition: object, seconds: float = 3.0) -> None:
    for _ in range(round(seconds / 0.01)):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_two_legs_hear_each_other(host: str) -> None:
    async with two_legs(host) as (here, there):
        ear = Ear(there)
        here.start(plan_to(there))
        there.start(plan_to(here))
        assert str(here.format) == "pcmu/8000"
        for _ in range(5):
            here.send_message(here.media(b"\x22" * 160))
        assert here.send_dtmf("7") == b""
        await until(lambda: any(isinstance(event, DtmfReceived) for event in ear.events))
        await until(lambda: b"\x22" * 800 in ear.audio)
        assert here.mark("m") is None
        assert here.clear(0.0) == ()
        assert here.receive(b"", 0.0) == here.receive_binary(b"", 0.0) == ()
        assert there.stats().packets_received > 5
        assert there.quality()["mos"] > 4
        assert there.quality()["packets_received"] > 0
        assert there.last_heard > 0


async def test_hold_is_told_and_makes_the_leg_silent_and_unwritable() -> None:
    async with two_legs() as (here, there):
        ear = Ear(here)
        assert not here.writable_now
        assert not here.silent
        here.start(plan_to(there))
        assert here.writable_now
        here.update(plan_to(there, "inactive"))
        assert here.silent
        assert not here.writable_now
        here.update(plan_to(there))
        assert ear.events == [HoldChanged(True), HoldChanged(False)]


async def test_closing_says_goodbye_and_lets_the_ports_rest() -> None:
    ports, clock = pool(), FrameClock()
    free = ports.free(0.0)
    here = await RtpLeg.open(ports, clock, "127.0.0.1")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtcp,
    ):
        peer.bind(("127.0.0.1", 0))
        rtcp.bind(("127.0.0.1", 0))
        rtcp.setblocking(False)
        plan = MediaPlan(
            PCMU, 0, {0: PCMU}, remote=Address(*peer.getsockname()), remote_rtcp=Address(*rtcp.getsockname())
        )
        here.start(plan)
        here.close()
        here.close()
        here.send_message(b"\xff" * 160)
        assert isinstance(parse(rtcp.recv(2000))[-1], Goodbye)
    assert [*here.closed(0.0), *here.closed(0.0)] == [StreamEnded("stop")]
    assert not here.writable_now
    assert ports.free(0.0) == free - 1
    await asyncio.sleep(0.01)


async def test_before_the_start_nothing_is_heard_or_sent() -> None:
    async with two_legs() as (here, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"early", here.local)
        here.send_message(b"\xff" * 160)
        assert here.send_dtmf("1") is None
        assert here.quality() == {}
        assert here.stats() == MediaStats()
        assert here.last_heard == 0.0
        assert here.clear(0.0) == ()
        assert list(here.closed(0.0)) == [StreamEnded("transport-lost")]
        here.start(plan_to(here))
        assert here.early == 1


async def test_a_port_of_another_program_is_passed_over() -> None:
    clock = FrameClock()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", LOW + 1))
        leg = await RtpLeg.open(pool(), clock, "127.0.0.1")
        assert leg.local.port == LOW + 2
        leg.close()
        with pytest.raises(NoPortLeft):
            await RtpLeg.open(PortPool(LOW, LOW + 1), clock, "127.0.0.1")
    await asyncio.sleep(0.01)


async def test_an_address_that_is_not_ours_is_an_error_and_holds_no_port() -> None:
    ports = pool()
    with pytest.raises(OSError, match="assign"):
        await RtpLeg.open(ports, FrameClock(), "192.0.2.1")
    with pytest.raises(ValueError, match="no IP"):
        await RtpLeg.open(ports, FrameClock(), "localhost")
    assert ports.free(1e12) == ports.size


async def test_a_peer_of_the_other_family_is_refused() -> None:
    async with two_legs() as (here, _):
        with pytest.raises(ValueError, match="IPv4"):
            here.start(MediaPlan(PCMU, 0, {0: PCMU}, remote=Address("2001:db8::1", 4000)))
