"""The shared clock: spread phases, a grid that stays, stalls without bursts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from offhook.providers.rtp.clock import PERIOD, PHASES, FrameClock

pytestmark = pytest.mark.virtual_time


class Call:
    def __init__(self, also: Callable[[], Any] = lambda: None) -> None:
        self.at: list[float] = []
        self._also = also

    def tick(self, now: float) -> None:
        self.at.append(now)
        self._also()


async def test_calls_are_spread_over_the_phases_and_ticked_on_the_grid() -> None:
    clock = FrameClock()
    calls = [Call() for _ in range(8)]
    assert sorted(clock.add(call) for call in calls) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(clock) == 8
    await asyncio.sleep(1.0)
    for call in calls:
        assert len(call.at) in (49, 50)
        gaps = [later - earlier for earlier, later in zip(call.at, call.at[1:], strict=False)]
        assert gaps == pytest.approx([PERIOD] * len(gaps))
    starts = {round(call.at[0] / (PERIOD / PHASES)) for call in calls}
    assert len(starts) == PHASES
    for call in calls:
        clock.discard(call)
    assert clock.late_ticks == 0


async def test_nothing_runs_without_calls_and_it_starts_again() -> None:
    clock, call = FrameClock(), Call()
    clock.add(call)
    await asyncio.sleep(0.05)
    clock.discard(call)
    clock.discard(call)
    ticked = len(call.at)
    await asyncio.sleep(1.0)
    assert len(call.at) == ticked
    assert clock.ticks < 20
    clock.add(call)
    await asyncio.sleep(0.05)
    assert len(call.at) > ticked
    clock.discard(call)
    await asyncio.sleep(0.05)


async def test_a_stall_is_one_late_tick_for_each_and_the_grid_stays() -> None:
    clock = FrameClock()
    calls = [Call() for _ in range(4)]
    for call in calls:
        clock.add(call)
    await asyncio.sleep(0.1)
    first = calls[0].at[0]
    before = [len(call.at) for call in calls]
    loop: Any = asyncio.get_running_loop()
    loop._jumping.now += 0.5  # the loop was held up for half a second
    await asyncio.sleep(0)
    await asyncio.sleep(0.0001)
    assert [len(call.at) - was for call, was in zip(calls, before, strict=True)] == [1, 1, 1, 1]
    assert clock.late_ticks == 4
    await asyncio.sleep(0.1)
    on_grid = (calls[0].at[-1] - first) / PERIOD
    assert on_grid == pytest.approx(round(on_grid))
    assert clock.late_ticks == 4
    for call in calls:
        clock.discard(call)


async def test_a_call_that_ends_in_anothers_tick_is_not_ticked() -> None:
    clock = FrameClock()
    calls = [Call() for _ in range(8)]
    for call in calls:
        clock.add(call)
    first, fifth = calls[0], calls[4]
    first._also = lambda: clock.discard(fifth)
    await asyncio.sleep(0.1)
    assert fifth.at == []
    assert len(first.at) > 3
    for call in calls:
        clock.discard(call)


async def test_a_broken_call_silences_only_itself() -> None:
    clock, reported = FrameClock(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))

    def broken() -> None:
        raise RuntimeError("broken")

    bad, good = Call(broken), Call()
    for call in (bad, Call(), Call(), Call(), good):
        clock.add(call)
    await asyncio.sleep(0.2)
    assert len(bad.at) == 1
    assert len(good.at) > 5
    assert reported == ["Call.tick failed"]
    for phase in list(clock._phases):
        for call in phase:
            clock.discard(call)
