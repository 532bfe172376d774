"""Each word once, however finals, partials and the ends of turns are mixed."""

from __future__ import annotations

import pytest

from offhook.agents.turns.transcript import LATE, Transcript


def test_partials_replace_each_other_and_finals_stay() -> None:
    words = Transcript()
    assert words.partial("I want", 1.0)
    assert words.partial("I want to", 1.2)
    assert words.final("I want to book.", 1.4, last=True)
    assert words.partial("A table", 1.6)
    assert words.text == words.fresh == "I want to book. A table"
    assert words.changed_at == 1.6
    assert words.interim


def test_spelling_is_no_change() -> None:
    words = Transcript()
    words.partial("yes please", 1.0)
    assert not words.final("Yes, please.", 2.0)
    assert words.changed_at == 1.0
    assert words.text == "Yes, please."


@pytest.mark.parametrize(
    ("taken", "final", "rest"),
    [
        ("I want to", "I want to book a table.", "book a table."),
        ("I want to book a tab", "I want to book a table.", ""),
        ("I want to book a tab", "I want to book a table for two.", "for two."),
        ("yes", "Yes.", ""),
        ("tab", "table", ""),
        ("uh-huh", "Uh-huh, but I want out.", "but I want out."),
        ("ja", "I want to leave.", "I want to leave."),
        ("one two", "One.", ""),
    ],
)
def test_words_taken_before_their_final_are_not_given_again(taken: str, final: str, rest: str) -> None:
    words = Transcript()
    words.partial(taken, 1.0)
    assert words.take(1.1) == taken
    assert words.partial(taken, 1.2) is False
    words.final(final, 1.3, last=True)
    assert words.text == rest
    words.final("And more.", 1.5)
    assert words.text == f"{rest} And more.".strip()


def test_a_stretch_may_be_given_in_several_finals() -> None:
    words = Transcript()
    words.partial("one two three", 1.0)
    words.take(1.1)
    words.final("One two", 1.2)
    words.final("three four", 1.3)
    assert words.text == "four"


def test_what_is_said_again_later_is_said_again() -> None:
    words = Transcript()
    words.partial("yes", 1.0)
    words.take(1.1)
    words.final("Yes.", 1.1 + LATE + 0.1)
    assert words.text == "Yes."


def test_a_whole_turn_replaces_what_came_before_and_cuts_off_what_is_taken() -> None:
    words = Transcript()
    words.partial("I want", 1.0)
    assert words.replace("I want to go.", 1.2)
    assert words.text == "I want to go."
    words.take(1.3)
    assert words.replace("I want to go home.", 1.4)
    assert words.text == "home."
    words.take(1.5, closed=True)
    assert words.replace("Home.", 1.6)
    assert words.text == "Home."


def test_kept_words_are_of_the_turn_but_not_judged() -> None:
    words = Transcript()
    words.final("for two", 1.0)
    words.keep()
    assert words.fresh == ""
    words.final("At nine.", 2.0)
    assert words.fresh == "At nine."
    assert words.take(3.0) == "for two At nine."
    assert words.text == ""
