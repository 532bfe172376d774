"""The policy, told as ladders: what is heard at which second, and what is decided then. No loop, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.turns.events import (
    AskModel,
    Decision,
    EndTurn,
    Finalize,
    Prepare,
    Resume,
)
from offhook.agents.turns.floor import Floor, IllegalStepError, Step
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.taker import TurnTaker

VAD = 0.13
"""Seconds until a pause is known."""


class Ladder:
    """A taker, its timer, and what it decided when."""

    def __init__(self, *, end: str = "auto", **how: Any) -> None:
        service = {name: how.pop(name) for name in ("stt_ends_turns", "stt_partials", "has_model") if name in how}
        settings = {"end": end, "short_silence": 0.4, **how}  # round, for the figures below
        self.taker = TurnTaker(TurnSettings.model_validate(settings), **service)
        self.now = 0.0
        self.made: list[tuple[float, Decision]] = []

    def until(self, now: float) -> Ladder:
        while (deadline := self.taker.deadline) is not None and deadline <= now:
            assert deadline >= self.now - 1e-9, "the deadline lies in the past"
            self.now = max(self.now, deadline)
            self._note(self.taker.tick(self.now))
        self.now = now
        return self

    def at(self, now: float, what: Callable[..., list[Decision]], *args: Any, **kwargs: Any) -> Ladder:
        self.until(now)
        self._note(what(*args, now=now, **kwargs))
        return self

    def speaks(self, start: float, stop: float | None = None) -> Ladder:
        """The caller's voice; from 30 ms after `start` on, and gone 130 ms after `stop`."""
        self.at(start + 0.03, self.taker.speech_started, start)
        return self if stop is None else self.stops(stop)

    def stops(self, stop: float) -> Ladder:
        return self.at(stop + VAD, self.taker.speech_stopped, stop)

    def partial(self, now: float, text: str) -> Ladder:
        return self.at(now, self.taker.partial, text)

    def final(self, now: float, text: str, *, answer: bool = True) -> Ladder:
        return self.at(now, self.taker.final, text, answers_finalize=answer)

    def agent(self, now: float, speaking: bool = True, **how: Any) -> Ladder:
        return self.at(now, self.taker.agent_speaking, speaking, **how)

    def _note(self, decisions: list[Decision]) -> None:
        self.made += [(round(self.now, 3), decision) for decision in decisions]

    def take(self) -> list[tuple[float, str]]:
        """What was decided since, as (second, what), Finalize left out."""
        made, self.made = self.made, []
        return [(at, told(decision)) for at, decision in made if not isinstance(decision, Finalize)]

    def turns(self) -> list[EndTurn]:
        return [decision for _, decision in self.made if isinstance(decision, EndTurn)]


def told(decision: Decision) -> str:
    match decision:
        case EndTurn(text=text, why=why):
            return f"end {text!r} {why}"
        case Prepare(text=text):
            return f"prepare {text!r}"
        case Resume(heard=heard):
            return f"resume {heard!r}"
        case AskModel(number=number):
            return f"ask {number}"
        case _:
            return type(decision).__name__.lower()


# --- the end of a turn ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "ends", "why"),
    [
        ({"end": "silence"}, "I want to book a table and", 1.8, "silence"),
        ({"end": "silence", "silence": 0.5}, "Yes.", 1.5, "silence"),
        ({}, "I want to book a table.", 1.4, "complete"),
        ({}, "What time do you open?", 1.4, "complete"),
        ({}, "yes please", 1.4, "complete"),
        ({}, "I want to book a table", 1.8, "silence"),
        ({}, "I want to book a table and", 2.5, "silence"),
        ({}, "My number is", 2.5, "silence"),
        ({}, "My number is 555 123.", 2.5, "silence"),
        ({"language": "de-AT"}, "Ich hätte gerne einen", 2.5, "silence"),
        ({"language": "de"}, "Guten Tag, ich hätte gerne einen Termin.", 1.4, "complete"),
        ({"language": "fi"}, "Haluaisin varata pöydän.", 1.4, "complete"),
        ({"language": "fi"}, "Haluaisin varata pöydän", 1.8, "silence"),
    ],
)
def test_the_silence_that_ends_a_turn(settings: dict[str, Any], text: str, ends: float, why: str) -> None:
    ladder = Ladder(**settings).speaks(0.0).partial(0.9, text).stops(1.0).final(1.25, text)
    assert ladder.until(5).take() == [(ends, f"end {text!r} {why}")]


