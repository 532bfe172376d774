"""The mouth: what is queued comes to the sample, the background never ends, nothing is made up."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import DtmfDetector
from offhook.qa.activity import RATE, Span
from offhook.qa.caller.mouth import FRAME, ScriptMouth


def spoken(mouth: ScriptMouth, frames: int) -> np.ndarray:
    out = []
    for _ in range(frames):
        frame = mouth.frame()
        out.append(np.zeros(FRAME, np.int16) if frame is None else frame)
        mouth.at += FRAME
    return np.concatenate(out)


def ramp(size: int, start: int = 1) -> np.ndarray:
    return np.arange(start, start + size, dtype=np.int16)


def test_silence_is_nothing_at_all() -> None:
    mouth = ScriptMouth()
    assert mouth.frame() is None
    assert not mouth.saying


def test_sounds_follow_each_other_without_a_gap_where_they_were_said_to_lie() -> None:
    mouth = ScriptMouth()
    mouth.at = 5 * FRAME
    assert mouth.say(ramp(250)) == Span(800 / RATE, 1050 / RATE)
    assert mouth.say(ramp(10, 1000)) == Span(1050 / RATE, 1060 / RATE)
    assert mouth.say(ramp(100, 2000)) == Span(1060 / RATE, 1160 / RATE)
    assert mouth.say(ramp(0)) == Span(1160 / RATE, 1160 / RATE)
    assert mouth.saying
    track = spoken(mouth, 4)
    assert not mouth.saying
    assert np.array_equal(track[:360], np.concatenate([ramp(250), ramp(10, 1000), ramp(100, 2000)]))
    assert not track[360:].any()
    assert mouth.frame() is None


@pytest.mark.parametrize("size", [FRAME, 3 * FRAME])
def test_a_sound_of_whole_frames_ends_with_its_frame(size: int) -> None:
    mouth = ScriptMouth()
    mouth.say(ramp(size))
    assert np.array_equal(spoken(mouth, size // FRAME), ramp(size))
    assert not mouth.saying
    assert mouth.frame() is None


def test_what_is_said_in_the_middle_of_a_sound_comes_behind_it() -> None:
    mouth = ScriptMouth()
    mouth.say(ramp(400))
    first = spoken(mouth, 1)
    assert mouth.say(ramp(40, 5000)) == Span(400 / RATE, 440 / RATE)
    track = np.concatenate([first, spoken(mouth, 2)])
    assert np.array_equal(track[:440], np.concatenate([ramp(400), ramp(40, 5000)]))


def test_the_background_is_repeated_and_lies_under_the_speech() -> None:
    mouth = ScriptMouth()
    bed = ramp(3 * FRAME)
    mouth.background(bed, start=4)
    assert np.array_equal(spoken(mouth, 5), np.concatenate([np.roll(bed, -FRAME), np.roll(bed, -FRAME)])[: 5 * FRAME])
    mouth.background(bed, start=0)
    mouth.say(np.full(200, 1000, np.int16))
    track = spoken(mouth, 2)
    assert np.array_equal(track[:200], bed[:200] + 1000)
    assert np.array_equal(track[200:], bed[200 : 2 * FRAME])
    mouth.background(None)
    assert mouth.frame() is None


def test_speech_is_never_clipped_by_the_background() -> None:
    mouth = ScriptMouth()
    mouth.background(np.full(FRAME, 3000, np.int16))
    mouth.say(np.full(FRAME, 32000, np.int16))
    track = spoken(mouth, 1)
    assert track.min() >= 32000


def test_keys_are_heard_as_tones_for_as_long_as_asked() -> None:
    mouth = ScriptMouth()
    span = mouth.press("1A#", tone=0.1, gap=0.08)
    assert span.seconds == pytest.approx(3 * 0.1 + 2 * 0.08)
    track = spoken(mouth, 30)
    assert "".join(DtmfDetector(L16_8K).feed(track.tobytes())) == "1A#"
    with pytest.raises(ValueError, match="none of"):
        mouth.press("x", tone=0.1, gap=0.1)
