"""The jitter buffer on simulated lines, in virtual time: what is heard, how long it waited, what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest

from offhook.codecs.audio import L16_8K
from offhook.codecs.conceal import Concealer
from offhook.codecs.jitter import JUMP_PACKETS, JitterBuffer, Played
from offhook.codecs.pcm import dbfs, tone

FRAME = 0.02
TICKS = 160
FIRST_SEQ, FIRST_TIMESTAMP = 65_500, 2**32 - 8000
"""Both wrap within the first seconds."""


class Arrival(NamedTuple):
    at: float
    number: int


class Heard(NamedTuple):
    """A piece of the stream, with the time at which it was given and, unless lost, its packet's number."""

    at: float
    number: int | None
    ticks: int


def line(
    seconds: float,
    *,
    loss: float = 0,
    jitter: Callable[[random.Random], float] = lambda _: 0.0,
    ppm: float = 0,
    seed: int = 1,
) -> list[Arrival]:
    """Packets of 20 ms as they arrive, in order of arrival; the sender's clock is slow by `ppm`."""
    rng = random.Random(seed)
    sent = [Arrival(1000 + n * FRAME * (1 + ppm * 1e-6) + jitter(rng), n) for n in range(round(seconds / FRAME))]
    return sorted(arrival for arrival in sent if rng.random() >= loss)


def carried(arrivals: list[Arrival], buffer: JitterBuffer, phase: float = 0.007) -> list[Heard]:
    """Push what arrives; pop after each arrival and every 20 ms, as an RTP session does."""
    heard: list[Heard] = []
    tick = arrivals[0].at + phase

    def pop(now: float) -> None:
        for payload, ticks in buffer.pop(now):
            heard.append(Heard(now, None if payload is None else int.from_bytes(payload, "big"), ticks))

    for at, number in arrivals:
        while tick < at:
            pop(tick)
            tick += FRAME
        push(buffer, number, at)
        pop(at)
    for _ in range(20):
        pop(tick)
        tick += FRAME
    return heard


def push(buffer: JitterBuffer, number: int, now: float, ticks: int = TICKS) -> None:
    """The packet of a steady sender."""
    timestamp = FIRST_TIMESTAMP + TICKS * number & 0xFFFFFFFF
    buffer.push(FIRST_SEQ + number & 0xFFFF, timestamp, number.to_bytes(4, "big"), ticks, now)


def numbers(played: list[Played]) -> list[int | None]:
    return [None if payload is None else int.from_bytes(payload, "big") for payload, _ in played]


def gaps(heard: list[Heard]) -> list[float]:
    """How long a listener heard nothing real, each time: waiting and concealment both."""
    silent, ends = [], 0.0
    for at, number, _ in heard:
        if number is not None:
            silent.append(max(0.0, at - ends) if ends else 0.0)
            ends = max(at, ends) + FRAME
    return silent


def waits(heard: list[Heard], arrivals: list[Arrival]) -> list[float]:
    arrived = {number: at for at, number in arrivals}
    return [at - arrived[number] for at, number, _ in heard if number is not None]


def uniform(most: float) -> Callable[[random.Random], float]:
    return lambda rng: rng.uniform(0, most)


# --- quality -----------------------------------------------------------------------------


def test_on_a_clean_line_nothing_waits() -> None:
    arrivals = line(60)
    heard = carried(arrivals, buffer := JitterBuffer(8000))
    waited = waits(heard, arrivals)
    assert [number for _, number, _ in heard] == list(range(3000))
    assert max(waited) <= FRAME + 1e-6  # the first ones, until the line is known
    assert max(waited[100:]) == 0
    assert max(gaps(heard)) < 1e-6
    assert buffer.delay == 0