def test_the_marks_of_a_turn_say_when_each_thing_was_known() -> None:
    ladder = Ladder().speaks(0.5).partial(1.9, "Hello").stops(2.0).final(2.2, "Hello there.").until(5)
    assert ladder.turns() == [EndTurn("Hello there.", 0.5, 2.0, 2.2, 2.4, "complete")]


def test_text_is_asked_for_once_a_pause() -> None:
    ladder = Ladder().speaks(0.0, 1.0).speaks(1.5, 2.0).final(2.2, "Hello.").until(5)
    assert [at for at, decision in ladder.made if isinstance(decision, Finalize)] == [1.13, 2.13]


def test_with_a_service_of_150_ms_the_default_decides_early_enough() -> None:
    """LLM 250 ms and TTS 100 ms after the decision: the answer is heard 750 ms after the last word."""
    ladder = Ladder().speaks(0.0).partial(0.9, "I want to book a").stops(1.0).final(1.15, "I want to book a table.")
    (turn,) = ladder.until(5).turns()
    assert turn.decided_at + 0.35 - turn.stopped_at <= 0.8


def test_with_a_model_and_eager_the_reply_is_begun_when_the_text_is_there() -> None:
    ladder = Ladder(end="model", eager=True, has_model=True)
    ladder.speaks(0.0).partial(0.9, "I want to book a").stops(1.0).final(1.15, "I want to book a table.")
    ladder.at(1.2, ladder.taker.verdict, 1, 0.9)
    assert ladder.until(5).take() == [
        (1.13, "ask 1"),
        (1.15, "prepare 'I want to book a table.'"),
        (1.3, "end 'I want to book a table.' model"),
    ]


def test_a_caller_who_goes_on_has_not_finished() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "I want a table.").stops(1.0).final(1.2, "I want a table.")
    ladder.speaks(1.3).partial(2.0, "for two.").stops(2.1).final(2.3, "For two.")
    assert ladder.until(5).take() == [(2.5, "end 'I want a table. For two.' complete")]
    ladder.speaks(6.0, 6.5).final(6.7, "Thanks.")
    assert ladder.until(9).take()[-1] == (6.9, "end 'Thanks.' complete")


def test_the_turn_waits_for_its_text() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "yes").stops(1.0).final(1.6, "Yes, I do.")
    assert ladder.until(5).take() == [(1.6, "end 'Yes, I do.' complete")]


def test_the_turn_does_not_wait_forever_for_its_text() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "yes").stops(1.0)
    assert ladder.until(5).take() == [(1.73, "end 'yes' complete")]


def test_without_text_there_is_no_turn() -> None:
    ladder = Ladder().speaks(0.0, 0.4).final(0.7, "")
    assert ladder.until(20).take() == []
    assert ladder.taker.deadline is None


def test_text_without_partials_may_come_late() -> None:
    """A batch service transcribes when asked, and takes its time."""
    ladder = Ladder().speaks(0.0, 2.0).final(3.6, "I want to book a table.")
    assert ladder.until(9).take() == [(3.6, "end 'I want to book a table.' complete")]


def test_a_batch_service_is_waited_for_when_half_the_text_is_there() -> None:
    ladder = Ladder().speaks(0.0, 1.0).final(1.9, "My name is", answer=True)
    ladder.speaks(2.0, 2.5).final(3.6, "John Smith.")
    assert ladder.until(9).take() == [(3.6, "end 'My name is John Smith.' complete")]


def test_quiet_speech_that_only_the_service_hears_is_a_turn() -> None:
    ladder = Ladder().partial(1.0, "hello").partial(1.2, "hello is").partial(1.3, "hello is anybody there?")
    ladder.final(1.8, "Hello, is anybody there?")
    assert ladder.until(5).take() == [(1.8, "end 'Hello, is anybody there?' complete")]


def test_a_final_that_only_the_service_heard_waits_for_more() -> None:
    ladder = Ladder().final(1.0, "Hello.", answer=False)
    assert ladder.until(5).take() == [(1.9, "end 'Hello.' complete")]


