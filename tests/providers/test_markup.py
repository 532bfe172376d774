"""Documents: what is written is read back the same, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import PCMU
from offhook.providers.carrier_side import CarrierFault
from offhook.providers.markup import (
    MAX_DEPTH,
    MAX_DOCUMENT,
    Element,
    Markup,
    MarkupError,
    OpenStream,
    element,
    read,
    render,
    whole_number,
)

_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=20)
_names = st.sampled_from(["Response", "Stream", "Say", "a", "b-c"])
_elements = st.recursive(
    st.builds(Element, _names, st.dictionaries(_names, _text, max_size=3), _text),
    lambda inner: st.builds(
        Element, _names, st.dictionaries(_names, _text, max_size=3), _text, st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


@given(_elements)
def test_what_is_written_is_read_back(written: Element) -> None:
    assert read(render(written)) == written


def test_white_space_in_values_survives() -> None:
    assert read(render(element("a", x="1\n2\r3\t4"))).get("x") == "1\n2\r3\t4"


def test_empty_attributes_are_left_out() -> None:
    assert render(element("a", "t", element("b"), x="", y=0)) == (
        '<?xml version="1.0" encoding="UTF-8"?><a y="0">t<b /></a>'
    )


@pytest.mark.parametrize("bad", ["\x00", "\x0b", "\ud800", "\ufffe"])
def test_characters_that_no_xml_holds(bad: str) -> None:
    for item in (element("a", bad), element("a", x=bad)):
        with pytest.raises(ValueError, match="cannot stand in XML"):
            render(item)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "no element found"),
        ("<a>", "no element found"),
        ("<a></b>", "mismatched"),
        ("<a/><b/>", "junk"),
        ("<a>&nbsp;</a>", "undefined entity"),
        ("<!DOCTYPE a><a/>", "document type"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        ("<a>" * (MAX_DEPTH + 1), "inside each other"),
        (" " * (MAX_DOCUMENT + 1), "limit"),
        (b"<a>\xff</a>", "not well-formed"),
    ],
)
def test_what_is_no_document(document: str | bytes, why: str) -> None:
    with pytest.raises(MarkupError, match=why):
        read(document)


def test_a_declared_encoding_does_not_matter() -> None:
    assert read("<?xml version='1.0' encoding='UTF-16'?><a>é</a>").text == "é"


@pytest.mark.parametrize(
    ("text", "expected"), [("7", 7), (" 7 ", 7), ("", 1), ("-1", 1), ("x", 1), ("²", 1), ("9" * 20, 1)]
)
def test_numbers_are_read_leniently(text: str, expected: int) -> None:
    assert whole_number(text, 1) == expected


def test_the_stream_is_the_first_that_would_be_opened() -> None:
    def stream(url: str, refused: CarrierFault | None = None) -> OpenStream:
        return OpenStream(url=url, parameters={}, bidirectional=True, blocking=True, format=PCMU, refused=refused)

    bad, good = stream("ws://h", CarrierFault("bad-markup", "")), stream("wss://h")
    assert Markup((bad, good), ()).stream is good
    assert Markup((bad,), ()).stream is None
