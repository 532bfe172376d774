from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.services.reasoning import SpokenText


def spoken(*pieces: str, thinking: bool = False) -> str:
    text = SpokenText(thinking=thinking)
    return "".join([*(text.feed(piece) for piece in pieces), text.end()])


@pytest.mark.parametrize(
    ("reply", "heard"),
    [
        ("Hello there.", "Hello there."),
        ("<think>He greets.</think>\n\nHello.", "Hello."),
        ("<think></think>Hello.", "Hello."),
        ("One. <thinking>x</thinking> Two.", "One. Two."),
        ("[THINK]x[/THINK]Hello.", "Hello."),
        ("<think>never closed", ""),
        ("lost end</think> Hello.", "lost endHello."),
        ("3 < 4 and <b", "3 < 4 and <b"),
        ("<think>a < b </thin</think>Yes", "Yes"),
        ("<think>a</think><think>b</think>c", "c"),
    ],
)
def test_reasoning_is_never_spoken_however_it_is_cut(reply: str, heard: str) -> None:
    assert spoken(reply) == heard
    assert spoken(*reply) == heard
    for at in range(len(reply)):
        assert spoken(reply[:at], reply[at:]) == heard


def test_text_is_not_held_back_for_a_tag_that_cannot_come() -> None:
    text = SpokenText()
    assert text.feed("Hello, ") == "Hello, "
    assert text.feed("a <") == "a "
    assert text.feed("b") == "<b"


def test_a_reply_may_begin_within_reasoning() -> None:
    assert spoken("He wants to", " know.</th", "ink>\n\nYes.", thinking=True) == "Yes."


@given(st.lists(st.text("<>/thinkab \n[]TH", max_size=8), max_size=12))
def test_the_cuts_make_no_difference(pieces: list[str]) -> None:
    assert spoken(*pieces) == spoken("".join(pieces))
