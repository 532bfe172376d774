"""Where the time of a reply went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.link import Turn
from offhook.gateway.latency import STAGES, stages


def test_every_stage_in_its_order() -> None:
    split = stages(Turn(1, 10.0, 10.4, 10.5, 10.55, 10.65), 10.66)
    assert split.total_ms == 660
    assert split.stages_ms == {
        "endpointing": 400.0,
        "understanding": 100.0,
        "thinking": 50.0,
        "synthesis": 100.0,
        "playout": 10.0,
    }
    assert tuple(split.stages_ms) == STAGES


def test_the_time_of_a_missing_stage_belongs_to_the_next() -> None:
    split = stages(Turn(1, caller_stopped=1.0, turn_ended=1.5, reply_audio=1.8), 1.9)
    assert split.stages_ms == {"endpointing": 500.0, "synthesis": 300.0, "playout": 100.0}


def test_a_reply_to_nothing_has_no_latency() -> None:
    assert stages(Turn(1), 5.0).total_ms == 0
    assert stages(Turn(1), 5.0).stages_ms == {}


mark = st.one_of(st.just(0.0), st.floats(1, 100))


@given(mark, mark, mark, mark, mark, st.floats(1, 100))
def test_the_stages_sum_to_the_whole_whatever_the_marks(
    stopped: float, ended: float, understood: float, text: float, audio: float, sent: float
) -> None:
    split = stages(Turn(1, stopped, ended, understood, text, audio), sent)
    assert abs(sum(split.stages_ms.values()) - split.total_ms) <= 0.5
    assert all(value >= 0 for value in split.stages_ms.values())
