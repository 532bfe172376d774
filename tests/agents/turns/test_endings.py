"""Which texts look finished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.turns.endings import Ending, ending


@pytest.mark.parametrize(
    ("looks", "texts"),
    [
        (
            "finished",
            [
                "I want to book a table for two.",
                "What is it for?",
                "what time do you open on sundays",
                "yes",
                "Yes, please.",
                "no thank you",
                "Okay.",
                "uh-huh",
                "Hello!",
                "five",
                "My number is 555 123 4567.",
                "It was in 1985.",
                "He said “no.”",
                "Maybe.",
                "Help!",
            ],
        ),
        (
            "open",
            [
                "",
                "...",
                "I want to book a table",
                "555 123 4567",
                "a table for two please",
                "That is what I think.",
                "at five",
                "room 12",
            ],
        ),
        ("doubtful", ["That's what I am looking for.", "I need a taxi for.", "I would like to."]),
        (
            "unfinished",
            [
                "my name is",
                "My name is.",
                "I want to book a table and",
                "I want to book a table, um",
                "um",
                "so er",
                "Uh.",
                "well",
                "I'd like to go to the",
                "I'd like to go to",
                "My number is 555 123.",
                "My code is 5",
                "zero one two",
                "It is double four three.",
                "Not that,",
                "Well...",
                "I was thinking —",
                "you know",
                "because",
            ],
        ),
    ],
)
def test_english(looks: Ending, texts: list[str]) -> None:
    assert {text: ending(text, "en-GB") for text in texts} == dict.fromkeys(texts, looks)


@pytest.mark.parametrize(
    ("looks", "texts"),
    [
        (
            "finished",
            ["Ja.", "ja bitte", "Guten Tag, ich hätte gerne einen Termin.", "wann haben Sie offen", "drei"],
        ),
        ("open", ["Ich brauche einen Termin", "null sechs neun eins zwei drei vier"]),
        ("doubtful", ["Das ist er.", "Ich fahre nach."]),
        (
            "unfinished",
            [
                "Mein Name ist",
                "Mein Name ist.",
                "Ich hätte gerne einen",
                "Ich wollte fragen, ob",
                "ähm",
                "Moment",
                "Die Nummer ist null sechs neun.",
                "Ich fahre nach",
                "und zwar",
            ],
        ),
    ],
)
def test_german(looks: Ending, texts: list[str]) -> None:
    assert {text: ending(text, "de-AT") for text in texts} == dict.fromkeys(texts, looks)


def test_other_languages_go_by_punctuation_and_hums() -> None:
    texts = {
        "Haluaisin varata pöydän.": "finished",
        "Haluaisin varata pöydän": "open",
        "Haluaisin,": "unfinished",
        "Haluaisin varata öhm": "unfinished",
        "你好。": "finished",
        "Ok": "finished",
    }
    assert {text: ending(text, "fi") for text in texts} == texts


@given(st.text(max_size=60), st.sampled_from(["en", "de", "fr", "xx"]))
def test_any_text_looks_like_something(text: str, language: str) -> None:
    assert ending(text, language) in ("finished", "open", "doubtful", "unfinished")
