"""The reference's mind, fed by hand: what it does, to the sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import DtmfDetector, tones
from offhook.qa.reference.behaviour import Behaviour, behaviour
from offhook.qa.reference.brain import Brain, HangUp, Order, Play, SendKeys, Stop, Transfer
from offhook.qa.reference.ear import RATE, Samples
from offhook.qa.reference.lines import Lines

FRAME = 160


@pytest.fixture(scope="module")
def lines() -> Lines:
    return Lines("made-up")


class Line:
    """A line in frames of 20 ms, both ways."""

    def __init__(self, lines: Lines, how: Behaviour | None = None, *, events: bool = False) -> None:
        self.truth: list[dict[str, Any]] = []
        self.orders: list[Order] = []
        self.frames = 0
        self.brain = Brain(lines, how or Behaviour(), self._note, events=events)

    def _note(self, what: str, at: float, **more: Any) -> None:
        self.truth.append({"what": what, "at": at, **more})

    @property
    def now(self) -> float:
        return self.frames * FRAME / RATE

    def say(self, samples: Samples) -> tuple[float, float]:
        """Say it from the next frame on; gives when its first and last voiced sample were on the line."""
        start = self.now
        padded = np.concatenate([samples, np.zeros(-len(samples) % FRAME, np.int16)])
        for at in range(0, len(padded), FRAME):
            self._frame(padded[at : at + FRAME])
        return start, start + len(samples) / RATE

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * RATE / FRAME)):
            self._frame(np.zeros(FRAME, np.int16))

    def _frame(self, samples: Samples) -> None:
        self.orders += self.brain.advance(self.now + FRAME / RATE)
        self.brain.hear(samples, self.now)
        self.frames += 1

    def of(self, what: str) -> list[dict[str, Any]]:
        return [entry for entry in self.truth if entry["what"] == what]

    def plays(self) -> list[Play]:
        return [order for order in self.orders if isinstance(order, Play)]


def voice(seconds: float, level: int = 4000) -> Samples:
    """A square wave: voiced from the first to the last sample."""
    wave = np.where(np.arange(round(seconds * RATE)) // 20 % 2, level, -level)
    return wave.astype(np.int16)


def test_greets_after_300_ms(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    (greeting,) = line.orders
    assert isinstance(greeting, Play)
    assert greeting.at == pytest.approx(0.3)
    (spoke,) = line.of("spoke")
    assert spoke["kind"] == "greeting"
    assert spoke["cut"] == ""
    assert spoke["end"] == pytest.approx(0.3 + len(greeting.samples) / RATE)
    assert spoke["level"] == pytest.approx(-20, abs=0.05)


@pytest.mark.parametrize("odd", [0, 1, 77, 159])
def test_answers_700_ms_after_the_last_voiced_sample(lines: Lines, odd: int) -> None:
    line = Line(lines)
    line.wait(5)
    _, ended = line.say(voice(1.0)[: 8000 - odd])
    line.wait(1)
    assert line.plays()[1].at == pytest.approx(ended + 0.7, abs=1e-9)
    assert line.of("caller-spoke")[0]["end"] == pytest.approx(ended)


def test_waits_for_the_end_of_a_turn_with_pauses(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    began, _ = line.say(voice(1.0))
    line.wait(0.6)
    _, ended = line.say(voice(0.5))
    line.wait(1)
    answer = line.plays()[1]
    assert answer.at == pytest.approx(ended + 0.7)
    assert line.of("caller-spoke") == [
        {"what": "caller-spoke", "at": pytest.approx(began), "end": pytest.approx(ended)}
    ]


def test_takes_no_click_for_a_turn(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    line.say(voice(0.02))
    line.wait(2)
    assert len(line.plays()) == 1


def test_stops_250_ms_after_an_interruption_begins_and_answers_it(lines: Lines) -> None:
    line = Line(lines)
    line.wait(1)
    began, ended = line.say(voice(1.0))
    line.wait(1)
    stop = line.orders[1]
    assert isinstance(stop, Stop)
    assert stop.at == pytest.approx(began + 0.25)
    spoke = line.of("spoke")[0]
    assert (spoke["cut"], spoke["end"]) == ("interrupted", pytest.approx(began + 0.25))
    assert spoke["interrupted_at"] == pytest.approx(began)
    assert line.plays()[1].at == pytest.approx(ended + 0.7)


def test_goes_on_over_a_short_sound_and_does_not_answer_it(lines: Lines) -> None:
    line = Line(lines)
    line.wait(1)
    began, ended = line.say(voice(0.18))
    line.wait(4.5)
    assert [type(order) for order in line.orders] == [Play]
    assert line.of("ignored") == [
        {"what": "ignored", "at": pytest.approx(began), "end": pytest.approx(ended), "tone": False}
    ]


def test_asks_twice_and_takes_leave_of_a_silent_caller(lines: Lines) -> None:
    line = Line(lines)
    line.wait(35)
    said = line.of("spoke")
    assert [entry["kind"] for entry in said] == ["greeting", "reprompt", "reprompt", "goodbye"]
    assert said[1]["at"] == pytest.approx(said[0]["end"] + 5.0)
    last = line.orders[-1]
    assert isinstance(last, HangUp)
    assert last.at == pytest.approx(said[-1]["end"] + 0.6)


def test_repeats_keys_in_words_and_by_keys_and_tones(lines: Lines) -> None:
    line = Line(lines, events=True)
    line.wait(5)
    for key in "12#":
        line.brain.key(key, line.now)
    line.wait(4)
    assert line.of("spoke")[-1]["text"] == "You pressed one two"
    for key in "*34":
        line.brain.key(key, line.now)
    line.wait(2)
    assert line.orders[-1] == SendKeys(pytest.approx(10.0), "34")
    for key in "**56#":
        line.brain.key(key, line.now)
    line.wait(1)
    played = line.orders[-1]
    assert isinstance(played, Play)
    assert DtmfDetector(L16_8K).feed(played.samples.tobytes()) == ["5", "6"]
    assert [entry["keys"] for entry in line.of("keys-sent")] == ["34", "56"]


def test_plays_tones_where_the_line_has_no_events(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    for key in "*7#":
        line.brain.key(key, line.now, "carrier")
    line.wait(1)
    assert DtmfDetector(L16_8K).feed(line.plays()[-1].samples.tobytes()) == ["7"]


def test_hears_keys_in_the_audio_and_takes_them_for_no_turn(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    for key in "42":
        line.say(np.frombuffer(tones(key, 0.1, L16_8K), "<i2"))
        line.wait(0.1)
    line.wait(4)
    assert [(entry["key"], entry["way"]) for entry in line.of("key")] == [("4", "inband"), ("2", "inband")]
    assert [entry["kind"] for entry in line.of("speaks")] == ["greeting", "keys"]


def test_is_interrupted_by_a_key_at_once(lines: Lines) -> None:
    line = Line(lines)
    line.wait(1)
    line.brain.key("5", 1.0)
    line.wait(0.1)
    assert line.orders[-1] == Stop(pytest.approx(1.0))


def test_transfers_and_takes_leave_by_key(lines: Lines) -> None:
    line = Line(lines)
    line.wait(5)
    line.brain.key("0", line.now)
    line.wait(4)
    said = line.of("spoke")[-1]
    assert line.orders[-1] == Transfer(pytest.approx(said["end"] + 0.2), "+15550123")
    line = Line(lines)
    line.wait(5)
    line.brain.key("9", line.now)
    line.wait(6)
    assert isinstance(line.orders[-1], HangUp)


def test_transfers_a_caller_who_talks_long(lines: Lines) -> None:
    line = Line(lines, Behaviour(transfer_after=2.0))
    line.wait(5)
    line.say(voice(2.5))
    line.wait(4)
    assert isinstance(line.orders[-1], Transfer)


def test_falls_silent_on_hold_and_listens_again_afterwards(lines: Lines) -> None:
    line = Line(lines)
    line.wait(1)
    assert line.brain.hold(True, 1.0) == [Stop(1.0)]
    line.say(voice(1.0))  # music of the one who holds
    line.wait(10)
    assert len(line.plays()) == 1
    line.brain.hold(False, line.now)
    line.wait(1)
    _, ended = line.say(voice(1.0))
    line.wait(1)
    assert line.plays()[1].at == pytest.approx(ended + 0.7)


def test_tells_when_something_is_due(lines: Lines) -> None:
    line = Line(lines)
    assert line.brain.next_due() == pytest.approx(0.3)
    line.wait(0.4)
    end = line.plays()[0].at + len(line.plays()[0].samples) / RATE
    assert line.brain.next_due() == pytest.approx(end)
    line.wait(5)
    assert line.brain.next_due() == pytest.approx(end + 5.0)
    line.brain.over()
    assert line.brain.next_due() is None
    assert line.brain.advance(60) == []


def test_notes_what_the_end_of_the_call_cuts(lines: Lines) -> None:
    line = Line(lines)
    line.wait(1)
    line.brain.over()
    (spoke,) = line.of("spoke")
    assert (spoke["cut"], spoke["end"]) == ("end of the call", pytest.approx(1.0))


# --- faults ---------------------------------------------------------------------------


def asked(lines: Lines, *faults: str, seconds: float = 10) -> Line:
    """Let the greeting pass, say something, and wait."""
    line = Line(lines, behaviour(*faults))
    line.wait(10 if "late-greeting" in faults else 5)
    line.say(voice(1.0))
    line.wait(seconds)
    return line


def test_ignores_interruptions_by_fault(lines: Lines) -> None:
    line = Line(lines, behaviour("ignore-barge-in"))
    line.wait(1)
    line.say(voice(1.5))
    line.wait(3)
    assert [type(order) for order in line.orders] == [Play]
    assert len(line.of("ignored")) == 1


def test_is_late_by_fault(lines: Lines) -> None:
    answer = asked(lines, "late-answer").of("spoke")[1]
    assert answer["at"] - answer["after"] == pytest.approx(3.0)
    assert asked(lines, "late-greeting").of("speaks")[0]["at"] == pytest.approx(6.0)


def test_tears_a_hole_by_fault(lines: Lines) -> None:
    line = asked(lines, "hole")
    whole, torn = asked(lines).plays()[1].samples, line.plays()[1].samples
    (hole,) = line.of("hole")
    assert hole["end"] - hole["at"] == pytest.approx(0.12)
    first = round((hole["at"] - line.plays()[1].at) * RATE)
    assert not torn[first : first + 960].any()
    assert np.array_equal(np.delete(torn, range(first, first + 960)), np.delete(whole, range(first, first + 960)))


def test_loses_packets_by_fault(lines: Lines) -> None:
    answer = asked(lines, "lost-packets").plays()[1]
    assert answer.lost == (len(answer.samples) // 2, 6)


def test_is_dead_in_the_middle_and_repeats_itself_by_fault(lines: Lines) -> None:
    whole = len(asked(lines).plays()[1].samples)
    assert len(asked(lines, "dead-air").plays()[1].samples) == whole + 5 * RATE
    assert len(asked(lines, "double-answer").plays()[1].samples) == 2 * whole + 0.4 * RATE


def test_drops_the_second_digit_by_fault(lines: Lines) -> None:
    line = Line(lines, behaviour("drop-digit"))
    line.wait(5)
    for key in "1234#":
        line.brain.key(key, line.now)
    line.wait(5)
    assert line.of("spoke")[-1]["text"] == "You pressed one three four"
    for key in "**1234#":
        line.brain.key(key, line.now)
    line.wait(1)
    assert line.of("keys-sent")[-1]["keys"] == "134"
    assert len(line.of("key")) == 12


def test_ends_badly_by_fault(lines: Lines) -> None:
    early = asked(lines, "hang-up-early")
    assert early.orders[-1] == HangUp(pytest.approx(6.7))
    for fault, found in (("cut-tail", True), ("no-hangup", False)):
        line = Line(lines, behaviour(fault))
        line.wait(5)
        line.brain.key("9", line.now)
        line.wait(8)
        assert any(isinstance(order, HangUp) for order in line.orders) is found
        if found:
            whole = lines.line("Thank you for calling the reference agent. Goodbye.", -20)
            assert len(line.plays()[-1].samples) == len(whole.samples) - 3200
            assert line.orders[-1] == HangUp(pytest.approx(line.of("spoke")[-1]["end"]))


def test_is_silent_by_fault(lines: Lines) -> None:
    assert asked(lines, "silent", seconds=30).orders == []


def test_is_too_loud_or_too_quiet_by_fault(lines: Lines) -> None:
    loud = asked(lines, "clipped").plays()[1].samples
    assert (np.abs(loud.astype(np.int32)) >= 32767).mean() > 0.02
    assert asked(lines, "quiet").of("spoke")[1]["level"] == pytest.approx(-40, abs=0.1)


def test_knows_its_faults_by_name() -> None:
    with pytest.raises(ValueError, match="there is no fault 'absent': choose of ignore-barge-in"):
        behaviour("absent")
    both = behaviour("late-answer", "hole")
    assert (both.answer, both.hole) == (3.0, 0.12)
    assert behaviour(base=replace(Behaviour(), ignore=0.5)).stop == 0.5
