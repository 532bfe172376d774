"""Whatever arrives as a description: a plan, BadSdp or NotAcceptable, within five milliseconds, and nothing else.

A plan that comes out of it can be used, and what we answer can be read.
"""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offhook.providers.rtp.media import G722, L16_8K, L16_16K, OPUS, PCMA, PCMU, Address, MediaPlan
from offhook.providers.sip.negotiation import MAX_PTIME, MIN_PTIME, BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.sdp import MAX_SIZE, is_address, parse

HERE = Address("198.51.100.1", 20000)
CODECS = (OPUS, G722, L16_16K, L16_8K, PCMU, PCMA)
BUDGET = 0.005
"""Seconds a message may take."""

PLAIN = b"""v=0\r
o=- 1 1 IN IP4 192.0.2.4\r
s=-\r
c=IN IP4 192.0.2.4\r
t=0 0\r
m=audio 49170 RTP/AVP 0 8 101\r
a=rtpmap:101 telephone-event/8000\r
a=fmtp:101 0-15\r
a=ptime:20\r
a=sendrecv\r
"""
RICH = b"""v=0
o=x 1 1 IN IP6 ::1
c=IN IP4 0.0.0.0
a=inactive
m=video 0 RTP/AVP 31
m=audio 2/2 RTP/SAVP 96 13
a=rtpmap:96 opus/48000/2
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk|2^31
a=rtcp:5007 IN IP4 192.0.2.9
a=rtcp-mux
a=maxptime:60
"""
PIECES = st.sampled_from(
    [
        *(b"m=audio 1 RTP/AVP 0\r\n", b"a=crypto:1 AEAD_AES_128_GCM inline:", b"c=IN IP6 ::1\r\n"),
        *(b"a=rtpmap:96 L16/16000\r\n", b"\r\n", b" ", b"/", b":", b"=", b"0", b"9" * 20, b"-1"),
        *(b"\xff", b"\0", "٣".encode(), b"|", b";"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real description with pieces put in, taken out or doubled."""
    data = bytearray(draw(st.sampled_from([PLAIN, RICH])))
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        data[start:end] = draw(st.one_of(PIECES, st.binary(max_size=4), st.just(bytes(data[start:end]) * 2)))
    return bytes(data)


def sound(plan: MediaPlan) -> bool:
    """What RTP relies on."""
    return (
        0 <= plan.send_type < 128
        and bool(plan.receive_types)
        and all(0 <= number < 128 for number in (*plan.receive_types, *plan.dtmf_receive_types))
        and MIN_PTIME <= plan.ptime <= MAX_PTIME
        and plan.ptime % 10 == 0
        and all(it is None or (is_address(it.host) and 0 < it.port < 65536) for it in (plan.remote, plan.remote_rtcp))
        and (plan.srtp_send is None) == (plan.srtp_receive is None)
    )


@given(mutated(), st.sampled_from(["disabled", "allowed", "required"]))
@example(b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 192.0.2.4%\nm=audio 1 RTP/AVP 0", "disabled")
@example(b"v=0\no=- 1 1 IN IP4 h\nc=IN IP6 fe80::1%eth0\nm=audio 1 RTP/AVP 0", "disabled")
@example(b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 192.0.2.4\nm=audio 1 RTP/AVP 0\na=crypto:\xb2 x y", "allowed")
def test_offers_have_few_outcomes(data: bytes, srtp: str) -> None:
    negotiator = MediaNegotiator(codecs=CODECS, srtp=srtp, session_id=1, comfort_noise=True)  # type: ignore[arg-type]
    refused: NotAcceptable | None = None
    try:
        body, plan = negotiator.answer(data, HERE)
    except BadSdp:
        return
    except NotAcceptable as error:
        refused = error
        assert negotiator.plan is None
    if refused is not None:
        assert refused.warning.isprintable()
        assert refused.warning.count('"') == 2
        return
    assert sound(plan)
    assert len(parse(body).media) == len(parse(data).media)
    assert parse(body).encode() == body
    again = MediaNegotiator(codecs=CODECS, srtp=srtp, session_id=1, comfort_noise=True)  # type: ignore[arg-type]
    assert again.answer(data, HERE)[1].codec == plan.codec


@given(mutated(), st.sampled_from(["disabled", "allowed", "required"]))
def test_answers_have_few_outcomes(data: bytes, srtp: str) -> None:
    negotiator = MediaNegotiator(codecs=CODECS, srtp=srtp, session_id=1)  # type: ignore[arg-type]
    negotiator.offer(HERE)
    try:
        plan = negotiator.take_answer(data)
    except (BadSdp, NotAcceptable):
        assert negotiator.plan is None
        return
    assert sound(plan)


@given(mutated())
def test_what_was_read_is_written_and_read_the_same(data: bytes) -> None:
    try:
        session = parse(data)
    except BadSdp:
        return
    written = session.encode()
    if len(written) <= MAX_SIZE:
        assert parse(written).encode() == written


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    with pytest.raises(BadSdp):
        parse(data)


HEAD = b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 192.0.2.4\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"m=audio 1 RTP/AVP 0\n" + b"a=x:y\n" * 490,
        HEAD + b"m=audio 1 RTP/AVP 96 0\n" + b"a=rtpmap:96 opus/48000/2\n" * 490,
        HEAD + b"m=audio 1 RTP/AVP 0\n" + b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA\n" * 490,
        HEAD + b"m=audio 1 RTP/AVP 0\na=fmtp:0 " + b";" * 30_000,
        HEAD + b"m=audio 1 RTP/AVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"A" * 30_000,
        HEAD + b"m=audio 1 RTP/AVP 0\na=crypto:1 " + b"|" * 30_000,
        HEAD + b"m=audio 1 RTP/AVP 0\na=ptime:" + b"9" * 30_000,
        HEAD + (b"m=audio 1 RTP/AVP" + b" 96" * 128 + b"\n") * 31 + b"a=rtpmap:96 opus/48000/2\n",
        HEAD + b"m=audio " + b"9" * 30_000 + b" RTP/AVP 0\n",
        HEAD + b"m=" + b"audio " * 5_000,
        b"v=0\n" + b" " * 32_000,
        b"\r" * 32_000,
        b"v=0\no=" + b"a " * 15_000,
    ],
)
def test_monsters_are_dealt_with_in_time(data: bytes) -> None:
    assert len(data) <= MAX_SIZE
    best = BUDGET * 100
    for _ in range(5):  # the best of five is what the code takes; the rest is the machine
        negotiator = MediaNegotiator(codecs=CODECS, srtp="allowed", session_id=1)
        began = time.perf_counter()
        with suppress(BadSdp, NotAcceptable):
            negotiator.answer(data, HERE)
        best = min(best, time.perf_counter() - began)
    assert best < BUDGET
