"""What is only listening, and what is more."""

from __future__ import annotations

import pytest

from offhook.agents.turns.backchannel import content_words, phrases_of, words_of

EN, DE = phrases_of("en-US"), phrases_of("de")


@pytest.mark.parametrize(
    "text",
    ["", "Uh-huh.", "mm", "Mm-hmm!", "mhm mhm", "er", "Okay.", "yeah, right", "All right.", "um", "Huh?"],
)
def test_listening(text: str) -> None:
    assert content_words(text, EN) == 0


@pytest.mark.parametrize(
    ("text", "count"), [("no", 1), ("stop", 1), ("okay stop", 1), ("I see a problem", 2), ("right now", 1), ("I", 1)]
)
def test_more_than_listening(text: str, count: int) -> None:
    assert content_words(text, EN) == count


def test_german() -> None:
    assert [content_words(text, DE) for text in ("Ja genau.", "ach so, verstehe", "mhm", "ähm", "nein", "ja aber")] == [
        0,
        0,
        0,
        0,
        1,
        1,
    ]


def test_a_language_without_a_list_has_the_hums_of_all() -> None:
    phrases = phrases_of("fi")
    assert content_words("mhm okay aha", phrases) == 0
    assert content_words("joo", phrases) == 1


def test_what_may_become_a_phrase_is_waited_for() -> None:
    assert content_words("I", EN, growing=True) == 0
    assert content_words("okay all ri", EN, growing=True) == 0
    assert content_words("I want", EN, growing=True) == 2
    assert content_words("I", EN) == 1


def test_ones_own_list_replaces_the_languages() -> None:
    own = phrases_of("en", ("Roger that", "wilco"))
    assert content_words("Roger that, wilco!", own) == 0
    assert content_words("okay", own) == 1
    assert content_words("mm", phrases_of("en", ())) == 1


def test_words() -> None:
    assert words_of("I’m O’Neill — uh-huh, 5 p.m.!") == ["i'm", "o'neill", "uh", "huh", "5", "p", "m"]