def test_noise_without_words_is_no_turn_and_words_in_it_are_one() -> None:
    ladder = Ladder().speaks(0.0).until(5)
    assert ladder.take() == []
    ladder.partial(6.0, "hello").partial(6.4, "hello there").until(20)
    assert ladder.take() == [(8.4, "end 'hello there' timeout")]
    ladder.partial(30.0, "hello again").final(30.5, "hello again")
    assert ladder.until(40).take() == [(30.0, "interrupt"), (30.8, "end 'hello again' silence")]


def test_an_endless_turn_is_ended() -> None:
    ladder = Ladder(max_turn=10).speaks(0.0)
    for second in range(1, 10):
        ladder.partial(second, " ".join(["and"] * second))
    ladder.until(10.5)
    assert [at for at, _ in ladder.take()] == [10.0]


def test_the_model_says_that_he_thinks() -> None:
    ladder = Ladder(has_model=True).speaks(0.0, 1.0).final(1.2, "I want to book a table.")
    ladder.at(1.25, ladder.taker.verdict, 1, 0.2)
    assert ladder.until(5).take() == [(1.13, "ask 1"), (1.8, "end 'I want to book a table.' complete")]
    ladder = Ladder(has_model=True).speaks(0.0, 1.0).final(1.2, "I want to book a table")
    ladder.at(1.25, ladder.taker.verdict, 1, 0.2)
    assert ladder.until(5).take()[1:] == [(2.5, "end 'I want to book a table' silence")]


def test_the_model_is_not_believed_against_the_words() -> None:
    ladder = Ladder(has_model=True).speaks(0.0, 1.0).final(1.2, "My name is")
    ladder.at(1.25, ladder.taker.verdict, 1, 0.9)
    assert ladder.until(5).take()[1:] == [(2.5, "end 'My name is' silence")]


def test_a_full_stop_after_a_word_that_seldom_ends_a_sentence_is_not_quite_believed() -> None:
    ladder = Ladder(has_model=True).speaks(0.0, 1.0).final(1.2, "I need a taxi for.")
    ladder.at(1.25, ladder.taker.verdict, 1, 0.9)
    assert ladder.until(5).take()[1:] == [(1.8, "end 'I need a taxi for.' model")]


@pytest.mark.parametrize(
    ("probability", "ends", "why"),
    [(None, 1.4, "complete"), ("never", 1.63, "complete")],
)
def test_a_model_that_fails_or_hangs_is_done_without(probability: Any, ends: float, why: str) -> None:
    ladder = Ladder(end="model", has_model=True).speaks(0.0, 1.0).final(1.2, "Yes, I do.")
    if probability is None:
        ladder.at(1.25, ladder.taker.verdict, 1, None)
    assert ladder.until(5).take()[1:] == [(ends, f"end 'Yes, I do.' {why}")]


def test_an_answer_about_an_earlier_pause_counts_for_nothing() -> None:
    ladder = Ladder(end="model", has_model=True).speaks(0.0, 1.0).speaks(1.2, 2.0)
    ladder.at(2.15, ladder.taker.verdict, 1, 0.99).final(2.2, "Yes, I do.").at(2.3, ladder.taker.verdict, 2, 0.1)
    assert ladder.until(6).take()[2:] == [(2.8, "end 'Yes, I do.' complete")]


def test_the_service_ends_the_turn() -> None:
    ladder = Ladder(stt_ends_turns=True).speaks(0.0).partial(0.9, "I want to book")
    ladder.at(1.1, ladder.taker.service_ended_turn, "I want to book a table.")
    assert ladder.until(1.1).take() == [(1.1, "end 'I want to book a table.' service")]
    ladder.stops(1.0 + 0.05)
    assert ladder.until(5).take() == []
    ladder.agent(1.9).agent(2.5, False)
    ladder.speaks(3.0).partial(3.5, "yes").stops(3.6).at(3.8, ladder.taker.service_ended_turn, "Yes.")
    assert ladder.until(9).take() == [(3.8, "end 'Yes.' service")]


