"""The agent link: messages survive the wire, framing survives any chunking, junk is named."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents import link

CALL = link.CallInfo("c1", "+15550001", "+15550100", "twilio", fields={"CallSid": "CA1"})

TO_AGENT: list[link.ToAgent] = [
    link.Offer(CALL, "front-desk", {"name": "Acme", "n": 3}, "pcmu/8000", kind="receptionist"),
    link.Offer(CALL, "front-desk", {}, "pcma/8000", history=[{"role": "user", "content": "A table für vier."}]),
    link.Answered(12.5),
    link.Dtmf("#"),
    link.UtteranceStarted(1, 3.25),
    link.UtteranceEnded(1, "cut", 350, 2000),
    link.Held(True),
    link.OrderRefused("transfer", "not allowed"),
    link.Over("caller_hangup"),
]
FROM_AGENT: list[link.FromAgent | link.FromHost] = [
    link.Ready(),
    link.Ready("l16/16000"),
    link.Refuse("full"),
    link.Speak(1, "Hello"),
    link.Spoken(1),
    link.Clear(),
    link.HangUp("done"),
    link.Transfer("+15550101", after_speech=False),
    link.SendDtmf("12#"),
    link.Transcript("caller", "yes", 0, 1.5),
    link.Turn(1, 1.0, 1.3, 1.4, 1.45, 1.5, 1.6),
    link.Note("booked", {"day": "tuesday"}),
    link.Context(
        2,
        [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "1", "content": "20°"},
        ],
    ),
    link.Context(7),
    link.Bed("0123abcd", bytes(range(256)), 0.5),
    link.Bed(),
    link.Attributes({"account": "4711", "X-Note": "ü"}),
    link.Service("llm", "openai", ttfb_ms=243.5),
    link.Service("tts", "piper", fault="timeout", detail="no audio within 5 s"),
    link.Failed("ValueError: no", "Traceback …"),
    link.HostReady(7),
    link.Beat(1.0, 0.5, 1 << 20, 3),
]


@pytest.mark.parametrize("message", TO_AGENT, ids=lambda m: type(m).__name__)
def test_messages_to_the_agent_survive_the_wire(message: link.ToAgent) -> None:
    assert link.decode_to_agent(link.encode(message)) == message


@pytest.mark.parametrize("message", FROM_AGENT, ids=lambda m: type(m).__name__)
def test_messages_from_the_agent_survive_the_wire(message: link.FromAgent) -> None:
    assert link.decode_from_agent(link.encode(message)) == message


def test_every_message_has_a_case_above() -> None:
    covered = {type(message) for message in (*TO_AGENT, *FROM_AGENT)}
    assert {*link.ToAgent.__args__, *link.FromAgent.__args__, *link.FromHost.__args__} == covered


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"[]", "object"),
        (b"{}", "type"),
        (b'{"type":"dance"}', "dance"),
        (b'{"type":"speak"}', "utterance"),
        (b'{"type":"speak","utterance":"one"}', r"\$\.utterance"),
        (b'{"type":"transcript","role":"ghost","text":""}', r"\$\.role"),
        (b'{"type":"context","messages":[]}', "start"),
        (b'{"type":"context","start":0,"messages":["hello"]}', r"\$\.messages\[0\]"),
        (b'{"type":"bed","sound":"x","audio":"%%%"}', r"\$\.audio"),
        (b'{"type":"service","role":"vad","service":"x"}', r"\$\.role"),
        (b"\xff\xfe", "bad message"),
        (b"not json", "bad message"),
    ],
)
def test_junk_is_refused_and_the_field_is_named(data: bytes, names: str) -> None:
    with pytest.raises(link.LinkError, match=names):
        link.decode_from_agent(data)


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([link.EVENT, link.AUDIO]), st.binary(max_size=400))
    ),
    cuts=st.lists(st.integers(1, 50)),
)
def test_frames_survive_any_chunking(frames: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    data = b"".join(link.frame(*frame) for frame in frames)
    reader, found, at = link.FrameReader(), [], 0
    for cut in [*cuts, len(data) or 1]:
        found += reader.feed(data[at : at + cut])
        at += cut
    found += reader.feed(data[at:])
    assert found == frames


def test_a_frame_over_the_limit_is_refused_before_it_is_stored() -> None:
    head = link.frame(1, link.AUDIO, b"")[4:]
    with pytest.raises(link.LinkError, match="limit"):
        list(link.FrameReader().feed((link.MAX_BODY + 1).to_bytes(4, "big") + head))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(link.LinkError, match="kind 9"):
        list(link.FrameReader().feed(link.frame(1, 9, b"")))


def test_a_bed_is_base64_in_an_event() -> None:
    message = link.decode_from_agent(b'{"type":"bed","sound":"a1","audio":"//8AAA=="}')
    assert message == link.Bed("a1", b"\xff\xff\x00\x00", 1.0)


def test_defaults_stay_off_the_wire() -> None:
    assert msgspec.json.decode(link.encode(link.HangUp())) == {"type": "hangup"}
