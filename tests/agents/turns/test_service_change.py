"""Another speech-to-text service takes over in the middle of a call."""

from __future__ import annotations

from offhook.agents.turns.events import AskModel, Decision, EndTurn, Interrupt
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.taker import TurnTaker


def until(taker: TurnTaker, now: float) -> list[Decision]:
    """What is decided up to then."""
    made: list[Decision] = []
    while (deadline := taker.deadline) is not None and deadline <= now:
        made += taker.tick(deadline)
    return made


def test_a_service_that_does_not_end_turns_takes_over_in_the_middle_of_one() -> None:
    taker = TurnTaker(TurnSettings(end="service"), stt_ends_turns=True)
    taker.speech_started(1.0, 1.03)
    taker.partial("When do you open?", 1.5)
    taker.service_changed(False, True, 1.6)
    assert taker.end == "transcript"
    taker.speech_stopped(2.0, 2.13)
    (ended,) = until(taker, 5.0)
    assert isinstance(ended, EndTurn)
    assert (ended.text, ended.why) == ("When do you open?", "complete")
    taker.service_changed(True, True, 6.0)
    assert taker.end == "service"


def test_a_service_without_partials_takes_over() -> None:
    taker = TurnTaker(TurnSettings(end="transcript"))
    taker.agent_speaking(True, 0.5)
    taker.service_changed(False, False, 0.9)
    taker.speech_started(1.0, 1.03)
    made = until(taker, 2.5)
    assert any(isinstance(decision, Interrupt) for decision in made), "a long voice is no noise for it"


def test_the_model_that_is_there_is_asked_when_a_service_no_longer_ends_turns() -> None:
    taker = TurnTaker(TurnSettings(), stt_ends_turns=True, has_model=True)
    assert taker.end == "service"
    taker.service_changed(False, True, 0.5)
    taker.speech_started(1.0, 1.03)
    made = taker.speech_stopped(1.5, 1.63)
    assert any(isinstance(decision, AskModel) for decision in made)