def test_a_service_that_forgets_to_end_the_turn_is_not_waited_for() -> None:
    ladder = Ladder(end="service", stt_ends_turns=True).speaks(0.0).partial(0.9, "Yes.").stops(1.0)
    assert ladder.until(5).take() == [(3.0, "end 'Yes.' timeout")]
    ladder.at(5.1, ladder.taker.service_ended_turn, "Yes.")
    assert ladder.until(9).take() == []


def test_a_service_that_ends_turns_is_not_believed_when_something_else_shall() -> None:
    ladder = Ladder(end="transcript", stt_ends_turns=True).speaks(0.0).partial(0.9, "My name is").stops(1.0)
    ladder.at(1.2, ladder.taker.service_ended_turn, "My name is")
    assert ladder.until(5).take() == [(2.5, "end 'My name is' silence")]


@pytest.mark.parametrize("end", ["service", "model"])
def test_what_is_not_there_cannot_end_turns(end: str) -> None:
    with pytest.raises(SettingsError, match=r"turns\.end"):
        Ladder(end=end)


# --- eager ------------------------------------------------------------------------------


def test_a_finished_sentence_is_answered_in_secret_as_soon_as_the_voice_drops() -> None:
    ladder = Ladder(eager=True).speaks(0.0).partial(1.1, "I want a table.").stops(1.0)
    assert ladder.take() == [(1.1, "prepare 'I want a table.'")]
    ladder = Ladder(eager=True).speaks(0.0).partial(1.1, "I want a table").stops(1.0).until(1.35)
    assert ladder.take() == [(1.3, "prepare 'I want a table'")]


def test_a_reply_is_prepared_in_the_pause_and_thrown_away_when_he_goes_on() -> None:
    ladder = Ladder(eager=True).speaks(0.0).partial(0.9, "I want a table.").stops(1.0).final(1.2, "I want a table.")
    ladder.speaks(1.3, 2.0).final(2.2, "For two.")
    assert ladder.until(5).take() == [
        (0.9, "prepare 'I want a table.'"),
        (1.33, "discard"),
        (2.2, "prepare 'I want a table. For two.'"),
        (2.4, "end 'I want a table. For two.' complete"),
    ]


def test_the_prepared_text_stays_the_same_when_only_its_spelling_changes() -> None:
    ladder = Ladder(eager=True).speaks(0.0).stops(1.0).partial(1.15, "yes please").final(1.3, "Yes, please.")
    assert ladder.until(5).take() == [(1.15, "prepare 'yes please'"), (1.4, "end 'yes please' complete")]


def test_other_words_make_another_reply() -> None:
    ladder = Ladder(eager=True).speaks(0.0).stops(1.0).partial(1.15, "yes please").final(1.3, "Yes, at nine.")
    assert ladder.until(5).take() == [
        (1.15, "prepare 'yes please'"),
        (1.3, "discard"),
        (1.3, "prepare 'Yes, at nine.'"),
        (1.4, "end 'Yes, at nine.' complete"),
    ]


def test_nothing_is_prepared_for_half_a_sentence() -> None:
    ladder = Ladder(eager=True).speaks(0.0, 1.0).final(1.2, "My name is")
    assert ladder.until(5).take() == [(2.5, "end 'My name is' silence")]


def test_the_services_own_guess_prepares_and_discards() -> None:
    ladder = Ladder(eager=True, stt_ends_turns=True).speaks(0.0).partial(0.9, "I want")
    ladder.at(1.0, ladder.taker.service_eager, "I want").at(1.1, ladder.taker.service_resumed)
    ladder.partial(1.4, "I want to go").at(1.5, ladder.taker.service_eager, "I want to go.")
    ladder.at(1.7, ladder.taker.service_ended_turn, "I want to go.")
    assert ladder.until(3).take() == [
        (1.0, "prepare 'I want'"),
        (1.1, "discard"),
        (1.5, "prepare 'I want to go.'"),
        (1.7, "end 'I want to go.' service"),
    ]
    lazy = Ladder(stt_ends_turns=True).speaks(0.0).partial(0.9, "I want")
    assert lazy.at(1.0, lazy.taker.service_eager, "I want").take() == []


# --- interruption -----------------------------------------------------------------------