@pytest.mark.parametrize("phase", [0.0, 0.003, 0.01, 0.0199])
def test_the_jitter_of_a_machine_counts_as_clean(phase: float) -> None:
    arrivals = line(30, jitter=uniform(0.006))
    heard = carried(arrivals, buffer := JitterBuffer(8000), phase)
    waited = waits(heard, arrivals)
    assert max(waited) <= FRAME + 0.006
    assert max(waited[100:]) == 0
    assert buffer.stats.lost == 0
    assert buffer.stats.jitter == pytest.approx(0.002, abs=0.001)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_5_percent_loss_and_40_ms_jitter_leave_no_gap_over_60_ms(seed: int) -> None:
    arrivals = line(120, loss=0.05, jitter=uniform(0.04), seed=seed)
    heard = carried(arrivals, buffer := JitterBuffer(8000))
    got = [number for _, number, _ in heard if number is not None]
    assert got == sorted(got)
    assert len(got) >= 0.999 * len(arrivals)  # next to nothing is lost beyond what the line lost
    assert max(gaps(heard)) <= 0.06  # with these seeds the line loses no four in a row
    assert sum(ticks for _, _, ticks in heard) == 6000 * TICKS  # and nothing is out of time
    assert buffer.stats.lost == 6000 - len(got)
    # Packets wait for the slowest, and for the next call of `pop`.
    assert max(waits(heard, arrivals)[50:]) <= 0.06
    assert sum(waits(heard, arrivals)) / len(got) <= 0.03


def longest_silence(heard: list[Heard]) -> float:
    """Seconds for which a listener hears nothing of a tone, be it that nothing is there to play or that it is soft."""
    sine = tone(300, FRAME, 8000)
    concealer = Concealer(L16_8K)
    silent = longest = ends = 0.0
    for at, number, ticks in heard:
        piece = concealer.good(sine) if number is not None else concealer.lost(2 * ticks)
        silent += max(0.0, at - ends) if ends else 0.0
        ends = max(at, ends) + ticks / 8000
        for begin in range(0, len(piece), 80):  # 5 ms each
            longest = max(longest, silent)
            silent = silent + 0.005 if dbfs(piece[begin : begin + 80]) < -40 else 0.0
    return longest


@pytest.mark.parametrize("seed", [3, 6])
def test_not_even_four_lost_in_a_row_are_heard_as_a_gap_of_60_ms(seed: int) -> None:
    heard = carried(line(300, loss=0.05, jitter=uniform(0.04), seed=seed), JitterBuffer(8000))
    assert max(gaps(heard)) > 0.075  # three of twenty seeds have such a run
    assert longest_silence(heard) <= 0.05


@pytest.mark.parametrize("ppm", [200, -200])
def test_an_hour_of_clock_drift_is_absorbed(ppm: float) -> None:
    # Every 20th packet stands for the second around it; that keeps an hour quick.
    buffer = JitterBuffer(8000)
    rng = random.Random(1)
    waited = []
    for second in range(3600):
        for part in range(4):
            number = second * 4 + part
            now = 1000 + number * 0.25 * (1 + ppm * 1e-6) + rng.uniform(0, 0.004)
            buffer.push(number & 0xFFFF, number * 2000 & 0xFFFFFFFF, b"x", 2000, now)
            played = buffer.pop(now) or buffer.pop(now + FRAME)
            assert played == [(b"x", 2000)]
            waited.append(buffer.delay)
    assert buffer.stats.lost == buffer.stats.late == buffer.stats.resets == 0
    assert max(waited[100:]) < 0.005


@pytest.mark.parametrize("ppm", [200, -200])
def test_drift_under_jitter_and_loss_neither_grows_nor_starves(ppm: float) -> None:
    arrivals = line(600, loss=0.01, jitter=uniform(0.03), ppm=ppm, seed=5)
    heard = carried(arrivals, buffer := JitterBuffer(8000))
    waited = waits(heard, arrivals)
    assert max(waited) <= 0.05
    assert buffer.stats.late <= 30
    assert abs(sum(waited[1000:5000]) / 4000 - sum(waited[-4000:]) / 4000) < 0.003


