"""Plivo's media socket: the conformance cases, ladders between both sides, and noise."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat
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
from offhook.providers.carrier_side import AudioQueued, CarrierFault, Cleared, DtmfPlayed, MarkAsked
from offhook.providers.plivo.wire import (
    CLEAR_PATIENCE,
    MAX_QUEUED,
    PlivoCarrierSide,
    PlivoStream,
    parse_extra_headers,
    parse_format,
)

CALL, STREAM = "c-1", "s-1"
FRAME = bytes(range(160))


def json(value: object) -> bytes:
    return msgspec.json.encode(value)


def start(encoding: str = "audio/x-mulaw", rate: object = 8000, headers: object = "", **changes: Any) -> bytes:
    body = {
        "callId": CALL,
        "streamId": STREAM,
        "accountId": "MA1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": encoding, "sampleRate": rate},
    }
    return json({"sequenceNumber": 1, "event": "start", "start": body | changes, "extra_headers": headers})


def media(payload: bytes = FRAME, chunk: object = 1, sequence: object = 2) -> bytes:
    body = {"track": "inbound", "timestamp": "20", "chunk": chunk, "payload": base64.b64encode(payload).decode()}
    return json(
        {"sequenceNumber": sequence, "streamId": STREAM, "event": "media", "media": body, "extra_headers": "a=b"}
    )


def event(name: str, /, **fields: Any) -> bytes:
    return json({"sequenceNumber": "9", "event": name, **fields})


def fault(events: Sequence[StreamEvent]) -> str:
    """The kind of the only event, which is a fault that does not end the stream."""
    assert len(events) == 1
    assert isinstance(events[0], ProtocolFault)
    assert events[0].close_code == 0
    return events[0].kind


@pytest.fixture
def stream() -> PlivoStream:
    """A stream that has started, with μ-law."""
    opened = PlivoStream(expect_call_id=CALL)
    assert len(opened.receive(start(), 0.0)) == 1
    return opened


# --- conformance cases ------------------------------------------------------------------


def test_case_1_start_is_the_first_message() -> None:
    stream = PlivoStream(expect_call_id=CALL)
    assert fault(stream.receive(media(), 0.0)) == "media-before-start"
    assert stream.receive(start(), 0.0) == (StreamStarted(STREAM, CALL, PCMU, {}),)
    assert stream.stream_id == STREAM


def test_case_2_linear_audio_at_16_khz() -> None:
    stream = PlivoStream(expect_call_id=CALL)
    assert stream.receive(start("audio/x-l16", 16000), 0.0) == (StreamStarted(STREAM, CALL, L16_16K, {}),)
    frame = np.arange(320, dtype="<i2").tobytes()
    (heard,) = stream.receive(media(frame), 0.1)
    assert isinstance(heard, MediaReceived)
    assert np.frombuffer(heard.payload, "<i2").tolist() == list(range(320))
    assert msgspec.json.decode(stream.media(frame)) == {
        "event": "playAudio",
        "media": {
            "contentType": "audio/x-l16",
            "sampleRate": 16000,
            "payload": base64.b64encode(frame).decode(),
        },
    }


@pytest.mark.parametrize(
    ("encoding", "rate", "expected"),
    [
        ("audio/x-mulaw;rate=8000", 8000, PCMU),
        ("Audio/X-MuLaw ; rate=8000", "8000", PCMU),
        ("audio/x-l16;rate=8000", 8000, L16_8K),
    ],
)
def test_case_3_a_parameter_is_stripped(encoding: str, rate: object, expected: AudioFormat) -> None:
    stream = PlivoStream(expect_call_id=CALL)
    assert stream.receive(start(encoding, rate), 0.0) == (StreamStarted(STREAM, CALL, expected, {}),)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("tenant=acme;t=1", {"tenant": "acme", "t": "1"}),
        ("tenant=acme,t=1", {"tenant": "acme", "t": "1"}),
        (" tenant = acme ; t=a=b", {"tenant": "acme", "t": "a=b"}),
        ('{"tenant":"acme"}', {"tenant": "acme"}),
        ({"tenant": "acme", "t": 1}, {"tenant": "acme", "t": "1"}),
        (None, {}),
        ({}, {}),
        ("{}", {}),
        ("", {}),
        ("{broken", {}),
        ("plain", {}),
        ("=1;;,", {}),
        ([1, 2], {}),
        (5, {}),
        ("{" * 50_000, {}),
    ],
)
def test_case_4_extra_headers_are_always_a_dict(headers: object, expected: dict[str, str]) -> None:
    assert parse_extra_headers(headers) == expected
    stream = PlivoStream(expect_call_id=CALL)
    assert stream.receive(start(headers=headers), 0.0) == (StreamStarted(STREAM, CALL, PCMU, expected),)


def test_case_4_extra_headers_may_be_absent() -> None:
    message = msgspec.json.decode(start())
    del message["extra_headers"]
    stream = PlivoStream(expect_call_id=CALL)
    assert isinstance(stream.receive(json(message), 0.0)[0], StreamStarted)


def test_case_5_numbers_as_numbers_and_as_strings(stream: PlivoStream) -> None:
    assert stream.receive(media(chunk=1, sequence=2), 0.1) == [MediaReceived(FRAME, 0)]
    assert stream.receive(media(chunk="2", sequence="3"), 0.1) == [MediaReceived(FRAME, 0)]
    assert stream.receive(media(chunk=5, sequence=6), 0.1) == [MediaReceived(FRAME, 40)]
    # going back is told, for the log, and changes nothing
    complaint, heard = stream.receive(media(chunk=3, sequence=1), 0.1)
    assert fault([complaint]) == "bad-message"
    assert heard == MediaReceived(FRAME, 0)


def test_case_6_a_checkpoint_that_is_played(stream: PlivoStream) -> None:
    assert msgspec.json.decode(stream.mark("a")) == {"event": "checkpoint", "streamId": STREAM, "name": "a"}
    assert stream.receive(event("playedStream", name="a"), 1.0) == (MarkReached("a", cleared=False),)


def test_case_7_checkpoints_that_a_clear_overtakes(stream: PlivoStream) -> None:
    stream.mark("a")
    stream.mark("b")
    (clear,) = stream.clear(1.0)
    assert msgspec.json.decode(clear) == {"event": "clearAudio", "streamId": STREAM}
    stream.mark("c")
    assert stream.receive(event("clearedAudio"), 1.1) == (
        MarkReached("a", cleared=True),
        MarkReached("b", cleared=True),
        ClearConfirmed(),
    )
    assert fault(stream.receive(event("playedStream", name="a"), 1.2)) == "unknown-mark"
    assert stream.receive(event("playedStream", name="c"), 1.3) == (MarkReached("c", cleared=False),)


def test_case_7_a_checkpoint_between_clear_and_its_answer_is_cleared(stream: PlivoStream) -> None:
    stream.mark("a")
    stream.clear(1.0)
    assert stream.receive(event("playedStream", name="a"), 1.1) == (MarkReached("a", cleared=True),)
    assert stream.receive(event("clearedAudio"), 1.1) == (ClearConfirmed(),)


def test_case_8_a_clear_that_is_never_answered(stream: PlivoStream) -> None:
    stream.mark("a")
    stream.clear(1.0)
    assert stream.receive(media(chunk=1), 1.0 + CLEAR_PATIENCE - 0.01) == [MediaReceived(FRAME, 0)]
    assert stream.receive(media(chunk=2), 1.0 + CLEAR_PATIENCE) == [
        MarkReached("a", cleared=True),
        MediaReceived(FRAME, 0),
    ]
    assert stream.receive(media(chunk=3), 4.0) == [MediaReceived(FRAME, 0)]
    assert stream.receive(event("clearedAudio"), 5.0) == (ClearConfirmed(),)


def test_case_9_dtmf(stream: PlivoStream) -> None:
    body = {"track": "inbound", "digit": "#", "timestamp": "1820"}
    assert stream.receive(event("dtmf", streamId=STREAM, dtmf=body), 0.1) == (DtmfReceived("#"),)
    for digit in ("", "ab", "x"):
        assert fault(stream.receive(event("dtmf", dtmf={"digit": digit}), 0.1)) == "bad-dtmf"
    assert fault(stream.receive(event("dtmf", dtmf={}), 0.1)) == "bad-dtmf"


@pytest.mark.parametrize("name", ["playFailed", "error"])
@pytest.mark.parametrize("reason", ["bad payload", None, 5, {"code": 1}, "x" * 5000])
def test_case_10_plivo_reports_its_own_trouble(stream: PlivoStream, name: str, reason: object) -> None:
    assert fault(stream.receive(event(name, reason=reason), 0.1)) == "carrier-error"
    assert stream.receive(media(), 0.2) == [MediaReceived(FRAME, 0)]


def test_case_11_the_end_is_told_once(stream: PlivoStream) -> None:
    assert stream.closed(1.0) == (StreamEnded("transport-lost"),)
    assert stream.closed(1.1) == ()
    assert fault(stream.receive(event("stop"), 1.1)) == "after-stop"


def test_case_11_stop_then_close_ends_once(stream: PlivoStream) -> None:
    assert stream.receive(event("stop"), 1.0) == (StreamEnded("stop"),)
    assert stream.closed(1.1) == ()


def test_case_12_half_a_sample_is_dropped() -> None:
    stream = PlivoStream(expect_call_id=CALL)
    stream.receive(start("audio/x-l16", 8000), 0.0)
    complaint, heard = stream.receive(media(b"\1\0\2\0\3", chunk=1), 0.1)
    assert fault([complaint]) == "odd-length"
    assert heard == MediaReceived(b"\1\0\2\0", 0)
    assert fault(stream.receive(media(b"\1", chunk=2), 0.1)) == "odd-length"


# --- beyond the cases ---------------------------------------------------------------------


def test_unknown_formats_end_the_stream() -> None:
    for encoding, rate in (("audio/x-mulaw", 16000), ("audio/opus", 48000), ("audio/x-l16", 24000)):
        stream = PlivoStream(expect_call_id=CALL)
        refusal, ended = stream.receive(start(encoding, rate), 0.0)
        assert isinstance(refusal, ProtocolFault)
        assert (refusal.kind, refusal.close_code) == ("unsupported-format", 1003)
        assert ended == StreamEnded("protocol-error")
    assert parse_format("", 0) is None


def test_a_start_for_another_call_ends_the_stream() -> None:
    refusal, ended = PlivoStream(expect_call_id="c-2").receive(start(), 0.0)
    assert isinstance(refusal, ProtocolFault)
    assert (refusal.kind, refusal.close_code) == ("wrong-call", 1008)
    assert ended == StreamEnded("protocol-error")


def test_foreign_streams_second_starts_and_unknown_events(stream: PlivoStream) -> None:
    assert fault(stream.receive(start(), 0.1)) == "second-start"
    assert fault(stream.receive(media().replace(b"s-1", b"s-2"), 0.1)) == "wrong-stream-id"
    assert fault(stream.receive(event("playedStream", name="a", streamId="s-2"), 0.1)) == "wrong-stream-id"
    assert fault(stream.receive(event("muteStream"), 0.1)) == "unknown-event"
    assert fault(stream.receive(event("connected"), 0.1)) == "unknown-event"
    assert fault(stream.receive(event("playedStream"), 0.1)) == "bad-message"


def test_keys_out(stream: PlivoStream) -> None:
    assert stream.send_dtmf("12#") == b'{"event":"sendDTMF","dtmf":"12#"}'
    for digits in ("", "1w2", "x", '1"'):
        assert stream.send_dtmf(digits) is None


# --- Plivo's side -------------------------------------------------------------------------


def test_what_plivo_sends() -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, stream_id=STREAM, parameters={"tenant": "acme", "t": "1"})
    (started,) = side.open(0.0)
    assert msgspec.json.decode(started) == msgspec.json.decode(start(headers="tenant=acme;t=1"))
    assert msgspec.json.decode(side.media(FRAME)) == {
        "event": "media",
        "sequenceNumber": 2,
        "streamId": STREAM,
        "media": {"track": "inbound", "chunk": 1, "timestamp": "20", "payload": base64.b64encode(FRAME).decode()},
        "extra_headers": "tenant=acme;t=1",
    }
    assert msgspec.json.decode(side.dtmf("5")) == {
        "event": "dtmf",
        "sequenceNumber": 3,
        "streamId": STREAM,
        "dtmf": {"digit": "5", "track": "inbound", "timestamp": "20"},
        "extra_headers": "tenant=acme;t=1",
    }
    assert side.stop() == []


def test_a_plivo_that_says_stop() -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, stream_id=STREAM, sends_stop=True)
    side.open(0.0)
    assert [msgspec.json.decode(message)["event"] for message in side.stop()] == ["stop"]


def play(payload: bytes, content_type: str = "audio/x-mulaw", rate: object = 8000) -> bytes:
    body = {"contentType": content_type, "sampleRate": rate, "payload": base64.b64encode(payload).decode()}
    return json({"event": "playAudio", "media": body})


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"{", "bad-json"),
        (b"[]", "bad-json"),
        (b'{"event":"media","media":{"payload":"/w=="}}', "unknown-event"),
        (b'{"event":"playAudio","media":{"payload":"/w=="}}', "bad-message"),
        (play(FRAME).replace(b"AAEC", b"!!!!"), "bad-base64"),
        (play(FRAME, "audio/x-l16", 24000), "bad-format"),
        (b'{"event":"checkpoint","streamId":"s-1"}', "bad-message"),
        (b'{"event":"checkpoint","streamId":"s-2","name":"a"}', "wrong-stream-id"),
        (b'{"event":"clearAudio"}', "wrong-stream-id"),
        (b'{"event":"sendDTMF","dtmf":"1x"}', "bad-dtmf"),
        (b'{"event":"sendDTMF","dtmf":""}', "bad-dtmf"),
    ],
)
def test_what_plivo_complains_about(message: bytes, kind: str) -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, stream_id=STREAM)
    side.open(0.0)
    (complaint,) = side.receive(message, 1.0)
    assert isinstance(complaint, CarrierFault)
    assert (complaint.kind, complaint.at) == (kind, 1.0)
    assert side.queued(1.0) == 0
    owed = [msgspec.json.decode(item)["event"] for item in side.due(1.0)]
    assert owed == (["playFailed"] if kind in ("bad-base64", "bad-format") else [])


def test_audio_that_plays_all_the_same_with_a_complaint() -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, format=L16_8K)
    side.open(0.0)
    for payload, content_type, kind in (
        (b"RIFF\0\0", "audio/x-l16", "audio-header"),
        (b"\0\0\0", "audio/x-l16", "odd-length"),
        (b"\0\0", "audio/x-l16;rate=8000", "bad-format"),
    ):
        complaint, queued = side.receive(play(payload, content_type), 0.0)
        assert isinstance(complaint, CarrierFault)
        assert complaint.kind == kind
        assert isinstance(queued, AudioQueued)


def test_plivo_converts_what_is_not_in_the_streams_format() -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL)
    side.open(0.0)
    (queued,) = side.receive(play(bytes(640), "audio/x-l16", 16000), 0.0)
    assert isinstance(queued, AudioQueued)
    assert queued.seconds == pytest.approx(0.02)
    assert side.play(0.02) == b"\xff" * 160


def test_plivo_with_a_full_buffer_one_way_and_before_start() -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, bidirectional=False)
    assert isinstance(complaint := side.receive(play(FRAME), 0.0)[0], CarrierFault)
    assert complaint.kind == "sent-before-start"
    side.open(0.0)
    assert isinstance(complaint := side.receive(play(FRAME), 0.0)[0], CarrierFault)
    assert complaint.kind == "not-bidirectional"
    assert side.receive_binary(FRAME, 0.0)[0] == CarrierFault("binary-message", "160 bytes sent as a binary message")
    full = PlivoCarrierSide(account_id="MA1", call_id=CALL)
    full.open(0.0)
    assert isinstance(full.receive(play(bytes(8000 * int(MAX_QUEUED))), 0.0)[0], AudioQueued)
    assert isinstance(complaint := full.receive(play(FRAME), 0.0)[0], CarrierFault)
    assert complaint.kind == "overflow"


# --- ladders: both sides against each other, in virtual time ------------------------------------


class Ladder:
    """A stream and its carrier, joined; `events` collects what the gateway is told."""

    def __init__(self, format: AudioFormat = PCMU) -> None:
        self.stream = PlivoStream(expect_call_id=CALL)
        self.side = PlivoCarrierSide(account_id="MA1", call_id=CALL, format=format, parameters={"tenant": "acme"})
        self.events: list[StreamEvent] = []
        self.heard = b""

    def up(self, messages: Sequence[bytes], now: float) -> None:
        for message in messages:
            self.events += self.stream.receive(message, now)

    def down(self, messages: Sequence[bytes], now: float) -> None:
        for message in messages:
            assert not any(isinstance(item, CarrierFault) for item in self.side.receive(message, now))

    def run(self, until: float, now: float) -> None:
        """Let the carrier do what is due, 20 ms at a time."""
        while now < until - 1e-9:
            now += 0.02
            self.up(self.side.due(now), now)
            self.heard += self.side.play(now)

    def take(self) -> list[StreamEvent]:
        taken, self.events = self.events, []
        return taken


@pytest.mark.parametrize("format", [PCMU, L16_8K, L16_16K], ids=str)
def test_ladder_an_utterance_is_played_in_every_format(format: AudioFormat) -> None:
    ladder = Ladder(format)
    frame = bytes(range(160)) * (format.frame_bytes // 160)
    ladder.up(ladder.side.open(0.0), 0.0)
    assert ladder.take() == [StreamStarted("s-c-1", CALL, format, {"tenant": "acme"})]
    ladder.down([ladder.stream.media(frame), ladder.stream.mark("utt-1")], 0.0)
    assert ladder.side.next_due() == pytest.approx(0.02)
    ladder.run(0.1, 0.0)
    assert ladder.take() == [MarkReached("utt-1", cleared=False)]
    assert ladder.heard == frame + format.silence * 4
    ladder.up([ladder.side.media(frame), ladder.side.dtmf("1")], 0.1)
    assert ladder.take() == [MediaReceived(frame, 0), DtmfReceived("1")]
    assert ladder.stream.closed(0.2) == (StreamEnded("transport-lost"),)


def test_ladder_barge_in_drops_checkpoints_and_is_confirmed() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.take()
    ladder.down([ladder.stream.media(FRAME), ladder.stream.mark("a"), ladder.stream.media(b"\x55" * 8000)], 0.0)
    ladder.down([ladder.stream.mark("b")], 0.0)
    ladder.run(0.5, 0.0)
    assert ladder.take() == [MarkReached("a", cleared=False)]
    (clear,) = ladder.stream.clear(0.5)
    assert ladder.side.receive(clear, 0.5) == [Cleared(0.5, pytest.approx(0.52))]
    assert ladder.side.next_due() == 0.0
    ladder.down([ladder.stream.media(FRAME), ladder.stream.mark("c")], 0.5)
    ladder.run(0.6, 0.5)
    assert ladder.take() == [MarkReached("b", cleared=True), ClearConfirmed(), MarkReached("c", cleared=False)]


def test_ladder_a_checkpoint_played_just_before_the_clear_still_comes_first() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.take()
    ladder.down([ladder.stream.media(FRAME), ladder.stream.mark("a")], 0.0)
    (clear,) = ladder.stream.clear(0.05)
    ladder.side.receive(clear, 0.05)
    assert [msgspec.json.decode(item)["event"] for item in ladder.side.due(0.05)] == ["playedStream", "clearedAudio"]


def test_ladder_keys_out_and_lost_audio() -> None:
    ladder = Ladder()
    ladder.up(ladder.side.open(0.0), 0.0)
    ladder.up([ladder.side.media(FRAME)], 0.02)
    ladder.side.lose(FRAME)
    ladder.up([ladder.side.media(FRAME)], 0.06)
    assert ladder.take()[1:] == [MediaReceived(FRAME, 0), MediaReceived(FRAME, 20)]
    keys = ladder.stream.send_dtmf("12#")
    assert keys is not None
    assert ladder.side.receive(keys, 0.1) == [DtmfPlayed(0.1, "12#")]


# --- noise ----------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_inbound = ["start", "media", "dtmf", "playedStream", "clearedAudio", "playFailed", "error", "stop"]
_outbound = ["playAudio", "checkpoint", "clearAudio", "sendDTMF"]
_shaped = st.builds(
    lambda name, body, rest: json({"event": name, name: body, **rest}),
    st.sampled_from(_inbound + _outbound),
    _json,
    st.fixed_dictionaries(
        {},
        optional={
            "streamId": st.sampled_from([STREAM, "x", None, 1]),
            "sequenceNumber": _json,
            "name": _json,
            "reason": _json,
            "extra_headers": _json,
            "media": _json,
            "dtmf": _json,
        },
    ),
)
_valid = st.sampled_from(
    [
        start(),
        start("audio/x-l16", 16000),
        media(),
        event("dtmf", dtmf={"digit": "1"}),
        event("playedStream", name="a"),
        event("clearedAudio"),
        event("stop"),
        play(FRAME),
        b'{"event":"checkpoint","streamId":"s-1","name":"a"}',
        b'{"event":"clearAudio","streamId":"s-1"}',
    ]
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_valid))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


_messages = st.one_of(st.binary(max_size=60), st.text(max_size=60), _shaped, _valid, _mutated())


@given(st.lists(_messages, max_size=12))
@example([start(headers="{" * 1000), media(b"\0")])
def test_the_gateway_side_has_a_closed_list_of_outcomes(messages: list[bytes | str]) -> None:
    stream = PlivoStream(expect_call_id=CALL)
    stream.mark("a")
    stream.clear(0.0)
    events: list[StreamEvent] = []
    for number, message in enumerate(messages):
        events += stream.receive(message, number * 0.5)
    events += stream.closed(10.0)
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
    assert sum(isinstance(item, MarkReached) for item in events) <= 1
    for item in events:
        if isinstance(item, ProtocolFault):
            assert item.kind in FAULT_KINDS
            assert len(item.detail) <= 200


@given(st.lists(_messages, max_size=12))
def test_the_carriers_side_has_a_closed_list_of_outcomes(messages: list[bytes | str]) -> None:
    side = PlivoCarrierSide(account_id="MA1", call_id=CALL, stream_id=STREAM)
    side.open(0.0)
    for number, message in enumerate(messages):
        now = number * 0.02
        for item in side.receive(message, now):
            assert isinstance(item, CarrierFault | AudioQueued | MarkAsked | Cleared | DtmfPlayed)
            if isinstance(item, CarrierFault):
                assert item.kind in CARRIER_FAULT_KINDS
        for owed in side.due(now):
            assert msgspec.json.decode(owed)["event"] in ("playedStream", "clearedAudio", "playFailed")
        side.next_due()
    assert len(side.play(1.0)) == 8000


@given(_json)
def test_extra_headers_never_raise(value: object) -> None:
    for given_as in (value, str(value), json(value).decode()):
        assert all(isinstance(item, str) for pair in parse_extra_headers(given_as).items() for item in pair)