def test_a_cough_is_a_breath_and_the_agent_goes_on() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0, 1.3).final(1.6, "")
    assert ladder.until(9).take() == [(1.03, "hold"), (1.6, "resume ''")]


def test_a_cough_no_service_speaks_of_is_one_too() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0, 1.3)
    assert ladder.until(9).take() == [(1.03, "hold"), (1.9, "resume ''")]


@pytest.mark.parametrize("text", ["Uh-huh.", "mm", "Okay.", "yeah right", "I see", "Got it, okay."])
def test_who_only_listens_does_not_interrupt(text: str) -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).stops(1.4).final(1.7, text)
    assert ladder.until(9).take() == [(1.03, "hold"), (1.7, f"resume {text!r}")]


def test_a_back_channel_that_is_only_a_partial_is_believed_when_it_stands() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.35, "uh-huh").stops(1.4)
    assert ladder.until(9).take() == [(1.03, "hold"), (1.73, "resume 'uh-huh'")]
    ladder.final(9.1, "Uh-huh.")
    assert ladder.until(20).take() == [], "said, heard, done with"


def test_words_interrupt_at_once() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.3, "no").partial(1.5, "no wait").stops(1.6)
    ladder.final(1.9, "No, wait.")
    assert ladder.until(9).take() == [(1.03, "hold"), (1.3, "interrupt"), (2.0, "end 'No, wait.' complete")]


def test_a_back_channel_that_goes_on_interrupts() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.3, "okay").partial(1.6, "okay but").stops(1.8)
    ladder.final(2.0, "Okay, but when?")
    assert ladder.until(9).take() == [(1.03, "hold"), (1.6, "interrupt"), (2.2, "end 'Okay, but when?' complete")]


def test_the_first_word_of_a_back_channel_waits_for_the_second() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.2, "I").partial(1.4, "I see").stops(1.5).final(1.7, "I see.")
    assert ladder.until(9).take() == [(1.03, "hold"), (1.7, "resume 'I see.'")]
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.2, "I").stops(1.3).final(1.5, "I")
    assert ladder.until(1.6).take() == [(1.03, "hold"), (1.5, "interrupt")], "and it did not come"


def test_long_speech_interrupts_before_it_is_text() -> None:
    ladder = Ladder(stt_partials=False).agent(0.0).speaks(1.0).until(3)
    assert ladder.take() == [(1.03, "hold"), (1.9, "interrupt")]


def test_a_back_channel_is_over_before_long() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.4, "okay").partial(1.9, "okay yeah").stops(2.2)
    ladder.final(2.5, "Okay, yeah.").until(4)
    assert ladder.take() == [(1.03, "hold"), (2.5, "resume 'Okay, yeah.'")]


def test_a_back_channel_in_noise_is_still_one() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).partial(1.5, "yeah").until(3)
    assert ladder.take() == [(1.03, "hold"), (2.4, "resume 'yeah'")]
    ladder = Ladder().speaks(0.1).agent(0.3).until(2)
    assert ladder.take() == [(0.3, "hold"), (1.3, "resume ''")]
    ladder.partial(2.5, "yeah").until(4)
    assert ladder.take() == [], "the noise began before the agent did, the word did not"
    ladder.partial(4.5, "yeah no")
    assert ladder.take() == [(4.5, "interrupt")]


def test_long_noise_from_which_a_streaming_service_hears_nothing_does_not_interrupt() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0).until(4)
    assert ladder.take() == [(1.03, "hold"), (2.2, "resume ''")]
    ladder.partial(4.5, "hello?")
    assert ladder.until(4.6).take() == [(4.5, "interrupt")]


def test_a_batch_service_taken_for_a_streaming_one_is_still_asked() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0, 3.0).until(3.2)
    assert ladder.made[-1] == (3.13, Finalize())
    ladder.take()
    ladder.final(3.9, "That is wrong.")
    assert ladder.until(9).take() == [(3.9, "interrupt"), (3.9, "end 'That is wrong.' complete")]


def test_words_that_come_after_the_agent_went_on_still_interrupt() -> None:
    ladder = Ladder().agent(0.0).speaks(1.0, 1.4).until(2.1)
    assert ladder.take() == [(1.03, "hold"), (2.0, "resume ''")]
    ladder.final(2.4, "Stop it.")
    assert ladder.until(9).take() == [(2.4, "interrupt"), (2.4, "end 'Stop it.' complete")]


