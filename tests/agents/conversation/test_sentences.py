"""Replies are cut where one can speak, however they come in, and are spoken without markup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.conversation.sentences import TOO_LONG, SentenceCutter, plain


def cut(text: str, size: int = 3) -> list[str]:
    cutter = SentenceCutter()
    pieces = [piece for i in range(0, len(text), size) for piece in cutter.push(text[i : i + size])]
    return pieces + cutter.finish()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("That is 3.50 euros. Fine?", ["That is 3.50 euros.", "Fine?"]),
        ("Dr. Smith is in. Mr. Jones is not.", ["Dr. Smith is in.", "Mr. Jones is not."]),
        ("Das kostet z.B. zehn Euro. Gut?", ["Das kostet z.B. zehn Euro.", "Gut?"]),
        ("Wait... what?", ["Wait...", "what?"]),
        ('He said "Stop!" and left.', ['He said "Stop!"', "and left."]),
        ("1. Press one.\n2. Press two.", ["1. Press one.", "2. Press two."]),
        ("はい。わかりました。", ["はい。", "わかりました。"]),
        ("no end", ["no end"]),
        ("**Bold** and [a link](http://x.y/z) 😀.", ["Bold and a link ."]),
        ("- one\n- two\n", ["one", "two"]),
        ("...\n\n***\n", []),
        ("", []),
    ],
)
def test_cut_at_sentences(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def test_the_first_piece_may_be_a_clause_the_next_may_not() -> None:
    text = "Sure, we are open from nine in the morning, every day of the week, and on Sundays from ten. Yes, we are."
    assert cut(text) == [
        "Sure, we are open from nine in the morning,",
        "every day of the week, and on Sundays from ten.",
        "Yes, we are.",
    ]


def test_text_without_an_end_is_cut_at_a_word() -> None:
    pieces = cut("word " * 200)
    assert all(len(piece) <= TOO_LONG for piece in pieces)
    assert " ".join(pieces).split() == ["word"] * 200


def test_a_piece_comes_as_soon_as_it_is_complete() -> None:
    cutter = SentenceCutter()
    assert cutter.push("Yes.") == []  # it might be the beginning of a number
    assert cutter.push(" ") == ["Yes."]
    assert cutter.push("No, thank you very much,") == []
    assert cutter.finish() == ["No, thank you very much,"]


PIECES = ["one", "two,", "three.", "Dr.", "4.", "five;", "six!", "\n", "…", "long" * 9]


@given(st.lists(st.sampled_from(PIECES), max_size=90).map(" ".join), st.integers(1, 9), st.integers(1, 400))
def test_how_the_text_arrives_changes_nothing(text: str, one: int, other: int) -> None:
    assert cut(text, one) == cut(text, other)


def test_plain_text() -> None:
    assert plain("# Title\n*really*  `code` __x__ 2*3 snake_case") == "Title really code x 2*3 snake_case"
