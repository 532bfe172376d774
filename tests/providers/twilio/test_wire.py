"""Twilio's media socket: the conformance cases, ladders between both sides, and noise."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_16K, PCMU
from offhook.providers.base import (
    FAULT_KINDS,
    ClearConfirmed,
    DtmfReceived,
    MarkReached,
    MediaReceived,
    ProtocolFault,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.carrier_side import FAULT_KINDS as CARRIER_FAULT_KINDS
from offhook.providers.carrier_side import AudioQueued, CarrierFault, Cleared, MarkAsked
from offhook.providers.guard import MAX_MESSAGES
from offhook.providers.json_stream import MAX_LOST_MS, MAX_MESSAGE, MAX_PENDING_MARKS
from offhook.providers.twilio.wire import MAX_QUEUED, TwilioCarrierSide, TwilioStream

CALL, STREAM = "CA1", "MZ1"
FRAME = bytes(range(160))
CONNECTED = b'{"event":"connected","protocol":"Call","version":"1.0.0"}'


def json(value: object) -> bytes:
    return msgspec.json.encode(value)


def start(**changes: Any) -> bytes:
    body = {
        "streamSid": STREAM,
        "accountSid": "AC1",
        "callSid": CALL,
        "tracks": ["inbound"],
        "customParameters": {},
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    }
    return json({"event": "start", "sequenceNumber": "1", "streamSid": STREAM, "start": body | changes})


def media(chunk: object = "1", payload: object = None, *, stream: str = STREAM, track: str = "inbound") -> bytes:
    text = base64.b64encode(FRAME).decode() if payload is None else payload
    body = {"track": track, "chunk": chunk, "timestamp": "20", "payload": text}
    return json({"event": "media", "sequenceNumber": "2", "streamSid": stream, "media": body})


def event(name: str, /, **fields: Any) -> bytes:
    return json({"event": name, "sequenceNumber": "9", "streamSid": STREAM, **fields})


def mark(name: str) -> bytes:
    return event("mark", mark={"name": name})


def fault(events: Sequence[StreamEvent]) -> str:
    """The kind of the only event, which is a fault that does not end the stream."""
    assert len(events) == 1
    assert isinstance(events[0], ProtocolFault)
    assert events[0].close_code == 0
    return events[0].kind


@pytest.fixture
def stream() -> TwilioStream:
    """A stream that has started."""
    opened = TwilioStream(expect_call_id=CALL)
    assert opened.receive(CONNECTED, 0.0) == ()
    assert len(opened.receive(start(), 0.0)) == 1
    return opened


@pytest.fixture
def side() -> TwilioCarrierSide:
    """Twilio, with its stream open since 0.0."""
    opened = TwilioCarrierSide(account_sid="AC1", call_sid=CALL, parameters={"tenant": "acme"})
    opened.open(0.0)
    return opened


# --- conformance cases ------------------------------------------------------------------


def test_case_1_connected_and_start_open_the_session() -> None:
    stream = TwilioStream(expect_call_id=CALL)
    assert stream.stream_id == ""
    assert stream.receive(CONNECTED, 0.0) == ()
    assert stream.receive(start(), 0.0) == (StreamStarted(STREAM, CALL, PCMU, {}),)
    assert (stream.stream_id, stream.format) == (STREAM, PCMU)


@pytest.mark.parametrize(
    "wanted",
    [
        {"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
        {"encoding": "audio/opus", "sampleRate": 8000},
        {"encoding": "", "sampleRate": "8000"},
    ],
)
def test_case_2_unknown_format_is_refused_not_guessed(wanted: dict[str, object]) -> None:
    stream = TwilioStream(expect_call_id=CALL)
    refusal, ended = stream.receive(start(mediaFormat=wanted), 0.0)
    assert isinstance(refusal, ProtocolFault)
    assert (refusal.kind, refusal.close_code) == ("unsupported-format", 1003)
    assert repr(wanted["encoding"]) in refusal.detail
    assert ended == StreamEnded("protocol-error")
    assert fault(stream.receive(media(), 0.1)) == "after-stop"
    assert stream.closed(0.2) == ()


def test_case_3_missing_chunks_are_counted_as_lost(stream: TwilioStream) -> None:
    for chunk in ("1", "2", "3", "4", "5"):
        assert stream.receive(media(chunk), 0.1) == (MediaReceived(FRAME, 0),)
    assert stream.receive(media("8"), 0.2) == (MediaReceived(FRAME, 40),)
    assert stream.receive(media("9"), 0.2) == (MediaReceived(FRAME, 0),)
    assert stream.receive(media("999999999999999999999"), 0.3) == (MediaReceived(FRAME, MAX_LOST_MS),)


def test_case_3_a_counter_that_goes_back_changes_no_order(stream: TwilioStream) -> None:
    stream.receive(media("5"), 0.1)
    complaint, audio = stream.receive(media("3"), 0.1)
    assert fault([complaint]) == "bad-message"
    assert audio == MediaReceived(FRAME, 0)
    assert stream.receive(media("4"), 0.1) == (MediaReceived(FRAME, 0),)


def test_case_4_the_outbound_track_is_not_the_caller(stream: TwilioStream) -> None:
    assert stream.receive(media("1", track="outbound"), 0.1) == ()
    assert stream.receive(media("1"), 0.1) == (MediaReceived(FRAME, 0),)


@pytest.mark.parametrize("payload", ["!!", "/w", "/w==\n", "/-==", "====", "/w==/w=="])
def test_case_5_bad_base64_is_dropped_and_counted(stream: TwilioStream, payload: str) -> None:
    assert fault(stream.receive(media("1", payload), 0.1)) == "bad-base64"
    assert stream.receive(media("1"), 0.1) == (MediaReceived(FRAME, 0),)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", "bad-json"),
        (b"{", "bad-json"),
        (b"[]", "bad-json"),
        (b"null", "bad-json"),
        (b'"media"', "bad-json"),
        (b"\xff\xfe", "bad-json"),
        (b'{"event":"dtmf","dtmf":{"digit":"\xff"}}', "bad-json"),
        (b'{"event":"mark","mark":{"name":' + b"[" * 30_000, "bad-message"),
        (b'{"event":"stop","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "bad-json"),
        ("\ud800", "bad-json"),
        (b"{}", "unknown-event"),
        (b'{"event":"future"}', "unknown-event"),
        (b'{"event":5}', "unknown-event"),
        (b'{"event":null}', "unknown-event"),
        (b'{"event":"media"}', "bad-message"),
        (b'{"event":"media","media":null}', "bad-message"),
        (b'{"event":"media","media":{"payload":null}}', "bad-message"),
        (b'{"event":"media","media":{"payload":5}}', "bad-message"),
        (b'{"event":"media","media":{"payload":"/w==","chunk":"x"}}', "bad-message"),
        (b'{"event":"mark","mark":{}}', "bad-message"),
        (b'{"event":"mark","streamSid":5,"mark":{"name":"a"}}', "bad-message"),
    ],
)
def test_case_6_noise_is_counted_and_the_connection_stays(
    stream: TwilioStream, message: bytes | str, kind: str
) -> None:
    assert fault(stream.receive(message, 0.1)) == kind
    assert stream.receive(media("1"), 0.1) == (MediaReceived(FRAME, 0),)


def test_case_7_dtmf(stream: TwilioStream) -> None:
    assert stream.receive(event("dtmf", dtmf={"track": "inbound_track", "digit": "*"}), 0.1) == (DtmfReceived("*"),)
    assert stream.receive(event("dtmf", dtmf={"digit": "a"}), 0.1) == (DtmfReceived("A"),)
    assert stream.receive(event("dtmf", dtmf={"digit": 5}), 0.1) == (DtmfReceived("5"),)
    for body in ({"digit": "ab"}, {"digit": ""}, {"digit": "x"}, {"digit": 12}, {}):
        assert fault(stream.receive(event("dtmf", dtmf=body), 0.1)) == "bad-dtmf"
    assert fault(stream.receive(event("dtmf", dtmf={"digit": None}), 0.1)) == "bad-message"


def test_case_8_marks_that_a_clear_brings_back_were_not_played(stream: TwilioStream) -> None:
    stream.mark("A")
    stream.mark("B")
    clear, behind = stream.clear(1.0)
    assert msgspec.json.decode(clear) == {"event": "clear", "streamSid": STREAM}
    stream.mark("C")
    assert stream.receive(mark("A"), 1.1) == (MarkReached("A", cleared=True),)
    assert stream.receive(mark("B"), 1.1) == (MarkReached("B", cleared=True),)
    ours = msgspec.json.decode(behind)["mark"]["name"]
    assert stream.receive(mark(ours), 1.1) == (ClearConfirmed(),)
    assert stream.receive(mark("C"), 1.2) == (MarkReached("C", cleared=False),)


def test_case_8_a_clear_is_confirmed_by_the_last_mark_only(stream: TwilioStream) -> None:
    stream.mark("A")
    first, second = (msgspec.json.decode(stream.clear(at)[1])["mark"]["name"] for at in (1.0, 1.1))
    assert stream.receive(mark(first), 1.2) == ()
    # A was lost on its way: it is reported all the same, once
    assert stream.receive(mark(second), 1.2) == (MarkReached("A", cleared=True), ClearConfirmed())
    assert fault(stream.receive(mark("A"), 1.3)) == "unknown-mark"


def test_case_9_a_mark_never_sent_is_ignored(stream: TwilioStream) -> None:
    assert fault(stream.receive(mark("never"), 0.1)) == "unknown-mark"
    stream.mark("once")
    assert stream.receive(mark("once"), 0.1) == (MarkReached("once", cleared=False),)
    assert fault(stream.receive(mark("once"), 0.2)) == "unknown-mark"


def test_case_10_what_we_send(stream: TwilioStream) -> None:
    sent = msgspec.json.decode(stream.media(FRAME))
    assert sent == {
        "event": "media",
        "streamSid": STREAM,
        "media": {"payload": base64.b64encode(FRAME).decode()},
    }
    assert msgspec.json.decode(stream.mark("utt-7")) == {
        "event": "mark",
        "streamSid": STREAM,
        "mark": {"name": "utt-7"},
    }
    assert stream.send_dtmf("12#") is None


def test_case_10_a_stream_id_cannot_break_out_of_our_json() -> None:
    stream = TwilioStream(expect_call_id=CALL)
    odd = 'MZ"},{\\'
    assert len(stream.receive(json(msgspec.json.decode(start()) | {"streamSid": odd}), 0.0)) == 1
    assert msgspec.json.decode(stream.media(b"\xff"))["streamSid"] == odd


def test_case_11_beyond_ten_minutes_twilio_drops_and_says_so_once(side: TwilioCarrierSide) -> None:
    stream = TwilioStream(expect_call_id=CALL)
    stream.receive(start(), 0.0)
    minute = stream.media(bytes(60 * 8000))
    for _ in range(10):
        assert isinstance(side.receive(minute, 0.0)[0], AudioQueued)
    assert side.queued(0.0) == MAX_QUEUED
    for code in ("31931", ""):
        assert side.receive(minute, 0.0) == [
            CarrierFault("overflow", "more than 600 s queued; the audio is dropped", code, 0.0)
        ]
    assert side.queued(1.0) == MAX_QUEUED - 1


def test_case_12_stop_then_close_ends_once(stream: TwilioStream) -> None:
    assert stream.receive(event("stop", stop={"accountSid": "AC1", "callSid": CALL}), 1.0) == (StreamEnded("stop"),)
    assert fault(stream.receive(event("stop"), 1.0)) == "after-stop"
    assert fault(stream.receive(media(), 1.0)) == "after-stop"
    assert fault(stream.receive(b"{", 1.0)) == "after-stop"
    assert stream.closed(1.1) == ()


def test_case_12_close_without_stop_ends_once(stream: TwilioStream) -> None:
    assert stream.closed(1.0) == (StreamEnded("transport-lost"),)
    assert stream.closed(1.0) == ()
    assert TwilioStream(expect_call_id=CALL).closed(0.0) == (StreamEnded("transport-lost"),)


def test_case_13_second_start_and_foreign_stream_ids(stream: TwilioStream) -> None:
    assert fault(stream.receive(start(), 0.1)) == "second-start"
    assert fault(stream.receive(start(callSid="CA2"), 0.1)) == "second-start"
    assert fault(stream.receive(media("1", stream="MZ2"), 0.1)) == "wrong-stream-id"
    for name in ("mark", "dtmf", "stop"):
        message = event(name, mark={"name": "a"}, dtmf={"digit": "1"}, stop={}).replace(b"MZ1", b"MZ2")
        assert fault(stream.receive(message, 0.1)) == "wrong-stream-id"
    # left out, it can only be ours
    assert stream.receive(media("1", stream=""), 0.1) == (MediaReceived(FRAME, 0),)


def test_case_14_an_oversize_message_closes_with_1009(stream: TwilioStream) -> None:
    too_big, ended = stream.receive(b" " * (MAX_MESSAGE + 1), 0.1)
    assert isinstance(too_big, ProtocolFault)
    assert (too_big.kind, too_big.close_code) == ("bad-message", 1009)
    assert ended == StreamEnded("protocol-error")
    largest = media("1", base64.b64encode(bytes(48_000)).decode())
    assert len(largest) < MAX_MESSAGE


# --- beyond the cases ---------------------------------------------------------------------


def test_media_before_start() -> None:
    stream = TwilioStream(expect_call_id=CALL)
    assert fault(stream.receive(media(), 0.0)) == "media-before-start"
    assert isinstance(stream.receive(start(), 0.1)[0], StreamStarted)


def test_a_start_for_another_call_ends_the_stream() -> None:
    stream = TwilioStream(expect_call_id="CA2")
    refusal, ended = stream.receive(start(), 0.0)
    assert isinstance(refusal, ProtocolFault)
    assert (refusal.kind, refusal.close_code) == ("wrong-call", 1008)
    assert ended == StreamEnded("protocol-error")


def test_binary_instead_of_text(stream: TwilioStream) -> None:
    assert fault(stream.receive_binary(FRAME, 0.1)) == "binary-message"
    assert stream.receive(media("1").decode(), 0.1) == (MediaReceived(FRAME, 0),)


def test_numbers_as_numbers_and_as_strings(stream: TwilioStream) -> None:
    assert stream.receive(media(1), 0.1) == (MediaReceived(FRAME, 0),)
    assert stream.receive(media("2"), 0.1) == (MediaReceived(FRAME, 0),)
    assert stream.receive(media(None), 0.1) == (MediaReceived(FRAME, 0),)
    fresh = TwilioStream(expect_call_id=CALL)
    wanted = {"encoding": "audio/x-mulaw", "sampleRate": "8000", "channels": "1"}
    assert isinstance(fresh.receive(start(mediaFormat=wanted, accountSid="AC1"), 0.0)[0], StreamStarted)


def test_audio_without_bytes_is_no_event(stream: TwilioStream) -> None:
    assert stream.receive(media("1", ""), 0.1) == ()


def test_flood_is_cut_to_twice_real_time_and_closed_after_ten_seconds(stream: TwilioStream) -> None:
    heard, faults = 0, 0
    message, events = media(None), list[StreamEvent]()
    ticks = iter(n // 10 * 0.02 for n in range(10_000))  # ten frames every 20 ms: ten times real time
    for now in ticks:
        events = list(stream.receive(message, now))
        heard += sum(isinstance(item, MediaReceived) for item in events)
        faults += sum(isinstance(item, ProtocolFault) and item.kind == "flood" for item in events)
        if StreamEnded("protocol-error") in events:
            break
    assert isinstance(events[0], ProtocolFault)
    assert events[0].close_code == 1008
    assert 10.0 <= now < 11.0
    assert heard * 0.02 <= 2 * (now + 2)
    assert faults > 3000


def test_twice_real_time_is_no_flood(stream: TwilioStream) -> None:
    for tick in range(1000):
        for _ in range(2):
            assert stream.receive(media(None), tick * 0.02) == (MediaReceived(FRAME, 0),)


def test_a_backlog_after_a_stall_is_no_flood_that_closes(stream: TwilioStream) -> None:
    assert len([stream.receive(media(None), 5.0) for _ in range(200)]) == 200
    assert fault(stream.receive(media(None), 5.0)) == "flood"
    for tick in range(1000):
        assert stream.receive(media(None), 7.0 + tick * 0.02) == (MediaReceived(FRAME, 0),)


def test_a_flood_of_noise_is_a_flood(stream: TwilioStream) -> None:
    events = [item for n in range(12_000) for item in stream.receive(b"[]", n * 0.001)]
    assert sum(isinstance(item, ProtocolFault) and item.kind == "bad-json" for item in events) <= 6 * MAX_MESSAGES
    assert [item.close_code for item in events if isinstance(item, ProtocolFault) and item.close_code] == [1008]
    assert events.count(StreamEnded("protocol-error")) == 1


def test_every_kind_of_message_counts_towards_a_flood(stream: TwilioStream) -> None:
    for _ in range(MAX_MESSAGES):
        stream.receive(CONNECTED, 1.0)
    assert fault(stream.receive(CONNECTED, 1.0)) == "flood"
    assert fault(stream.receive_binary(b"", 1.0)) == "flood"
    assert fault(stream.receive(b"[]", 1.0)) == "flood"
    assert fault(stream.receive(media(), 1.0)) == "flood"


def test_marks_that_never_come_back_do_not_pile_up(stream: TwilioStream) -> None:
    for number in range(MAX_PENDING_MARKS + 1):
        stream.mark(f"m{number}")
    assert fault(stream.receive(mark("m0"), 0.1)) == "unknown-mark"
    assert stream.receive(mark("m1"), 0.1) == (MarkReached("m1", cleared=False),)
    for number in range(2 * MAX_PENDING_MARKS):
        stream.mark(f"n{number}")
        stream.clear(0.2)
    assert fault(stream.receive(mark("n0"), 0.3)) == "unknown-mark"


# --- Twilio's side ------------------------------------------------------------------------


def test_what_twilio_sends(side: TwilioCarrierSide) -> None:
    fresh = TwilioCarrierSide(account_sid="AC1", call_sid=CALL, parameters={"tenant": "acme"})
    connected, started = fresh.open(0.0)
    assert connected == CONNECTED
    expected = msgspec.json.decode(start(customParameters={"tenant": "acme"}))
    assert msgspec.json.decode(started) == expected
    assert fresh.stream_id == STREAM
    assert msgspec.json.decode(fresh.media(FRAME)) == {
        "event": "media",
        "sequenceNumber": "2",
        "streamSid": STREAM,
        "media": {
            "track": "inbound",
            "chunk": "1",
            "timestamp": "20",
            "payload": base64.b64encode(FRAME).decode(),
        },
    }
    assert msgspec.json.decode(fresh.dtmf("5")) == {
        "event": "dtmf",
        "sequenceNumber": "3",
        "streamSid": STREAM,
        "dtmf": {"digit": "5", "track": "inbound_track"},
    }
    (stop,) = fresh.stop()
    assert msgspec.json.decode(stop) == {
        "event": "stop",
        "sequenceNumber": "4",
        "streamSid": STREAM,
        "stop": {"accountSid": "AC1", "callSid": CALL},
    }


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        (b"{", "bad-json", "31950"),
        (b"[]", "bad-json", "31950"),
        (b'{"event":"media","streamSid":"MZ1","media":{"payload":"!"}}', "bad-base64", "31950"),
        (b'{"event":"dtmf","streamSid":"MZ1"}', "unknown-event", "31924"),
        (b'{"event":"media","streamSid":"MZ1"}', "bad-message", "31924"),
        (b'{"event":"mark","streamSid":"MZ1","mark":{}}', "bad-message", "31924"),
        (b'{"event":"clear","streamSid":"MZ2"}', "wrong-stream-id", ""),
        (b'{"event":"clear"}', "wrong-stream-id", ""),
    ],
)
def test_what_twilio_complains_about(side: TwilioCarrierSide, message: bytes, kind: str, code: str) -> None:
    (complaint,) = side.receive(message, 1.0)
    assert isinstance(complaint, CarrierFault)
    assert (complaint.kind, complaint.code, complaint.at) == (kind, code, 1.0)
    assert side.faults == [complaint]


def test_twilio_warns_of_malformed_messages_once(side: TwilioCarrierSide) -> None:
    complaints = [*side.receive_binary(FRAME, 1.0), *side.receive(b"{", 1.0), *side.receive_binary(FRAME, 1.0)]
    assert [item.code for item in complaints if isinstance(item, CarrierFault)] == ["31950", "", ""]


def test_twilio_takes_nothing_on_a_stream_that_only_listens() -> None:
    side = TwilioCarrierSide(account_sid="AC1", call_sid=CALL, bidirectional=False)
    side.open(0.0)
    (complaint,) = side.receive(b'{"event":"clear","streamSid":"MZ1"}', 0.1)
    assert isinstance(complaint, CarrierFault)
    assert (complaint.kind, complaint.code) == ("not-bidirectional", "31924")


def test_twilio_takes_nothing_before_start() -> None:
    side = TwilioCarrierSide(account_sid="AC1", call_sid=CALL)
    (complaint,) = side.receive(b'{"event":"clear","streamSid":"MZ1"}', 0.1)
    assert isinstance(complaint, CarrierFault)
    assert complaint.kind == "sent-before-start"
    assert side.play(1.0) == b""
    assert side.due(1.0) == []
    assert side.next_due() is None
    assert side.queued(1.0) == 0.0


def test_a_file_header_and_half_samples_are_noticed() -> None:
    side = TwilioCarrierSide(account_sid="AC1", call_sid=CALL, format=L16_16K)
    side.open(0.0)
    wav = base64.b64encode(b"RIFF\0\0\0\0WAVE\0").decode()
    events = side.receive(json({"event": "media", "streamSid": STREAM, "media": {"payload": wav}}), 0.0)
    assert [item.kind for item in events if isinstance(item, CarrierFault)] == ["audio-header", "odd-length"]
    assert side.queued(0.0) == 12 / 32_000


def test_every_fault_kind_is_listed() -> None:
    assert {"bad-json", "overflow", "audio-header"} <= CARRIER_FAULT_KINDS


# --- ladders: both sides against each other, in virtual time ------------------------------------


class Ladder:
    """A stream and its carrier, joined; `events` collects what the gateway is told."""

    def __init__(self) -> None:
        self.stream = TwilioStream(expect_call_id=CALL)
        self.side = TwilioCarrierSide(account_sid="AC1", call_sid=CALL, parameters={"tenant": "acme"})
        self.events: list[StreamEvent] = []
        self.heard = b""

    def up(self, messages: Sequence[bytes], now: float) -> None:
        for message in messages:
            self.events += self.stream.receive(message, now)

    def down(self, messages: Sequence[bytes], now: float) -> None:
        for message in messages:
            complaints = [item for item in self.side.receive(message, now) if isinstance(item, CarrierFault)]
            assert complaints == []

    def run(self, until: float, now: float) -> None:
        """Let the carrier do what is due, 20 ms at a time."""
        while now < until - 1e-9:
            now += 0.02
            self.up(self.side.due(now), now)
            self.heard += self.side.play(now)

    def take(self) -> list[StreamEvent]:
        taken, self.events = self.events, []
        return taken


def test_ladder_an_utterance_is_played_and_its_mark_comes_back() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    assert ladder.take() == [StreamStarted(STREAM, CALL, PCMU, {"tenant": "acme"})]
    ladder.run(0.1, 0.0)
    ladder.down([ladder.stream.media(FRAME), ladder.stream.media(FRAME), ladder.stream.mark("utt-1")], 0.1)
    assert ladder.side.next_due() == pytest.approx(0.14)
    ladder.run(0.12, 0.1)
    assert ladder.take() == []
    ladder.run(0.2, 0.12)
    assert ladder.take() == [MarkReached("utt-1", cleared=False)]
    assert ladder.heard == b"\xff" * 800 + FRAME * 2 + b"\xff" * 480
    ladder.up(ladder.side.stop(), 0.2)
    assert ladder.take() == [StreamEnded("stop")]
    assert ladder.side.faults == []


def test_ladder_a_mark_on_an_empty_buffer_comes_back_at_once() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.take()
    ladder.down([ladder.stream.mark("a")], 0.5)
    assert ladder.side.next_due() == pytest.approx(0.5)
    ladder.up(ladder.side.due(0.5), 0.5)
    assert ladder.take() == [MarkReached("a", cleared=False)]


def test_ladder_barge_in() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.take()
    second = b"\x55" * 8000
    ladder.down([ladder.stream.media(FRAME), ladder.stream.mark("a"), ladder.stream.media(second)], 0.0)
    ladder.down([ladder.stream.mark("b")], 0.0)
    ladder.run(0.5, 0.0)
    assert ladder.take() == [MarkReached("a", cleared=False)]
    ladder.up([ladder.side.media(FRAME)], 0.5)
    clear = ladder.stream.clear(0.5)
    assert ladder.side.receive(clear[0], 0.5) == [Cleared(0.5, pytest.approx(0.52))]
    assert isinstance(ladder.side.receive(clear[1], 0.5)[0], MarkAsked)
    ladder.down([ladder.stream.media(FRAME), ladder.stream.mark("c")], 0.5)
    ladder.run(0.6, 0.5)
    assert ladder.take() == [
        MediaReceived(FRAME, 0),
        MarkReached("b", cleared=True),
        ClearConfirmed(),
        MarkReached("c", cleared=False),
    ]
    assert ladder.heard == FRAME + second[: 8000 - 4160] + FRAME + b"\xff" * 640


def test_ladder_twilio_discards_audio_and_the_hole_is_known() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.up([ladder.side.media(FRAME)], 0.02)
    ladder.side.lose(FRAME)
    ladder.side.lose(FRAME)
    ladder.up([ladder.side.media(FRAME), ladder.side.dtmf("#")], 0.08)
    assert ladder.take()[1:] == [MediaReceived(FRAME, 0), MediaReceived(FRAME, 40), DtmfReceived("#")]


# --- noise ----------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_names = st.sampled_from(["connected", "start", "media", "dtmf", "mark", "stop", "clear"])
_shaped = st.builds(
    lambda name, body, rest: json({"event": name, name: body, **rest}),
    _names,
    _json
    | st.fixed_dictionaries(
        {},
        optional={
            "payload": st.sampled_from(["", "/w==", "!", None, 3]),
            "chunk": _json,
            "digit": _json,
            "name": _json,
            "callSid": st.sampled_from([CALL, "x", None]),
            "mediaFormat": st.just({"encoding": "audio/x-mulaw", "sampleRate": 8000}) | _json,
            "customParameters": _json,
        },
    ),
    st.fixed_dictionaries({}, optional={"streamSid": st.sampled_from([STREAM, "x", None, 1]), "sequenceNumber": _json}),
)
_valid = st.sampled_from([CONNECTED, start(), media(), event("dtmf", dtmf={"digit": "1"}), mark("a"), event("stop")])


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_valid))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


_messages = st.one_of(st.binary(max_size=60), st.text(max_size=60), _shaped, _valid, _mutated())


@given(st.lists(_messages, max_size=12))
@example([start(), b'{"event":"mark","mark":{"name":"\xff"}}'])
@example([start(), media("9" * 5000)])
def test_the_gateway_side_has_a_closed_list_of_outcomes(messages: list[bytes | str]) -> None:
    stream = TwilioStream(expect_call_id=CALL)
    events: list[StreamEvent] = []
    for number, message in enumerate(messages):
        events += stream.receive(message, number * 0.02)
    events += stream.closed(1.0)
    assert {type(item) for item in events} <= {
        StreamStarted,
        MediaReceived,
        DtmfReceived,
        MarkReached,
        ClearConfirmed,
        ProtocolFault,
        StreamEnded,
    }
    assert sum(isinstance(item, StreamEnded) for item in events) == 1
    assert sum(isinstance(item, StreamStarted) for item in events) <= 1
    for item in events:
        if isinstance(item, ProtocolFault):
            assert item.kind in FAULT_KINDS
            assert len(item.detail) <= 200
        if isinstance(item, MediaReceived):
            assert item.payload
            assert 0 <= item.lost_ms <= MAX_LOST_MS


@given(st.lists(_messages, max_size=12))
def test_the_carriers_side_has_a_closed_list_of_outcomes(messages: list[bytes | str]) -> None:
    side = TwilioCarrierSide(account_sid="AC1", call_sid=CALL)
    side.open(0.0)
    for number, message in enumerate(messages):
        now = number * 0.02
        for item in side.receive(message, now):
            assert isinstance(item, CarrierFault | AudioQueued | MarkAsked | Cleared)
            if isinstance(item, CarrierFault):
                assert item.kind in CARRIER_FAULT_KINDS
        for owed in side.due(now):
            assert msgspec.json.decode(owed)["event"] == "mark"
        side.next_due()
    assert len(side.play(1.0)) == 8000