def test_flapping_noise_stops_the_agent_no_more_than_twice() -> None:
    ladder = Ladder().agent(0.0)
    for n in range(1, 9):
        ladder.speaks(float(n), n + 0.2)
    assert [what for _, what in ladder.until(20).take()] == ["hold", "resume ''"] * 2
    ladder.speaks(21.0).partial(21.4, "wait a moment").stops(21.9).final(22.1, "Wait a moment.")
    assert [what for _, what in ladder.until(30).take()] == ["interrupt", "end 'Wait a moment.' complete"]
    ladder.agent(31.0).speaks(32.0)
    assert ladder.take() == [(32.03, "hold")], "and he is heard again"


def test_noise_that_flaps_faster_than_it_is_judged_holds_the_agent_for_two_seconds() -> None:
    ladder = Ladder().agent(0.0)
    for n in range(20):
        ladder.speaks(1 + n * 0.4, 1 + n * 0.4 + 0.2)
    resumed = [at for at, what in ladder.take() if what.startswith("resume")]
    assert resumed
    assert resumed[0] <= 3.2


@pytest.mark.parametrize("text", ["Yes.", "okay", "Uh-huh."])
def test_the_same_word_is_an_answer_when_the_agent_is_silent(text: str) -> None:
    ladder = Ladder().agent(0.0).agent(0.9, False).speaks(1.0, 1.3).final(1.6, text)
    assert ladder.until(9).take() == [(1.7, f"end {text!r} complete")]


def test_a_word_begun_before_the_agent_was_heard_is_an_answer() -> None:
    ladder = Ladder().at(1.0, lambda now: []).agent(1.02).speaks(1.0, 1.3).final(1.6, "Yes.")
    assert ladder.until(9).take() == [(1.03, "hold"), (1.6, "interrupt"), (1.7, "end 'Yes.' complete")]


def test_a_word_at_the_end_of_what_the_agent_says_is_an_answer() -> None:
    ladder = Ladder().agent(0.0, until=1.2).speaks(1.0).agent(1.2, False).stops(1.3).final(1.6, "Yes.")
    assert ladder.until(9).take() == [(1.7, "end 'Yes.' complete")]
    ladder = Ladder(interrupt="words").agent(0.0).speaks(1.0).stops(1.2).agent(1.4, False).final(1.6, "Yes.")
    assert ladder.until(9).take() == [(1.6, "end 'Yes.' complete")]


def test_an_agent_that_begins_while_the_caller_speaks_stops() -> None:
    ladder = Ladder().speaks(1.0).partial(1.4, "I also").agent(1.5)
    assert ladder.take() == [(1.5, "interrupt")]
    ladder = Ladder().speaks(1.0).agent(1.2).partial(1.4, "Yes.").stops(1.5).final(1.7, "Yes.")
    assert ladder.until(9).take() == [(1.2, "hold"), (1.4, "interrupt"), (1.9, "end 'Yes.' complete")]


def test_a_caller_who_goes_on_before_he_is_answered_takes_the_floor_back() -> None:
    ladder = Ladder().speaks(0.0, 1.0).final(1.2, "I want a table.").until(1.5)
    ladder.take()
    ladder.speaks(1.6).partial(1.9, "for two").stops(2.0).final(2.2, "For two.")
    assert ladder.until(9).take() == [(1.63, "hold"), (1.9, "interrupt"), (2.4, "end 'For two.' complete")]


def test_a_cough_before_the_answer_does_not_void_it() -> None:
    ladder = Ladder().speaks(0.0, 1.0).final(1.2, "I want a table.").speaks(1.6, 1.7).final(1.9, "")
    assert ladder.until(9).take()[1:] == [(1.63, "hold"), (1.9, "resume ''")]


