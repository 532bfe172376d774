"""Texts are compared as people compare them."""

from __future__ import annotations

import re
import time

import pytest

from offhook.qa.measuring.words import (
    MAX_LETTERS,
    WordErrors,
    contains,
    described,
    found_by,
    matches,
    phrases,
    plain,
    spoken,
    word_errors,
    words,
)
from offhook.qa.scenario.model import Heard


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", "hello world"),
        ("I'm sorry, I can\N{RIGHT SINGLE QUOTATION MARK}t.", "i am sorry i can not"),
        ("We'll see; they've left, you're late, it isn't.", "we will see they have left you are late it is not"),
        ("That's Anna's, let's go", "that is anna's let us go"),
        ("at 10:30 a.m., O.K.", "at 10 30 am okay"),
        ("It costs $1,250.50 or 3 £", "it costs 1250 point 50 dollars or 3"),
        ("25% & more", "25 percent and more"),
        ("Straße Nº 5", "straße nº 5"),
        ("", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("four seven one two", "4 7 1 2"),
        ("forty-seven twelve", "47 12"),
        ("four thousand seven hundred and twelve", "4712"),
        ("one hundred five", "105"),
        ("5 hundred", "500"),
        ("two million and one", "2000001"),
        ("twelve hundred", "1200"),
        ("nineteen ninety nine", "19 99"),
        ("thirty", "30"),
        ("oh, five oh one", "0 5 0 1"),
        ("oh no, one", "oh no 1"),
        ("a hundred and one", "a hundred and 1"),
        ("bread and two eggs", "bread and 2 eggs"),
        ("one hundred and", "100 and"),
        ("twenty first, the 3rd and twelfth", "21th the 3th and 12th"),
        ("twenty zero", "20 0"),
        ("one hundred hundred", "100 hundred"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("your number is four seven one two", "4712"),
        ("your number is 47 12", "four seven one two"),
        ("call five five five zero one nine nine", "555-0199"),
        ("call five five five zero one nine nine", "0199"),
        ("press one two times", "press one"),
        ("on April twelfth", "april 12th"),
        ("I'm afraid we cannot", "I am afraid we can't"),
        ("the total is twenty five dollars", "$25"),
        ("Date of birth?", "date of birth"),
    ],
)
def test_found(text: str, phrase: str) -> None:
    assert contains(text, phrase)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("it is twenty five dollars", "five dollars"),
        ("your number is 4712", "712"),
        ("your number is four seven one two", "4713"),
        ("your number is four seven one", "4712"),
        ("an update of birth", "date of birth"),
        ("date of", "date of birth"),
        ("anything", ""),
        ("", "anything"),
        ("anything", "?!"),
    ],
)
def test_not_found(text: str, phrase: str) -> None:
    assert not contains(text, phrase)


def test_all_that_is_expected_must_hold() -> None:
    expected = Heard(any=["birthday", "date of birth"], all=["please"], regex=r"tell (me|us)")
    assert matches(expected, "Could you tell me your date of birth, please?")
    assert not matches(expected, "Could you tell me your name, please?")
    assert not matches(expected, "Could you tell me your date of birth?")
    assert not matches(expected, "Your date of birth, please.")
    assert matches(expected, "could you tell me they are in a bad please", {"date of birth"})
    assert phrases(expected) == ["birthday", "date of birth", "please"]
    assert described(expected) == '"birthday" or "date of birth", and "please", and /tell (me|us)/'


def test_regular_expressions_see_both_forms() -> None:
    assert found_by(r"\b\d{3}-\d{2}-\d{4}\b", "It is 123-45-6789.")
    assert found_by("well sir", "Well, Sir!")
    assert found_by("APRIL (12|twelfth)", "on april twelfth")
    assert not found_by("^sir", "well, sir")
    with pytest.raises(re.error):
        found_by("(", "text")


@pytest.mark.parametrize(
    ("phrase", "ways"),
    [
        ("PIN 4712", ["pin four seven one two", "pin four thousand seven hundred twelve"]),
        ("0199", ["zero one nine nine"]),
        ("12345678", ["one two three four five six seven eight"]),
        ("40 of 3rd", ["four zero of third", "forty of third"]),
        ("the 21st", ["the twenty first"]),
        ("don't", ["do not", "don't"]),
    ],
)
def test_ways_to_speak_a_phrase(phrase: str, ways: list[str]) -> None:
    assert [" ".join(way) for way in spoken(phrase)] == ways


def test_word_errors() -> None:
    assert word_errors("a b c d", "a x c d e") == WordErrors(4, replaced=1, left_out=0, put_in=1)
    assert word_errors("Twenty-five, please.", "25 please").rate == 0
    assert word_errors("a b c d", "c d") == WordErrors(4, replaced=0, left_out=2, put_in=0)
    assert word_errors("a b c d", "b").rate == 0.75
    assert word_errors("", "").rate == 0
    assert word_errors("", "a b").rate == 1


def test_long_texts_take_no_long_time() -> None:
    begun = time.perf_counter()
    assert not contains("one hundred and " * 5000, "one hundred and two")
    assert plain("a" * 3 * MAX_LETTERS) == "a" * MAX_LETTERS
    words("1," * MAX_LETTERS)
    words("'" * MAX_LETTERS + "a.b." * 1000)
    assert time.perf_counter() - begun < 1