def test_the_delay_rises_at_once_and_comes_down_slowly() -> None:
    buffer = JitterBuffer(8000)
    delays = []
    for number in range(1500):
        spike = 0.08 if number == 520 else 0.0
        push(buffer, number, 10 + number * FRAME + spike)
        buffer.pop(10 + number * FRAME + spike)
        delays.append(buffer.delay)
    assert delays[519] == 0
    assert delays[520] == pytest.approx(0.08)
    assert max(before - after for before, after in pairwise(delays[520:])) < 0.001
    assert 0.02 < delays[580] < 0.08
    assert delays[700] == 0


def test_the_delay_has_a_limit() -> None:
    buffer = JitterBuffer(8000, max_delay=0.1)
    for number in range(500):
        push(buffer, number, 10 + number * FRAME + (0.5 if number % 50 == 49 else 0))
        buffer.pop(10 + number * FRAME)
        assert buffer.delay <= 0.1 + 1e-9


def test_after_a_stall_everything_comes_in_order() -> None:
    buffer = JitterBuffer(8000)
    arrivals = [Arrival(10 + max(number * FRAME, 1.5 if number >= 25 else 0), number) for number in range(200)]
    heard = carried(arrivals, buffer)
    assert [number for _, number, _ in heard] == list(range(200))
    assert buffer.stats.lost == buffer.stats.resets == 0


def test_a_way_that_becomes_longer_for_good_is_followed() -> None:
    buffer = JitterBuffer(8000)
    arrivals = [Arrival(10 + n * FRAME + (0.3 if n >= 100 else 0), n) for n in range(600)]
    heard = carried(arrivals, buffer)
    assert [number for _, number, _ in heard] == list(range(600))
    assert buffer.delay == 0


# --- order -------------------------------------------------------------------------------


def test_reordered_packets_are_put_in_order_from_the_first_on() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 1, 10.0)
    push(buffer, 0, 10.001)
    assert numbers(buffer.pop(10.05)) == [0, 1]
    push(buffer, 3, 10.051)
    push(buffer, 2, 10.052)
    assert numbers(buffer.pop(10.1)) == [2, 3]
    assert buffer.stats.reordered == 2
    assert buffer.stats.lost == 0


def test_a_duplicate_is_played_once() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 0, 10.0)
    push(buffer, 0, 10.0)
    assert numbers(buffer.pop(10.02)) == [0]
    push(buffer, 0, 10.02)
    assert buffer.pop(10.1) == []
    assert buffer.stats.duplicate == 2
    assert buffer.stats.received == 3


def test_a_lost_packet_is_given_up_when_a_later_one_is_due() -> None:
    buffer = JitterBuffer(8000)
    for number in (0, 1, 3):
        push(buffer, number, 10 + number * FRAME)
    assert numbers(buffer.pop(10.045)) == [0, 1]
    assert buffer.peek() is None
    assert buffer.pop(10.06) == [(None, TICKS)]
    assert buffer.peek() == (3).to_bytes(4, "big")
    assert numbers(buffer.pop(10.08)) == [3]
    push(buffer, 2, 10.09)
    push(buffer, 2, 10.09)
    assert buffer.pop(10.2) == []
    assert (buffer.stats.lost, buffer.stats.late, buffer.stats.duplicate) == (1, 1, 1)
    assert buffer.delay == pytest.approx(0.05)  # the next ones wait for such a packet


def test_without_a_later_packet_the_buffer_waits() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 0, 10.0)
    assert numbers(buffer.pop(10.1)) == [0]
    assert buffer.pop(12.0) == []
    push(buffer, 1, 12.0)
    assert numbers(buffer.pop(12.0)) == [1]
    assert buffer.stats.lost == 0


