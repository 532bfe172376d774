"""The carrier's play-out buffer: real time, to the sample."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_16K, PCMU, AudioFormat
from offhook.providers.carrier_side import MAX_FAULTS, PlayoutBuffer
from offhook.providers.twilio.wire import TwilioCarrierSide

FRAME = b"\x01" * 160


def buffer(format: AudioFormat = PCMU, *, start: float = 0.0, limit: float = 60.0) -> PlayoutBuffer:
    return PlayoutBuffer(format, start, limit)


def test_silence_until_something_is_queued_and_after_it() -> None:
    playout = buffer(start=10.0)
    assert playout.push(FRAME, 10.01) == pytest.approx(10.01)
    assert playout.take_heard(10.04) == b"\xff" * 80 + FRAME + b"\xff" * 80
    assert playout.take_heard(10.04) == b""
    assert playout.take_heard(9.0) == b""  # a clock that steps back plays nothing twice


def test_pieces_follow_each_other_without_a_gap() -> None:
    playout = buffer()
    assert playout.push(FRAME, 0.0) == 0.0
    assert playout.push(b"\x02" * 80, 0.005) == pytest.approx(0.02)
    assert playout.queued(0.005) == pytest.approx(0.025)
    assert playout.take_heard(0.03) == FRAME + b"\x02" * 80
    assert playout.queued(0.03) == 0.0


def test_a_mark_is_reached_when_the_audio_before_it_was_played() -> None:
    playout = buffer()
    playout.push(FRAME, 0.0)
    playout.push_mark("a", 0.0)
    playout.push_mark("b", 0.0)
    playout.push(FRAME, 0.0)
    playout.push_mark("c", 0.0)
    assert playout.next_mark() == pytest.approx(0.02)
    assert playout.take_reached(0.0199) == []
    assert playout.take_reached(0.02) == ["a", "b"]
    assert playout.next_mark() == pytest.approx(0.04)
    assert playout.take_reached(1.0) == ["c"]
    assert playout.next_mark() is None


def test_half_played_audio_counts_for_what_is_left_of_it() -> None:
    playout = buffer()
    playout.push(FRAME, 0.0)
    playout.push_mark("a", 0.0)
    playout.advance(0.015)
    assert playout.next_mark() == pytest.approx(0.02)
    assert playout.clear(0.015, return_marks=False) == pytest.approx(0.005)
    assert playout.next_mark() is None
    assert playout.take_heard(0.02) == FRAME[:120] + b"\xff" * 40


def test_clearing_brings_marks_back_or_loses_them() -> None:
    playout = buffer()
    for name in "ab":
        playout.push(FRAME, 0.0)
        playout.push_mark(name, 0.0)
    assert playout.clear(0.02) == pytest.approx(0.02)
    assert playout.next_mark() == pytest.approx(0.02)
    assert playout.take_reached(0.02) == ["a", "b"]
    playout.push(FRAME, 0.02)
    playout.push_mark("c", 0.02)
    playout.clear(0.02, return_marks=False)
    assert playout.take_reached(1.0) == []


def test_a_full_buffer_takes_nothing_more() -> None:
    playout = buffer(limit=0.03)
    assert playout.push(FRAME, 0.0) == 0.0
    assert playout.push(FRAME, 0.0) is None
    assert playout.push(FRAME, 0.01) == pytest.approx(0.02)


def test_faults_do_not_pile_up_for_ever() -> None:
    side = TwilioCarrierSide(account_sid="AC1", call_sid="CA1")
    side.open(0.0)
    for _ in range(MAX_FAULTS + 10):
        assert len(side.receive(b"{", 0.0)) == 1
    assert len(side.faults) == MAX_FAULTS


@given(
    format=st.sampled_from([PCMU, L16_16K]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["push", "mark", "clear", "play"]), st.integers(0, 900), st.floats(0, 0.2, allow_nan=False)
        ),
        max_size=30,
    ),
)
def test_time_and_audio_are_kept_whatever_the_order(format: AudioFormat, steps: list[tuple[str, int, float]]) -> None:
    playout, now, heard, marks, reached = buffer(format), 0.0, 0, 0, 0
    for what, size, wait in steps:
        now += wait
        if what == "push":
            playout.push(b"\x01" * (size * format.sample_bytes), now)
        elif what == "mark":
            playout.push_mark(f"m{marks}", now)
            marks += 1
        elif what == "clear":
            playout.clear(now)
        else:
            heard += len(playout.take_heard(now))
            assert heard == format.size(now)
        reached += len(playout.take_reached(now))
        expected = playout.next_mark()
        assert expected is None or expected >= now - 1 / format.rate
    playout.clear(now)
    assert reached + len(playout.take_reached(now)) == marks
