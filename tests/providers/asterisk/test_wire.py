"""The text messages of chan_websocket. Case numbers are those of the wire notes on Asterisk."""

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.asterisk.wire import (
    EVENTS,
    MAX_EVENT,
    WITH_ID,
    BadText,
    MediaEvent,
    build_command,
    build_event,
    parse_command,
    parse_event,
)

PLAIN = (
    "MEDIA_START connection_id:media:b7:c1 channel:WebSocket/offhook/0x7f12 channel_id:1700000000.13 "
    "format:ulaw optimal_frame_size:160 ptime:20"
)
FIELDS = {
    "connection_id": "media:b7:c1",
    "channel": "WebSocket/offhook/0x7f12",
    "channel_id": "1700000000.13",
    "format": "ulaw",
    "optimal_frame_size": "160",
    "ptime": "20",
}


def test_case_10_both_spellings_of_media_start_are_the_same() -> None:
    as_json = {"ptime": 20, "extra": {"deep": 1}, "event": "MEDIA_START", "new": True, **FIELDS}
    as_json |= {"optimal_frame_size": 160, "ptime": 20, "channel_variables": {"OFFHOOK_TO": "100", "n": 1}}
    plain, spelt = parse_event(PLAIN), parse_event(msgspec.json.encode(as_json))
    assert plain == MediaEvent("MEDIA_START", FIELDS)
    assert {name: spelt.fields[name] for name in FIELDS} == plain.fields
    assert spelt.variables == {"OFFHOOK_TO": "100"}
    assert (plain.json, spelt.json) == (False, True)
    words = PLAIN.split()
    assert parse_event(" ".join([words[0], "some:more", "word", *reversed(words[1:])])).fields == {
        "some": "more",
        **FIELDS,
    }


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_reads_back(name: str, json: bool) -> None:
    fields = FIELDS if name == "MEDIA_START" else {"error_text": "no good"} if name == "ERROR" else {"digit": "5"}
    event = MediaEvent(name, {} if name in WITH_ID else fields, id="u7-1" if name in WITH_ID else "", json=json)
    found = parse_event(build_event(event))
    assert (found.name, found.id, found.json) == (name, event.id, json)
    assert {key: found.fields[key] for key in event.fields} == event.fields


def test_errors_of_old_and_new_releases() -> None:
    for text in ("ERROR: no good", "ERROR channel_id:17.1 error_text:no good"):
        assert parse_event(text) == MediaEvent("ERROR", {"error_text": "no good"})


@pytest.mark.parametrize(
    ("data", "unknown"),
    [
        ("FOO:", True),
        ("", True),
        ('{"event":"FOO"}', True),
        ('{"event":7}', True),
        ("{}", True),
        ("{", False),
        (b"\xff\xfe", False),
        ('{"a":' + "[" * 20_000, False),
        ('{"event":"\ud800"}', False),
        ("x" * (MAX_EVENT + 1), False),
    ],
)
def test_case_16_what_is_no_event(data: bytes | str, unknown: bool) -> None:
    with pytest.raises(BadText) as caught:
        parse_event(data)
    assert caught.value.unknown == unknown
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("json", [False, True])
def test_commands(json: bool) -> None:
    assert parse_command(build_command("ANSWER", json=json)) == ("ANSWER", "")
    assert parse_command(build_command("MARK_MEDIA", "u7-12", json=json)) == ("MARK_MEDIA", "u7-12")
    assert build_command("MARK_MEDIA", "u7", json=False) == b"MARK_MEDIA u7"
    assert build_command("MARK_MEDIA", "u7", json=True) == b'{"command":"MARK_MEDIA","correlation_id":"u7"}'


@pytest.mark.parametrize("json", [False, True])
def test_case_14_no_text_is_longer_than_asterisk_reads(json: bool) -> None:
    with pytest.raises(ValueError, match="over 128 bytes"):
        build_command("MARK_MEDIA", "x" * 200, json=json)
    for id in ("a b", "é", "a\nb"):
        with pytest.raises(ValueError, match="printable ASCII"):
            build_command("MARK_MEDIA", id, json=json)
    assert len(build_command("STOP_MEDIA_BUFFERING", "x" * 60, json=json)) <= 128
    with pytest.raises(BadText):
        parse_command("MARK_MEDIA " + "x" * 200)
    with pytest.raises(BadText):
        parse_command("{")


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_anything_is_an_event_or_bad_text(data: bytes | str) -> None:
    for prefix in ("", "MEDIA_START ", '{"event":"MEDIA_START",'):
        text = prefix + data if isinstance(data, str) else prefix.encode() + data
        with contextlib.suppress(BadText):
            assert parse_event(text).name in EVENTS


def test_long_messages_take_no_time() -> None:
    for text in ("MEDIA_START " + "a:b " * 8000, "MEDIA_START " + ":" * 32_000, "{" + '"a":1,' * 5000):
        started = time.perf_counter()
        with contextlib.suppress(BadText):
            parse_event(text)
        assert time.perf_counter() - started < 0.02
