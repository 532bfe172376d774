"""Measuring against synthetic calls with known delays: ±20 ms, and the simulator's own lateness taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.measure import FRAME_S, Conversation, measure, spread

TOLERANCE_MS = 20


def track(seconds: float, *speech: tuple[float, float], seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE), np.int16)
    for start, end in speech:
        at, until = round(start * RATE), round(end * RATE)
        samples[at:until] = rng.normal(0, 3000, until - at)
    return samples


def call(
    caller: Sequence[tuple[float, float]],
    agent: Sequence[tuple[float, float]],
    *,
    left_at: Sequence[float] = (),
    clears: Sequence[float] = (),
    dry: Sequence[Span] = (),
    stalls: Sequence[Span] = (),
    answered_at: float = 0.0,
) -> Conversation:
    return Conversation(
        track(12, *caller, seed=1), track(12, *agent, seed=2), left_at, clears, dry, stalls, answered_at
    )


@pytest.mark.parametrize("delay", [0.120, 0.3, 0.7, 1.234, 2.5])
def test_voice_to_voice_is_the_delay_that_was_built_in(delay: float) -> None:
    made = measure(call([(2.0, 3.007)], [(0.5, 1.5), (3.007 + delay, 7.0)]))
    assert [reply.v2v_ms for reply in made.replies] == pytest.approx([delay * 1000], abs=TOLERANCE_MS)


@pytest.mark.parametrize("delay", [0.05, 0.731, 3.0])
def test_greeting_counts_from_the_answer(delay: float) -> None:
    made = measure(call([], [(delay, delay + 1)], answered_at=-0.1))
    assert made.greeting_ms == pytest.approx((delay + 0.1) * 1000, abs=TOLERANCE_MS)
    assert made.replies == []


def test_a_silent_agent_has_no_greeting_and_no_reply() -> None:
    made = measure(call([(1.0, 2.0)], []))
    assert made.greeting_ms is None
    assert made.replies == []
    assert made.dead_air_s == 0


def test_a_pause_inside_the_callers_turn_does_not_make_two_turns() -> None:
    made = measure(call([(2.0, 2.8), (3.4, 4.0)], [(0.2, 1.0), (4.6, 6.0)]))
    assert len(made.replies) == 1
    assert made.replies[0].caller_began == pytest.approx(2.0, abs=0.02)
    assert made.replies[0].v2v_ms == pytest.approx(600, abs=TOLERANCE_MS)


def test_only_the_first_stretch_of_a_reply_counts() -> None:
    made = measure(call([(1.0, 2.0)], [(2.5, 3.5), (4.0, 5.0), (6.0, 7.0)]))
    assert [reply.v2v_ms for reply in made.replies] == pytest.approx([500], abs=TOLERANCE_MS)


def test_a_frame_that_the_simulator_sent_late_is_not_the_targets_delay() -> None:
    left_at = [(n + 1) * FRAME_S for n in range(600)]
    last_voiced = int(2.999 / FRAME_S)
    left_at[last_voiced] += 0.060
    made = measure(call([(2.0, 3.0)], [(3.5, 4.5)], left_at=left_at))
    assert made.replies[0].v2v_ms == pytest.approx(440, abs=TOLERANCE_MS)
    assert made.replies[0].own_late_ms == pytest.approx(60, abs=1)


@pytest.mark.parametrize(("clear_after", "stop_after"), [(0.080, 0.090), (0.150, 0.250), (0.4, 0.4)])
def test_barge_in_counts_from_the_first_voiced_frame_leaving(clear_after: float, stop_after: float) -> None:
    began = 3.0
    leaving = began + FRAME_S
    made = measure(call([(began, 4.5)], [(1.0, leaving + stop_after), (5.0, 6.0)], clears=[2.0, leaving + clear_after]))
    [barge] = made.barge_ins
    assert barge.at == pytest.approx(leaving, abs=0.011)
    assert barge.clear_ms == pytest.approx(clear_after * 1000, abs=TOLERANCE_MS)
    assert barge.stop_ms == pytest.approx(stop_after * 1000, abs=TOLERANCE_MS)
    assert barge.yielded
    assert [reply.v2v_ms for reply in made.replies] == pytest.approx([500], abs=TOLERANCE_MS)


def test_an_agent_that_talks_on_has_not_yielded() -> None:
    made = measure(call([(3.0, 4.0)], [(1.0, 8.0)]))
    [barge] = made.barge_ins
    assert not barge.yielded
    assert barge.clear_ms is None
    assert made.talk_over_s == pytest.approx(1.0, abs=0.02)
    assert made.replies == []


def test_an_agent_that_was_ending_anyway_was_not_interrupted() -> None:
    assert measure(call([(3.0, 4.0)], [(1.0, 3.05)])).barge_ins == []


def test_a_clear_in_a_pause_between_two_sentences_is_a_barge_in() -> None:
    [barge] = measure(call([(3.3, 4.0)], [(1.0, 3.0)], clears=[3.42])).barge_ins
    assert barge.clear_ms == pytest.approx(100, abs=TOLERANCE_MS)
    assert barge.stop_ms == 0


def test_a_clear_long_after_the_agent_fell_silent_is_no_barge_in() -> None:
    assert measure(call([(6.0, 7.0)], [(1.0, 3.0)], clears=[6.1])).barge_ins == []


def test_the_agent_interrupting_the_caller_is_counted() -> None:
    made = measure(call([(2.0, 4.0)], [(3.0, 5.0)]))
    assert made.agent_interruptions == 1
    assert made.replies == []


def test_holes_in_speech_are_gaps_pauses_and_our_own_stalls_are_not() -> None:
    agent = [(1.0, 2.0), (2.08, 3.0), (3.05, 4.0), (6.0, 7.0)]
    dry = [Span(2.0, 2.08), Span(3.0, 3.05), Span(4.0, 4.3), Span(4.6, 6.0)]
    made = measure(call([], agent, dry=dry, stalls=[Span(3.01, 3.04)]))
    assert made.gaps == [Span(2.0, 2.08)]
    assert made.gaps_excused == 1


def test_dead_air_is_the_longest_silence_of_both() -> None:
    made = measure(call([(3.0, 4.0)], [(1.0, 2.0), (6.5, 7.0)]))
    assert made.dead_air_s == pytest.approx(2.5, abs=0.02)


def test_spread_of_nothing_and_of_a_hundred() -> None:
    assert spread([]).p50 is None
    hundred = spread([float(n) for n in range(101)])
    assert (hundred.n, hundred.p50, hundred.p95, hundred.p99, hundred.max) == (101, 50, 95, 99, 100)
