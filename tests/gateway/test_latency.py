"""Where the time of a reply went."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.link import Turn
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.gateway.latency import (
    HEARING,
    KEPT_FRAMES,
    MAX_OPEN,
    STAGE_HEADS,
    STAGES,
    CallerVoice,
    Sent,
    Turns,
    split,
    voice_end,
    voice_onset,
)


def turn(**marks: float) -> Turn:
    return Turn(1, **marks)


def test_every_stage_in_its_order() -> None:
    found = split(Turn(1, 10.0, 10.4, 10.5, 10.55, 10.6, 10.65), Sent(10.655, 10.66, 10.74))
    assert found.total_ms == 660
    assert found.stages_ms == {
        "endpointing": 400.0,
        "understanding": 100.0,
        "thinking": 50.0,
        "phrasing": 50.0,
        "synthesis": 50.0,
        "playout": 10.0,
    }
    assert tuple(found.stages_ms) == STAGES
    assert (found.hearing_ms, found.heard_ms) == (80.0, 740.0)
    assert tuple(STAGE_HEADS) == (*STAGES, HEARING)


def test_the_time_of_a_missing_stage_belongs_to_the_next() -> None:
    found = split(turn(caller_stopped=1.0, turn_ended=1.5, reply_audio=1.8), Sent(1.9, 1.9))
    assert found.stages_ms == {"endpointing": 500.0, "synthesis": 300.0, "playout": 100.0}
    assert found.heard_ms is None


def test_what_was_prepared_before_the_decision_cost_nothing() -> None:
    eager = turn(caller_stopped=1.0, turn_ended=1.6, understood=1.2, first_token=1.3, reply_text=1.65, reply_audio=1.7)
    assert split(eager, Sent(1.72, 1.72)).stages_ms == {
        "endpointing": 600.0,
        "understanding": 0.0,
        "thinking": 0.0,
        "phrasing": 50.0,
        "synthesis": 50.0,
        "playout": 20.0,
    }
    ready = turn(caller_stopped=1.0, turn_ended=1.6, understood=1.2, first_token=1.3, reply_text=1.35, reply_audio=1.4)
    assert split(ready, Sent(1.61, 1.61)).stages_ms["endpointing"] == 600.0
    assert split(ready, Sent(1.61, 1.61)).stages_ms["playout"] == 10.0


def test_what_came_too_late_was_not_waited_for() -> None:
    # The final transcript came after the first token; the model had the partial one.
    found = split(
        turn(caller_stopped=1.0, turn_ended=1.3, understood=1.5, first_token=1.4, reply_audio=1.6), Sent(1.61, 1.61)
    )
    assert found.stages_ms == {"endpointing": 300.0, "thinking": 100.0, "synthesis": 200.0, "playout": 10.0}
    # A filler was said while a function ran: the model's answer came after it.
    filler = turn(caller_stopped=1.0, turn_ended=1.3, understood=1.4, first_token=4.0, reply_text=4.1, reply_audio=4.2)
    assert split(filler, Sent(2.0, 2.0)).stages_ms == {"endpointing": 300.0, "understanding": 100.0, "playout": 600.0}


@pytest.mark.parametrize("sent", [Sent(5.0, 5.0, 5.1), Sent(0.5, 0.5, 0.6), Sent(9e5, 9e5, 9e5), Sent()])
def test_a_reply_to_nothing_has_no_latency(sent: Sent) -> None:
    marks = turn() if sent.first == 5.0 else turn(caller_stopped=1.0)
    found = split(marks, sent)
    assert (found.total_ms, found.stages_ms, found.heard_ms) == (0.0, {}, None)


def test_a_reply_without_voice_counts_from_its_first_frame() -> None:
    assert split(turn(caller_stopped=1.0, turn_ended=1.5), Sent(first=1.6)).total_ms == 600


mark = st.one_of(st.just(0.0), st.floats(1, 100))


@given(mark, mark, mark, mark, mark, mark, mark, mark, mark)
def test_the_stages_sum_to_the_whole_whatever_the_marks(
    stopped: float,
    ended: float,
    understood: float,
    token: float,
    text: float,
    audio: float,
    first: float,
    voiced: float,
    heard: float,
) -> None:
    found = split(Turn(1, stopped, ended, understood, token, text, audio), Sent(first, voiced, heard))
    assert abs(sum(found.stages_ms.values()) - found.total_ms) <= 0.5
    assert all(value >= 0 for value in found.stages_ms.values())
    assert found.hearing_ms is None or found.hearing_ms >= 0
    assert found.total_ms <= 60_000
    if found.total_ms:
        assert found.total_ms == round(((voiced or first) - stopped) * 1000, 1)


# --- the two halves of a turn


class Reports(list[tuple[Turn, Sent]]):
    def __call__(self, turn: Turn, sent: Sent) -> None:
        self.append((turn, sent))


def test_a_turn_is_reported_once_when_it_was_heard() -> None:
    reports = Reports()
    turns, marks = Turns(reports), Turn(3, 1.0)
    turns.turn(marks)
    turns.started(3, 1.5)
    turns.voiced(3, 1.52)
    assert reports == []
    turns.heard(3, 1.7)
    turns.turn(marks)
    turns.ended(3)
    turns.voiced(3, 9.0)
    turns.heard(3, 9.0)
    assert reports == [(marks, Sent(1.5, 1.52, 1.7))]


def test_marks_may_come_after_the_utterance() -> None:
    reports = Reports()
    turns = Turns(reports)
    turns.started(1, 1.5)
    turns.ended(1)
    turns.turn(Turn(1, 1.0))
    assert reports == [(Turn(1, 1.0), Sent(1.5))]


def test_an_utterance_that_was_never_sent_is_no_turn() -> None:
    reports = Reports()
    turns = Turns(reports)
    turns.turn(Turn(1, 1.0))
    turns.ended(1)
    turns.started(1, 2.0)  # the id is used again, by an agent that took over
    turns.ended(1)
    assert reports == []


def test_what_is_kept_is_bounded() -> None:
    turns = Turns(Reports())
    for n in range(5 * MAX_OPEN):
        turns.started(n, 1.0)
        turns.ended(n)
        turns.turn(Turn(1000 + n, 1.0))
    assert len(turns._sent) == len(turns._over) == len(turns._turns) == MAX_OPEN


# --- where voice begins, and ends


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_8K, L16_16K], ids=str)
def test_voice_begins_behind_the_silence_and_the_noise_of_synthesisers(format: AudioFormat) -> None:
    def frame(*amplitudes: int) -> bytes:
        size = format.rate // 100
        pcm = np.concatenate([np.resize([a] * 10 + [-a] * 10, size) for a in amplitudes]).astype("<i2").tobytes()
        return convert_all(pcm, AudioFormat("l16", format.rate), format)

    assert voice_onset(frame(0, 0), format) is None
    assert voice_onset(frame(30, 30), format) is None  # -61 dBFS
    assert voice_onset(frame(3000, 3000), format) == 0.0
    assert voice_onset(frame(0, 3000), format) == pytest.approx(0.010)
    assert voice_onset(b"", format) is None
    assert voice_end(frame(0, 0), format) is None
    assert voice_end(frame(3000, 0), format) == pytest.approx(0.010)
    assert voice_end(frame(0, 3000), format) == pytest.approx(0.020)


LOUD, HALF = b"\x10" * 160, b"\x10" * 80 + b"\xff" * 80


def heard(*frames: bytes) -> CallerVoice:
    """Frames that arrive every 20 ms from 10.0 on."""
    voice = CallerVoice()
    voice.frames.extend((10.0 + 0.02 * n, frame) for n, frame in enumerate(frames))
    return voice


@pytest.mark.parametrize(
    ("frames", "said", "end"),
    [
        ([LOUD] * 5 + [HALF] + [PCMU.silence] * 10, 10.18, 10.09),  # the detector heard voice for 80 ms longer
        ([LOUD] * 5 + [PCMU.silence] * 10 + [LOUD] * 3, 10.16, 10.08),  # he went on later: not this turn's
        ([LOUD] * 10, 10.18, 10.18),
        ([LOUD] + [PCMU.silence] * 40, 10.8, 10.8),  # too long ago: a caller who whispers
        ([], 10.5, 10.5),
        ([LOUD] * 5, 0.0, 0.0),
    ],
)
def test_a_turn_begins_where_the_voice_ended_and_not_where_a_detector_noticed(
    frames: list[bytes], said: float, end: float
) -> None:
    refined = heard(*frames).refine(turn(caller_stopped=said, turn_ended=11.0), PCMU)
    assert refined == turn(caller_stopped=pytest.approx(end), turn_ended=11.0)


def test_only_the_latest_frames_are_kept() -> None:
    voice = heard(*[LOUD] * 1000)
    assert len(voice.frames) == KEPT_FRAMES
    late = turn(caller_stopped=11.0)
    assert voice.refine(late, PCMU) is late