def test_packets_of_changing_length_leave_a_gap_of_the_right_length() -> None:
    buffer = JitterBuffer(8000)
    buffer.push(0, 0, b"a", 160, 10.0)
    buffer.push(2, 160 + 480, b"c", 480, 10.08)
    assert buffer.pop(10.2) == [(b"a", 160), (None, 480), (b"c", 480)]


def test_a_pause_is_no_loss() -> None:
    buffer = JitterBuffer(8000)
    buffer.push(0, 0, b"a", 160, 10.0)
    assert buffer.pop(10.02) == [(b"a", 160)]
    buffer.push(1, 8000, b"b", 160, 11.0)
    assert buffer.pop(11.02) == [(b"b", 160)]
    # A packet is lost at the beginning of the next pause: it is concealed, the pause is not.
    buffer.push(3, 24_000, b"d", 160, 13.0)
    assert buffer.pop(13.02) == [(None, 160), (b"d", 160)]
    assert buffer.stats.lost == 1


def test_packets_without_audio_hold_their_place_and_are_not_played() -> None:
    buffer = JitterBuffer(8000)
    buffer.push(0, 0, b"a", 160, 10.0)
    for seq in range(1, 9):  # a key of 160 ms
        if seq != 4:
            buffer.push(seq, 160, b"", 0, 10 + seq * FRAME)
        buffer.pop(10 + seq * FRAME)
    buffer.push(9, 160 * 9, b"b", 160, 10 + 9 * FRAME)
    assert buffer.pop(10.3) == [(b"b", 160)]
    assert buffer.delay < 0.03


def test_a_stream_begins_with_audio() -> None:
    buffer = JitterBuffer(8000)
    buffer.push(7, 160, b"", 0, 10.0)  # a key whose timestamp is that of its beginning, long ago
    assert buffer.depth == 0
    buffer.push(8, 16_000, b"a", 160, 10.02)
    assert buffer.pop(10.04) == [(b"a", 160)]
    for seq in (900, 901):
        buffer.push(seq, 99_000, b"", 0, 10.06)
    buffer.push(902, 100_000, b"b", 160, 10.08)
    assert buffer.pop(10.1) == [(b"b", 160)]
    assert buffer.delay == pytest.approx(0.02)


# --- another stream ------------------------------------------------------------------------


def test_reset_gives_what_is_held_and_begins_anew() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 0, 10.0)
    push(buffer, 2, 10.001)
    buffer.reset()
    buffer.push(5, 77, b"new", 160, 10.002)
    assert [payload for payload, _ in buffer.pop(10.03)] == [(0).to_bytes(4, "big"), (2).to_bytes(4, "big"), b"new"]
    assert buffer.stats.resets == 1
    assert buffer.depth == 0


def test_a_leap_of_the_sequence_is_followed_when_it_is_confirmed() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 0, 10.0)
    buffer.push(30_000, 5, b"stray", 160, 10.01)
    push(buffer, 1, 10.02)
    assert numbers(buffer.pop(10.1)) == [0, 1]
    buffer.push(40_000, 1000, b"x", 160, 10.1)
    buffer.push(40_001, 1160, b"y", 160, 10.12)
    assert buffer.pop(10.2) == [(b"y", 160)]
    assert buffer.stats.resets == 1


@pytest.mark.parametrize("timestamp", [160 + 8000 * 60, 2**31 + 7, 2**32 - 8000 * 10])
def test_a_leap_of_the_timestamp_is_followed(timestamp: int) -> None:
    buffer = JitterBuffer(8000)
    buffer.push(0, 0, b"a", 160, 10.0)
    buffer.pop(10.02)
    buffer.push(1, timestamp, b"b", 160, 10.02)
    assert buffer.pop(10.05) == [(b"b", 160)]
    assert buffer.stats.lost == 0


