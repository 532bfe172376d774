"""Phone numbers in the forms that carriers give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.numbers import WITHHELD, normalise


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("+15550001111", "+15550001111"),
        ("15550001111", "+15550001111"),
        ("+1 (555) 000-1111", "+15550001111"),
        (" 15550001111 ", "+15550001111"),
        ("12345", "12345"),  # a short code
        ("0301234567", "0301234567"),  # national: which country is anybody's guess
        ("1234567890123456", "1234567890123456"),  # longer than E.164 allows
        ("client:ann", "client:ann"),
        ("sip:ann@example.net", "sip:ann@example.net"),
        ("sip:15550001111@example.net", "sip:15550001111@example.net"),
        ("anonymous", "anonymous"),
        ("Restricted", "anonymous"),
        ("", "anonymous"),
        ("١٢٣٤٥٦٧", "١٢٣٤٥٦٧"),
    ],
)
def test_normalise(given: str, expected: str) -> None:
    assert normalise(given) == expected


def test_withheld_numbers_spell_the_word_on_a_phones_keys() -> None:
    keys = {
        letter: key
        for key, letters in zip("23456789", ["ABC", "DEF", "GHI", "JKL", "MNO", "PQRS", "TUV", "WXYZ"], strict=True)
        for letter in letters
    }
    words = ("ANONYMOUS", "RESTRICTED", "BLOCKED", "UNKNOWN", "UNAVAILABLE")
    assert {"+" + "".join(keys[letter] for letter in word) for word in words} == WITHHELD
    assert {normalise(number) for number in WITHHELD} == {"anonymous"}


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