@pytest.mark.parametrize(
    ("words", "partials", "decided"),
    [
        (2, ["stop"], []),
        (2, ["stop", "stop it"], [(1.6, "interrupt")]),
        (1, ["stop"], [(1.3, "interrupt")]),
        (2, ["yeah okay right sure"], []),
        (2, ["okay stop", "okay stop this"], [(1.6, "interrupt")]),
    ],
)
def test_min_words(words: int, partials: list[str], decided: list[Any]) -> None:
    ladder = Ladder(interrupt="words", min_words=words).agent(0.0).speaks(1.0)
    for n, text in enumerate(partials):
        ladder.partial(1.3 + 0.3 * n, text)
    assert ladder.until(1.9).take() == decided


def test_too_few_words_to_interrupt_are_answered_afterwards() -> None:
    ladder = Ladder(interrupt="words").agent(0.0).speaks(1.0, 1.4).final(1.6, "Stop.").until(3).agent(3.0, False)
    assert ladder.until(9).take() == [(3.0, "end 'Stop.' complete")]


def test_the_first_word_interrupts_with_transcript() -> None:
    ladder = Ladder(interrupt="transcript").agent(0.0).speaks(1.0).partial(1.3, "mm").partial(1.5, "mm no")
    assert ladder.until(1.9).take() == [(1.5, "interrupt")]


def test_the_service_noticing_speech_holds_with_transcript() -> None:
    ladder = Ladder(interrupt="transcript").agent(0.0)
    ladder.at(1.0, ladder.taker.service_heard_speech).until(3)
    assert ladder.take() == [(1.0, "hold"), (1.6, "resume ''")]
    ladder.speaks(4.0).at(4.2, ladder.taker.service_heard_speech).partial(4.4, "hello")
    assert ladder.until(4.5).take() == [(4.2, "hold"), (4.4, "interrupt")]
    other = Ladder().agent(0.0)
    assert other.at(1.0, other.taker.service_heard_speech).take() == []


def test_nothing_interrupts_when_it_is_off_and_nothing_is_lost() -> None:
    ladder = Ladder(interrupt="off").agent(0.0).speaks(1.0).partial(1.4, "I want").stops(2.0).final(2.2, "I want out.")
    assert ladder.until(4).take() == []
    assert ladder.taker.text == "I want out."
    ladder.agent(4.0, False)
    assert ladder.until(9).take() == [(4.0, "end 'I want out.' complete")]


def test_an_uninterruptible_utterance_is_finished_and_then_answered() -> None:
    ladder = Ladder().agent(0.0, interruptible=False).speaks(1.0, 1.5).final(1.7, "Uh-huh.").until(2.5)
    ladder.speaks(3.0, 3.5).final(3.7, "But I said Tuesday.").agent(5.0, False)
    assert ladder.until(9).take() == [(5.0, "end 'But I said Tuesday.' complete")]


def test_after_the_uninterruptible_part_what_was_said_meanwhile_interrupts() -> None:
    ladder = Ladder().agent(0.0, interruptible=False).speaks(1.0, 1.5).final(1.7, "But I said Tuesday.")
    ladder.agent(2.0, interruptible=True)
    assert ladder.until(9).take() == [(2.0, "interrupt"), (2.0, "end 'But I said Tuesday.' complete")]


def test_text_without_a_voice_must_be_more_to_interrupt() -> None:
    """It may be the agent's own echo."""
    ladder = Ladder().agent(10.0).partial(11.0, "hello").until(12)
    assert ladder.take() == []
    ladder = Ladder().agent(10.0).partial(11.0, "hello").partial(11.3, "hello stop").until(11.4)
    assert ladder.take() == [(11.3, "interrupt")]


def test_ones_own_back_channels() -> None:
    ladder = Ladder(back_channels=["roger that"]).agent(0.0).speaks(1.0, 1.4).final(1.6, "Roger that.").until(2)
    assert ladder.take() == [(1.03, "hold"), (1.6, "resume 'Roger that.'")]
    ladder.speaks(3.0).partial(3.3, "okay")
    assert ladder.take() == [(3.03, "hold"), (3.3, "interrupt")]
    ladder = Ladder(back_channels=[]).agent(0.0).speaks(1.0).partial(1.3, "mm")
    assert ladder.take() == [(1.03, "hold"), (1.3, "interrupt")]


# --- words that come late ---------------------------------------------------------------