@pytest.mark.parametrize("leap", [2.0, -2.0])
def test_a_smaller_leap_of_the_timestamp_delays_no_more_than_the_limit(leap: float) -> None:
    buffer = JitterBuffer(8000)
    for number in range(300):
        moved = round(leap * 8000) if number >= 100 else 0
        now = 10 + number * FRAME
        buffer.push(number, 160 * number + moved & 0xFFFFFFFF, b"x", 160, now)
        played = [] if number == 0 else buffer.pop(now)
        assert buffer.depth <= 10
        assert all(payload for payload, _ in played)
    assert buffer.stats.lost == 0


def test_a_line_that_was_dead_for_seconds_is_not_made_up_for() -> None:
    buffer = JitterBuffer(8000)
    push(buffer, 0, 10.0)
    buffer.pop(10.02)
    push(buffer, 200, 14.0)
    assert numbers(buffer.pop(14.02)) == [200]
    assert buffer.stats.lost == 199


# --- limits ------------------------------------------------------------------------------


def test_what_is_held_is_bounded() -> None:
    buffer = JitterBuffer(8000)
    rng = random.Random(7)
    buffer.push(0, 0, b"x", 160, 10.0)
    for _ in range(20_000):
        buffer.push(rng.randrange(1 << 16), rng.randrange(1 << 32), b"x", rng.randrange(3) * 160, 10.0)
        assert buffer.depth <= 2 * JUMP_PACKETS


def test_any_numbers_are_survived_and_every_packet_accounted_for() -> None:
    rng = random.Random(8)
    buffer = JitterBuffer(48_000)
    now, seq, timestamp = 5.0, 0, 0
    for _ in range(20_000):
        now += rng.choice((0, 0.001, 0.02, 0.5))
        seq += rng.choice((-3, -1, 0, 1, 1, 1, 2, 40, 1000))
        timestamp += rng.choice((-960, 0, 960, 960, 960, 48_000, 1 << 30))
        buffer.push(seq & 0xFFFF, timestamp & 0xFFFFFFFF, b"x", rng.choice((0, 480, 960)), now)
        for payload, ticks in buffer.pop(now):
            assert payload in (b"x", None)
            assert 0 < ticks <= 3 * 48_000
    buffer.reset()
    buffer.pop(now)
    assert buffer.pop(now) == []


@pytest.mark.parametrize(("rate", "first", "most"), [(0, 0.02, 0.2), (8000, 0.3, 0.2), (8000, -0.1, 0.2)])
def test_settings_that_cannot_work_are_refused(rate: int, first: float, most: float) -> None:
    with pytest.raises(ValueError, match=r"rate|first_delay"):
        JitterBuffer(rate, first_delay=first, max_delay=most)


@pytest.mark.parametrize("seed", range(8))
def test_a_packet_that_is_passed_on_leaves_the_buffer_as_push_and_pop_do(seed: int) -> None:
    rng = random.Random(seed)
    usual, short = JitterBuffer(8000), JitterBuffer(8000)
    spikes = 0.0 if seed % 2 else 0.02
    passed = 0
    for at, number in line(
        20, loss=0.01 * (seed % 3), jitter=lambda _: rng.choice((0, 0.001, 0.004, spikes)), seed=seed
    ):
        seq, timestamp, payload = (
            FIRST_SEQ + number & 0xFFFF,
            FIRST_TIMESTAMP + number * TICKS,
            number.to_bytes(2, "big"),
        )
        timestamp = timestamp + 8000 * (number // 200) & 0xFFFFFFFF  # a second's pause now and then
        at += number // 200
        ticks = 0 if number % 50 == 49 else TICKS
        usual.push(seq, timestamp, payload, ticks, at)
        expected = usual.pop(at)
        if short.pass_on(seq, timestamp, ticks, at):
            passed += 1
            assert expected == [Played(payload, ticks)]
        else:
            short.push(seq, timestamp, payload, ticks, at)
            assert short.pop(at) == expected
        assert short.stats == usual.stats
        assert short.delay == usual.delay
    assert passed > (40 if spikes else 300)
