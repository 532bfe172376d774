"""Both sides of a call on one clock: jitter, gaps, loss, drift, cuts."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest

from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.g711 import pcm_to_ulaw
from offhook.gateway.timeline import HOLD, Timeline

FRAME = 160
Samples = npt.NDArray[np.int16]


def level(value: int, frames: int = 1) -> bytes:
    """So many frames of one sample value, L16 at 8 kHz."""
    return np.full(FRAME * frames, value, "<i2").tobytes()


class Desk:
    """Feeds a timeline like a call does and takes from it twice a second."""

    def __init__(self, format: AudioFormat = L16_8K) -> None:
        self.timeline = Timeline(format)
        self.left, self.right = bytearray(), bytearray()
        self.taken_at = 0.0

    def until(self, now: float) -> None:
        while self.taken_at + 0.5 <= now:
            self.taken_at += 0.5
            self._take(self.taken_at, last=False)

    def close(self, now: float) -> tuple[Samples, Samples]:
        self._take(now, last=True)
        assert len(self.left) == len(self.right)
        return np.frombuffer(self.left, "<i2"), np.frombuffer(self.right, "<i2")

    def _take(self, now: float, *, last: bool) -> None:
        left, right = self.timeline.take(now, last=last)
        assert len(left) == len(right)
        self.left += left
        self.right += right


def test_both_sides_lie_where_they_were_heard() -> None:
    desk = Desk()
    for n in range(250):
        at = 100 + n * 0.02
        desk.timeline.caller(level(n + 1), at)
        if 50 <= n < 100:
            desk.timeline.agent(level(5000), at + 0.1)
        desk.until(at)
    left, right = desk.close(105.0)
    assert left.size == 250 * FRAME
    assert (left == np.repeat(np.arange(1, 251), FRAME)).all()
    heard = np.flatnonzero(right)
    assert (heard[0], heard[-1] + 1, heard.size) == (8800, 8800 + 50 * FRAME, 50 * FRAME)


def test_nothing_is_given_out_before_it_can_no_longer_change() -> None:
    timeline = Timeline(L16_8K)
    for n in range(100):
        timeline.caller(level(1), 10 + n * 0.02)
    assert timeline.take(12.0)[0] == level(1, 75)  # HOLD before now
    assert timeline.take(12.0) == (b"", b"")


@pytest.mark.parametrize("seed", range(20))
def test_jitter_leaves_no_seam(seed: int) -> None:
    rng = random.Random(seed)
    desk = Desk()
    at = 50.0
    for n in range(500):
        at = max(at, 50 + n * 0.02 + rng.expovariate(1 / 0.015))
        desk.timeline.caller(level(n + 1), at)
        desk.until(at)
    left, _ = desk.close(at)
    assert (left == np.repeat(np.arange(1, 501), FRAME)).all()


def test_a_stall_that_is_caught_up_leaves_no_gap() -> None:
    desk = Desk()
    for n in range(200):
        sent = 50 + n * 0.02
        desk.timeline.caller(level(n + 1), 52.4 if 52.0 <= sent < 52.4 else sent)
        desk.until(max(sent, 52.4) if sent >= 52.0 else sent)
    left, _ = desk.close(54.0)
    assert (left == np.repeat(np.arange(1, 201), FRAME)).all()


@pytest.mark.parametrize("gap", [0.1, 0.3, 2.0])
def test_a_real_gap_becomes_silence_in_its_place(gap: float) -> None:
    desk = Desk()
    for n in range(200):
        at = 50 + n * 0.02 + (gap if n >= 100 else 0)
        desk.timeline.caller(level(n + 1), at)
        desk.timeline.agent(level(9), at + 0.1)
        desk.until(at)
    left, right = desk.close(54.0 + gap)
    samples = round(gap * 8000)
    assert (left[: 100 * FRAME] == np.repeat(np.arange(1, 101), FRAME)).all()
    assert not left[100 * FRAME : 100 * FRAME + samples].any()
    assert (left[100 * FRAME + samples :][: 100 * FRAME] == np.repeat(np.arange(101, 201), FRAME)).all()
    # The agent's side of the same moments has its silence where it was silent: 100 ms later.
    assert np.flatnonzero(right)[0] == 800
    assert not right[800 + 100 * FRAME : 800 + 100 * FRAME + samples].any()


def test_a_long_silence_of_the_carrier_does_not_hold_the_agent_back() -> None:
    desk = Desk()
    desk.timeline.caller(level(1, 10), 50.0)
    for n in range(500):
        desk.timeline.agent(level(9), 50.3 + n * 0.02)
        desk.until(50.3 + n * 0.02)
    assert len(desk.right) > 8000 * 2 * 6
    left, right = desk.close(60.3)
    assert (left[:1600] == 1).all()
    assert not left[1600:].any()
    assert (right[2400 : 2400 + 80_000] == 9).all()


def test_reported_loss_becomes_silence() -> None:
    desk = Desk()
    n = 0
    for step in range(200):
        if step in range(60, 65):
            continue
        at = 50 + step * 0.02
        desk.timeline.caller(level(7), at, 100 if step == 65 else 0)
        desk.until(at)
        n += 1
    left, _ = desk.close(54.0)
    assert left.size == 200 * FRAME
    assert (left[: 60 * FRAME] == 7).all()
    assert not left[60 * FRAME : 65 * FRAME].any()
    assert (left[65 * FRAME :] == 7).all()


def test_a_carrier_that_counts_wrong_does_not_stretch_the_recording() -> None:
    desk = Desk()
    for n in range(500):
        desk.timeline.caller(level(7), 50 + n * 0.02, 10_000)
        desk.until(50 + n * 0.02)
    left, _ = desk.close(60.0)
    assert abs(left.size - 500 * FRAME) <= 1000


def test_a_late_first_payload_is_corrected() -> None:
    desk = Desk()
    for n in range(100):
        desk.timeline.caller(level(n + 1), max(50.15, 50 + n * 0.02))
        desk.timeline.agent(level(9) if n == 50 else level(0), 50 + n * 0.02)
        desk.until(50 + n * 0.02)
    left, right = desk.close(52.0)
    assert (left[: 100 * FRAME] == np.repeat(np.arange(1, 101), FRAME)).all()
    assert abs(np.flatnonzero(right)[0] - np.flatnonzero(left == 51)[0]) <= 240


@pytest.mark.parametrize("ppm", [-300, 300])
def test_sides_stay_together_though_the_carriers_clock_is_off(ppm: int) -> None:
    desk = Desk()
    for n in range(30_000):  # ten minutes
        at = 50 + n * 0.02 * (1 + ppm / 1e6)
        click = n % 3000 == 2999
        desk.timeline.caller(level(1000 if click else 1), at)
        if click:
            desk.timeline.agent(level(2000), at)
        desk.until(at)
    left, right = desk.close(50 + 600 * (1 + ppm / 1e6))
    assert left[left != 0].size == 30_000 * FRAME
    callers, agents = (np.flatnonzero(np.diff((side >= 1000).astype(int)) > 0) for side in (left, right))
    assert callers.size == agents.size == 10
    assert np.abs(callers - agents).max() <= 480  # 60 ms


def test_a_cut_forgets_what_was_not_heard() -> None:
    desk = Desk()
    for n in range(200):
        at = 50 + n * 0.02
        desk.timeline.caller(level(1), at)
        if 50 <= n < 100:
            desk.timeline.agent(level(9), at + 0.2)
        if n == 75:
            desk.timeline.cut(51.51)
        if n == 120:
            desk.timeline.agent(level(5), at + 0.02)
        desk.until(at)
    _, right = desk.close(54.0)
    assert (right[9600:12080] == 9).all()
    assert not right[12080:13600].any()  # cut here, at 1.51 s; what was queued after the cut is heard at 1.7 s
    assert np.flatnonzero(right == 5)[0] == 19360


def test_a_cut_within_a_payload_keeps_its_beginning_in_whole_samples() -> None:
    timeline = Timeline(L16_8K)
    timeline.caller(level(1, 100), 10.0)
    timeline.agent(level(9, 10), 10.1)
    timeline.cut(10.10005)
    timeline.cut(20.0)
    _, right = timeline.take(12.0, last=True)
    assert np.flatnonzero(np.frombuffer(right, "<i2")).size == 0
    timeline.agent(level(9, 10), 11.0)
    timeline.cut(11.0 + 333 / 8000)
    _, right = timeline.take(13.0, last=True)
    assert np.count_nonzero(np.frombuffer(right, "<i2")) == 333


def test_what_the_agent_would_have_said_after_the_end_is_not_in_it() -> None:
    timeline = Timeline(L16_8K)
    timeline.caller(level(1, 50), 10.0)
    timeline.agent(level(9, 50), 10.5)
    _, right = timeline.take(11.0, last=True)
    assert np.count_nonzero(np.frombuffer(right, "<i2")) == 4000


def test_a_call_without_caller_audio_still_has_the_agents() -> None:
    timeline = Timeline(L16_8K)
    timeline.agent(level(9, 50), 10.0)
    assert timeline.take(11.0) == (b"", b"")
    left, right = timeline.take(12.0, last=True)
    assert right == level(9, 50)
    assert not any(left)


def test_a_call_without_any_audio_is_empty() -> None:
    assert Timeline(PCMU).take(12.0, last=True) == (b"", b"")


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_16K])
def test_every_format_is_decoded_to_8_khz(format: AudioFormat) -> None:
    timeline = Timeline(format)
    for n in range(100):
        timeline.caller(format.silence, n * 0.02)
        timeline.agent(format.silence, n * 0.02)
    left, right = timeline.take(2.0, last=True)
    assert len(left) == len(right) == 100 * FRAME * 2
    assert np.abs(np.frombuffer(left, "<i2")).max() <= 8


def test_payloads_of_odd_lengths_keep_their_samples() -> None:
    tone = (np.sin(np.arange(16_000) / 8) * 8000).astype("<i2").tobytes()
    coded = pcm_to_ulaw(tone)
    timeline = Timeline(PCMU)
    rng, at = random.Random(5), 0
    while at < len(coded):
        size = rng.randrange(1, 400)
        timeline.caller(coded[at : at + size], 20 + at / 8000)
        at += size
    left, _ = timeline.take(22.0 + HOLD, last=True)
    assert pcm_to_ulaw(left[: len(tone)]) == coded