def test_the_final_of_a_turn_already_ended_says_nothing_new() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "I want to book a tab").stops(1.0).until(2.5)
    assert [what for _, what in ladder.take()] == ["end 'I want to book a tab' silence"]
    ladder.final(2.6, "I want to book a table.").agent(2.8).agent(4.0, False)
    assert ladder.until(9).take() == []


def test_the_rest_of_a_turn_that_was_not_answered_yet_is_answered_with_it() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "I want to book a table.").stops(1.0).until(1.8)
    ladder.final(1.9, "I want to book a table. For two.")
    assert ladder.until(9).take() == [
        (1.73, "end 'I want to book a table.' complete"),
        (1.9, "interrupt"),
        (1.9, "end 'For two.' complete"),
    ]


def test_the_rest_of_a_turn_that_is_being_answered_goes_with_the_next() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "I want to book a table.").stops(1.0).until(1.8).agent(2.0)
    ladder.final(2.1, "I want to book a table. For two.").agent(4.0, False).until(5)
    ladder.speaks(5.0, 6.0).final(6.2, "At nine.")
    assert [what for _, what in ladder.until(9).take()] == [
        "end 'I want to book a table.' complete",
        "end 'For two. At nine.' complete",
    ]


def test_kept_words_alone_are_no_turn() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "I want a table.").stops(1.0).until(1.8).agent(2.0)
    ladder.final(2.1, "I want a table. For two.").agent(4.0, False).speaks(5.0, 5.2).final(5.5, "").until(9)
    assert len(ladder.turns()) == 1


def test_a_new_sentence_in_the_same_stretch_counts_once() -> None:
    ladder = Ladder().speaks(0.0).partial(0.9, "hello there.").stops(1.0).until(2.0).agent(2.1)
    ladder.take()
    ladder.speaks(3.0).partial(3.3, "hello there. no wait").stops(3.5).final(3.8, "Hello there. No, wait.")
    assert ladder.until(9).take() == [(3.03, "hold"), (3.3, "interrupt"), (3.9, "end 'No, wait.' complete")]


# --- mute and reset ---------------------------------------------------------------------


def test_what_is_said_while_muted_is_not_heard() -> None:
    ladder = Ladder().agent(0.0)
    ladder.at(0.5, ladder.taker.mute, True).speaks(1.0).partial(1.5, "hello").stops(2.0).final(2.2, "Hello?")
    ladder.agent(3.0, False).at(3.0, ladder.taker.mute, False).final(3.3, "Anybody?", answer=False)
    assert ladder.until(5).take() == []
    ladder.speaks(5.0, 5.5).final(5.7, "Now.")
    assert ladder.until(9).take() == [(5.9, "end 'Now.' complete")]


def test_muting_settles_what_was_open() -> None:
    ladder = Ladder(eager=True).agent(0.0).speaks(1.0)
    ladder.at(1.2, ladder.taker.mute, True)
    assert ladder.take() == [(1.03, "hold"), (1.2, "resume ''")]
    ladder = Ladder(eager=True).speaks(0.0, 1.0).final(1.2, "Yes.")
    ladder.at(1.3, ladder.taker.mute, True)
    assert ladder.until(9).take() == [(1.2, "prepare 'Yes.'"), (1.3, "discard")]


def test_who_speaks_on_when_he_is_heard_again_is_heard_from_there() -> None:
    ladder = Ladder()
    ladder.at(0.5, ladder.taker.mute, True).speaks(1.0).partial(1.9, "not this")
    ladder.at(2.0, ladder.taker.mute, False).partial(2.5, "not this but that").stops(2.6)
    ladder.final(2.8, "Not this but that.")
    assert ladder.until(9).take() == [(3.0, "end 'but that.' complete")]


def test_reset_forgets() -> None:
    ladder = Ladder().speaks(0.0, 1.0).final(1.2, "Yes.")
    ladder.at(1.25, ladder.taker.reset)
    assert ladder.until(9).take() == []
    assert ladder.taker.text == ""
    assert ladder.taker.deadline is None


# --- the table --------------------------------------------------------------------------


def test_an_illegal_step_raises_and_changes_nothing() -> None:
    taker = TurnTaker(TurnSettings())
    with pytest.raises(IllegalStepError, match="'end' from 'quiet'"):
        taker._go(Step.END)
    assert taker.floor is Floor.QUIET
