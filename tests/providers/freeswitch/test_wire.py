"""FreeSWITCH's media socket towards us: first message, audio, keys, and noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_8K, L16_16K
from offhook.providers.base import (
    FAULT_KINDS,
    AcceptAnswer,
    CallOffered,
    DtmfReceived,
    HangUpAnswer,
    MediaReceived,
    ProtocolFault,
    RejectAnswer,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.freeswitch.playback import PLAYBACKS, BinaryPlayback, StreamedPlayback
from offhook.providers.freeswitch.wire import FreeswitchStream, dtmf_ms

CALL = "0a6f1f4e-7f3e-4a55-9a53-0f7b5b1f0001"
FRAME = np.arange(160, dtype="<i2").tobytes()


def metadata(**changes: Any) -> str:
    return json.dumps({"uuid": CALL, "from": "1000", "to": "+15550100", "sampleRate": 8000} | changes)


def opened(text: str | None = None, stream: FreeswitchStream | None = None) -> FreeswitchStream:
    """A stream that was offered and accepted."""
    stream = stream or StreamedPlayback()
    assert isinstance(stream.receive(text or metadata(), 0.0)[0], CallOffered)
    messages, events = stream.accept(AcceptAnswer(), 0.0)
    assert not messages
    assert isinstance(events[0], StreamStarted)
    return stream


def fault(events: Sequence[StreamEvent]) -> str:
    """The kind of the only event, which is a fault that does not end the stream."""
    assert len(events) == 1
    assert isinstance(events[0], ProtocolFault)
    assert events[0].close_code == 0
    return events[0].kind


def fatal(events: Sequence[StreamEvent]) -> tuple[str, int]:
    """Kind and close code of a fault that ends the stream."""
    found, ended = events
    assert isinstance(found, ProtocolFault)
    assert ended == StreamEnded("protocol-error")
    return found.kind, found.close_code


def test_the_first_text_offers_the_call_and_accepting_starts_the_audio() -> None:
    stream = StreamedPlayback()
    (offered,) = stream.receive(metadata(tenant="acme", priority=2, tags=["a"], note=None), 0.0)
    assert isinstance(offered, CallOffered)
    incoming = offered.incoming
    assert (incoming.carrier_call_id, incoming.from_number, incoming.to_number) == (CALL, "1000", "+15550100")
    assert incoming.direction == "inbound"
    assert incoming.fields["tenant"] == "acme"
    assert incoming.fields["priority"] == "2"
    assert incoming.fields["tags"] == '["a"]'
    assert incoming.fields["note"] == ""
    assert stream.stream_id == CALL
    assert stream.receive_binary(FRAME, 0.02) == ()  # it rings: nobody listens yet
    messages, (started,) = stream.accept(AcceptAnswer({"queue": "sales"}), 0.1)
    assert [json.loads(message) for message in messages] == [{"type": "json", "data": {"queue": "sales"}}]
    assert started == StreamStarted(CALL, CALL, L16_8K, dict(incoming.fields))
    assert stream.receive_binary(FRAME, 0.12) == (MediaReceived(FRAME),)
    assert stream.closed(1.0) == (StreamEnded("transport-lost"),)
    assert stream.closed(1.0) == ()


def test_an_answer_out_of_order_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="waiting, not offered"):
        StreamedPlayback().accept(AcceptAnswer(), 0.0)


def test_refusing_and_hanging_up_ask_the_other_side_to_end_it() -> None:
    stream = StreamedPlayback()
    stream.receive(metadata(), 0.0)
    assert [json.loads(m) for m in stream.refuse(RejectAnswer("busy"))] == [
        {"type": "disconnect", "data": {"reason": "busy"}}
    ]
    assert [json.loads(m) for m in stream.refuse(HangUpAnswer())] == [
        {"type": "disconnect", "data": {"reason": "refused"}}
    ]
    assert [json.loads(m) for m in stream.hang_up()] == [{"type": "disconnect"}]
    stream.send_dtmf("1")


def test_case_2_metadata_that_is_no_json_is_kept_as_it_is() -> None:
    stream = StreamedPlayback(number="+15550199", new_id=lambda: "made-1")
    (offered,) = stream.receive("hello", 0.0)
    assert isinstance(offered, CallOffered)
    assert offered.incoming.fields == {"metadata": "hello"}
    assert offered.incoming.carrier_call_id == "made-1"
    assert offered.incoming.to_number == "+15550199"
    assert offered.incoming.from_number == "anonymous"


def test_case_3_audio_first_is_taken_with_defaults_or_refused() -> None:
    taken = StreamedPlayback(audio_first=True, rate=16000, new_id=lambda: "made-1", query={"from": "1000"})
    assert taken.receive_binary(b"", 0.0) == ()
    (offered,) = taken.receive_binary(FRAME, 0.0)
    assert isinstance(offered, CallOffered)
    assert offered.incoming.from_number == "1000"
    assert taken.accept(AcceptAnswer(), 0.0)[1] == (StreamStarted("made-1", "made-1", L16_16K, {"from": "1000"}),)
    refused = StreamedPlayback()
    assert fatal(refused.receive_binary(FRAME, 0.0)) == ("media-before-start", 1008)
    assert fault(refused.receive_binary(FRAME, 0.0)) == "after-stop"
    assert fault(refused.receive(metadata(), 0.0)) == "after-stop"


def test_case_4_of_two_channels_the_left_one_is_the_caller() -> None:
    stream = opened(metadata(sampleRate=16000, mixType="stereo"))
    assert stream.format == L16_16K
    both = np.column_stack([np.arange(320), np.full(320, -7)]).astype("<i2").tobytes()
    (heard,) = stream.receive_binary(both, 0.02)
    assert isinstance(heard, MediaReceived)
    assert np.frombuffer(heard.payload, "<i2").tolist() == list(range(320))
    # a message may break anywhere
    whole = b"".join(
        event.payload
        for start in range(0, len(both), 7)
        for event in stream.receive_binary(both[start : start + 7], 0.1)
        if isinstance(event, MediaReceived)
    )
    assert whole == heard.payload


def test_case_5_a_key_and_how_long_it_was_held() -> None:
    stream = opened()
    assert stream.receive('{"event":"dtmf","dtmf":"2","duration":"1600"}', 0.1) == (DtmfReceived("2", 200),)
    assert stream.receive('{"event":"dtmf","dtmf":"a"}', 0.1) == (DtmfReceived("A"),)
    assert fault(stream.receive('{"event":"dtmf","dtmf":"12"}', 0.1)) == "bad-dtmf"
    assert fault(stream.receive('{"event":"dtmf"}', 0.1)) == "bad-dtmf"


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("1600", 200), (800, 100), (80.0, 10), ("", 0), ("long", 0), ("9" * 12, 0), ("²", 0), (1e300, 60_000), (-8, 0)],
)
def test_a_duration_is_believed_within_reason(duration: str | float, expected: int) -> None:
    assert dtmf_ms(duration) == expected


def test_case_11_nothing_is_made_of_an_empty_message_and_an_odd_byte_waits() -> None:
    stream = opened()
    assert stream.receive_binary(b"", 0.02) == ()
    assert stream.receive_binary(FRAME[:-1], 0.02) == (MediaReceived(FRAME[:-2]),)
    assert stream.receive_binary(FRAME[-1:] + FRAME, 0.04) == (MediaReceived(FRAME[-2:] + FRAME),)
    assert stream.receive_binary(b"\x01", 0.06) == ()


def test_case_12_the_call_id_of_the_metadata_proves_nothing() -> None:
    # A socket of its own takes any id: who opened it was settled by the upgrade.
    assert opened(json.dumps({"callSid": "somebody-else"})).stream_id == "somebody-else"
    # A socket that belongs to an announced call takes that call only, whoever wrote the key.
    stream = StreamedPlayback(expect_call_id="CA1")
    assert fatal(stream.receive(json.dumps({"callSid": "CA2"}), 0.0)) == ("wrong-call", 1008)


def test_a_socket_of_an_announced_call_starts_at_once() -> None:
    stream = StreamedPlayback(expect_call_id="CA1")
    text = json.dumps({"callSid": "CA1", "sampleRate": 16000, "mixType": "mono", "from": "1", "say": 'a \\"b\\"'})
    assert stream.receive(text, 0.0) == (StreamStarted("CA1", "CA1", L16_16K, {"say": 'a "b"'}),)
    assert stream.receive_binary(FRAME, 0.1) == (MediaReceived(FRAME),)


@pytest.mark.parametrize(
    "changes",
    [{"sampleRate": 11025}, {"sampleRate": "fast"}, {"sampleRate": 64000}, {"sampleRate": 10**400}, {"mixType": "5.1"}],
)
def test_a_format_we_do_not_carry_is_refused_not_guessed(changes: dict[str, Any]) -> None:
    assert fatal(StreamedPlayback().receive(metadata(**changes), 0.0)) == ("unsupported-format", 1003)


def test_a_rate_may_be_written_as_the_dialplan_does() -> None:
    assert opened(metadata(sampleRate="16k")).format == L16_16K


@pytest.mark.parametrize("call_id", ["x" * 129, "a b", "tab\tbed", "é", ""])
def test_an_id_that_is_none_is_replaced(call_id: str) -> None:
    stream = StreamedPlayback(new_id=lambda: "made-1")
    stream.receive(metadata(uuid=call_id), 0.0)
    assert stream.stream_id == "made-1"


def test_an_outbound_call_says_so() -> None:
    (offered,) = StreamedPlayback().receive(metadata(direction="outbound"), 0.0)
    assert isinstance(offered, CallOffered)
    assert offered.incoming.direction == "outbound"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"type":"teleport"}', "unknown-event"),
        ('{"type":"mark"}', "unknown-event"),
        ('{"note":"from the dialplan"}', "unknown-event"),
        ("{broken", "bad-json"),
        ("[1]", "bad-json"),
        ('{"type":5}', "bad-message"),
        ("[" * 60_000, "bad-json"),
        ("\ud800", "bad-json"),
    ],
)
def test_case_17_what_means_nothing_is_counted_and_the_call_goes_on(text: str, kind: str) -> None:
    stream = opened()
    assert fault(stream.receive(text, 0.1)) == kind
    assert stream.receive_binary(FRAME, 0.12) == (MediaReceived(FRAME),)


def test_a_message_too_long_ends_the_stream() -> None:
    assert fatal(opened().receive("x" * 65_537, 0.1)) == ("bad-message", 1009)


def test_a_flood_is_dropped_and_then_ended() -> None:
    stream = opened()
    kinds = set()
    now = 0.0
    while now < 30.0:
        now += 0.002
        for event in stream.receive_binary(FRAME, now):
            if isinstance(event, ProtocolFault):
                kinds.add((event.kind, event.close_code))
        if ("flood", 1008) in kinds:
            break
    assert kinds == {("flood", 0), ("flood", 1008)}
    assert stream.closed(now) == ()
    texts = opened()
    assert [texts.receive("{}", 0.0) for _ in range(501)][-1][0].kind == "flood"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", PLAYBACKS)
@given(
    messages=st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.text(max_size=50),
            st.sampled_from(
                [metadata(), '{"type":"mark","data":{"name":"a","event":"playout"}}', '{"type":"playDone","data":{}}']
            ),
        ),
        max_size=12,
    )
)
def test_noise_never_raises_and_a_stream_starts_and_ends_once(kind: Any, messages: list[bytes | str]) -> None:
    stream = PLAYBACKS[kind](audio_first=True)
    events: list[StreamEvent] = []
    for number, message in enumerate(messages):
        now = number * 0.02
        found = stream.receive(message, now) if isinstance(message, str) else stream.receive_binary(message, now)
        events += found
        if any(isinstance(event, CallOffered) for event in found):
            events += stream.accept(AcceptAnswer(), now)[1]
    events += stream.closed(9.0)
    assert sum(isinstance(event, StreamStarted) for event in events) <= 1
    assert sum(isinstance(event, StreamEnded) for event in events) == 1
    assert all(event.kind in FAULT_KINDS for event in events if isinstance(event, ProtocolFault))


def test_bare_audio_goes_out_as_binary_and_nothing_comes_back() -> None:
    stream = opened(stream=BinaryPlayback())
    assert stream.media(FRAME) == FRAME
    assert type(stream.media(FRAME)).__name__ == "Binary"
    assert stream.mark("a") is None
    assert stream.clear(0.1) == ()
    assert fault(stream.receive('{"type":"mark","data":{"name":"a","event":"playout"}}', 0.1)) == "unknown-event"
    assert stream.receive_binary(FRAME, 0.2) == (MediaReceived(FRAME),)
