"""Phone numbers: one form to compare, patterns, and masks for logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.numbers import canonical, mask, mask_text, matches


@pytest.mark.parametrize(
    "number", ["+15550100", "15550100", "+1 555 0100", "+1 (555) 01-00", "+1.555.0100", "1/555/0100", " +15550100 "]
)
def test_one_number_has_one_form(number: str) -> None:
    assert canonical(number) == "15550100"


def test_addresses_are_compared_without_case() -> None:
    assert canonical("SIP:Alice@Example.com") == "sip:alice@example.com"
    assert canonical("client:a-b.c") == "client:a-b.c"


@pytest.mark.parametrize(
    ("pattern", "number", "fits"),
    [
        ("+15550100", "+15550100", True),
        ("+15550100", "15550100", True),
        ("+15550100", "+155501001", False),
        ("+1555*", "+15550100", True),
        ("+1555*", "+1555", True),
        ("+1555*", "+1556", False),
        ("*", "anonymous", True),
        ("*", "", True),
        ("+*", "+4930", True),
        ("sip:alice*", "sip:Alice@example.com", True),
        ("sip:alice*", "sips:alice@example.com", False),
    ],
)
def test_patterns(pattern: str, number: str, fits: bool) -> None:
    assert matches(pattern, number) is fits


def test_a_mask_leaves_two_digits() -> None:
    assert mask("+15550142") == "+******42"
    assert mask("+49 30 1234567") == "+** ** *****67"
    assert mask("client:alice") == "******:***ce"
    assert mask("7") == "7"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("call from +15550142 to +4930 1234567.", "call from +******42 to +**** *****67."),
        ("dialled 004930123456 now", "dialled **********56 now"),
        ("12 calls, 8080, 2026-11-22T14:02:13.047400Z, 1.25 s", "12 calls, 8080, 2026-11-22T14:02:13.047400Z, 1.25 s"),
        ("id 3f2a91c012345678901234567890abcd stays", "id 3f2a91c012345678901234567890abcd stays"),
        ("1795356123.107029", "1795356123.107029"),
    ],
)
def test_numbers_in_text_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@given(st.integers(10**7, 10**14), st.text("abc .,:", max_size=5), st.text("abc .,:;", max_size=5))
def test_no_international_number_survives(number: int, before: str, after: str) -> None:
    assert str(number) not in mask_text(f"{before}+{number}{after and ' ' + after}")
