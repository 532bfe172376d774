"""The first message: what it says of the call, and what it may look like."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.freeswitch.metadata import MAX_KEYS, Metadata, read, unescaped


def test_the_first_key_that_says_it_wins() -> None:
    found = read('{"callSid":"CA1","Unique-ID":"u-2","destination_number":"100","Caller-Caller-ID-Number":"200"}')
    assert found.call_id == "CA1"
    assert found.first(("to", "destination_number")) == "100"
    assert found.first(("nothing",)) == ""


def test_the_text_overrules_what_lies_beneath() -> None:
    found = read('{"from":"1"}', {"from": "2", "to": "3"})
    assert found.values == {"from": "1", "to": "3"}
    assert read("hello", {"to": "3"}).values == {"to": "3", "metadata": "hello"}
    assert read(b"caf\xe9").values == {"metadata": "caf�"}


@pytest.mark.parametrize(
    ("value", "rate"), [("8k", 8000), ("16k", 16000), (48000, 48000), ("", 24000), ("8 k", 0), (-1, 0), (8000.0, 0)]
)
def test_rates(value: object, rate: int) -> None:
    assert read(json.dumps({"sampleRate": value})).rate(24000) == rate


@pytest.mark.parametrize(("mix", "channels"), [("mono", 1), ("mixed", 1), ("stereo", 2), ("", 2), ("quad", 0)])
def test_mix_types(mix: str, channels: int) -> None:
    assert Metadata({"mixType": mix}).channels("stereo") == channels


def test_only_so_many_keys_are_read() -> None:
    assert len(read(json.dumps({f"k{number}": "v" for number in range(300)})).values) == MAX_KEYS


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", '"text"', "{", "{'single':'quotes'}", "[" * 65_536, '{"a":' * 9000, "\ud800"]
)
def test_what_is_no_object_is_text(text: str) -> None:
    assert set(read(text).values) == {"metadata"}


def test_a_string_that_is_no_utf_8_is_kept_as_it_can_be() -> None:
    assert read(b'{"a":"caf\xe9","b":["\xe9"]}').values == {"a": '"caf\ufffd"', "b": '["\ufffd"]'}
    assert "metadata" in read(b'{"a":"\\ud800"}').values


@given(st.one_of(st.text(), st.binary()))
def test_reading_never_fails(text: str | bytes) -> None:
    found = read(text)
    found.rate(8000)
    found.channels("mono")
    assert len(found.call_id) <= 128


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), (r"a\"b", 'a"b'), (r"line\n", "line\n"), ("C:\\x", "C:\\x"), ('"\\', '"\\')],
)
def test_escapes_that_are_one_too_many(text: str, expected: str) -> None:
    assert unescaped(text) == expected
