"""Offer and answer: who sends what, where to, and by which numbers."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.providers.rtp.media import G722, L16_8K, L16_16K, OPUS, PCMA, PCMU, Address, Codec, MediaPlan
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.sdp import Media, parse

HERE = Address("198.51.100.1", 20000)
ALL = (OPUS, G722, L16_16K, L16_8K, PCMU, PCMA)
KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk"


def ours(*codecs: Codec, **settings: Any) -> MediaNegotiator:
    keys = iter(range(1, 200))
    defaults: dict[str, Any] = {"session_id": 17, "random_bytes": lambda size: bytes([next(keys)]) * size}
    return MediaNegotiator(codecs=codecs or (PCMU, PCMA), **(defaults | settings))


def theirs(*media: str, c: str = "IN IP4 192.0.2.4", version: int = 1) -> bytes:
    """Their description; `media` is the m= lines and what belongs to them."""
    head = ["v=0", f"o=- 99 {version} IN IP4 192.0.2.4", "s=-", f"c={c}", "t=0 0"]
    return "\r\n".join([*head, *media, ""]).encode()


def audio(body: bytes, index: int = 0) -> Media:
    return parse(body).media[index]


def answered(offer: bytes, *codecs: Codec, **settings: Any) -> tuple[Media, MediaPlan]:
    body, plan = ours(*codecs, **settings).answer(offer, HERE)
    return audio(body), plan


# --- answering ---------------------------------------------------------------------


def test_the_plainest_offer() -> None:
    body, plan = ours().answer(theirs("m=audio 49170 RTP/AVP 0"), HERE)
    assert plan == MediaPlan(
        codec=PCMU,
        send_type=0,
        receive_types={0: PCMU},
        remote=Address("192.0.2.4", 49170),
        remote_rtcp=Address("192.0.2.4", 49171),
    )
    assert body.decode().split("\r\n") == [
        "v=0",
        "o=- 17 0 IN IP4 198.51.100.1",
        "s=offhook",
        "c=IN IP4 198.51.100.1",
        "t=0 0",
        "m=audio 20000 RTP/AVP 0",
        "a=ptime:20",
        "a=maxptime:60",
        "a=rtpmap:0 PCMU/8000",
        "a=sendrecv",
        "",
    ]


@pytest.mark.parametrize(
    ("lines", "codec", "number"),
    [
        (["m=audio 1000 RTP/AVP 8 0"], PCMA, 8),
        (["m=audio 1000 RTP/AVP 18 9 0"], G722, 9),
        (["m=audio 1000 RTP/AVP 111 0", "a=rtpmap:111 OPUS/48000/2"], OPUS, 111),
        (["m=audio 1000 RTP/AVP 111", "a=rtpmap:111 opus/48000"], OPUS, 111),
        (["m=audio 1000 RTP/AVP 100", "a=rtpmap:100 l16/16000/1"], L16_16K, 100),
        (["m=audio 1000 RTP/AVP 100", "a=rtpmap:100 L16/8000"], L16_8K, 100),
        (["m=audio 1000 RTP/AVP 99", "a=rtpmap:99 pcmu/8000"], PCMU, 99),
        (["m=audio 1000 RTP/AVP 96 8", "a=rtpmap:96 L16/16000/2"], PCMA, 8),
        (["m=audio 1000 RTP/AVP 96 8", "a=rtpmap:96 PCMU/16000"], PCMA, 8),
    ],
)
def test_every_codec_is_found_by_name_clock_and_channels(lines: list[str], codec: Codec, number: int) -> None:
    media, plan = answered(theirs(*lines), *ALL)
    assert (plan.codec.name, plan.codec.clock, plan.codec.channels) == (codec.name, codec.clock, codec.channels)
    assert plan.send_type == number
    assert set(plan.receive_types) == {number}
    assert media.formats == [str(number)]


def test_whose_order_decides() -> None:
    offer = theirs("m=audio 1000 RTP/AVP 8 9 0")
    assert answered(offer, PCMU, G722, PCMA)[1].codec == PCMA
    assert answered(offer, PCMU, G722, PCMA, prefer="ours")[1].codec == PCMU


def test_the_parameters_of_opus_that_we_ask_for() -> None:
    media, plan = answered(
        theirs("m=audio 1000 RTP/AVP 111", "a=rtpmap:111 opus/48000/2", "a=fmtp:111 stereo=1;sprop-stereo=1"), OPUS
    )
    assert plan.codec == OPUS
    assert plan.receive_types == {111: OPUS}
    assert media.fmtps() == {111: "useinbandfec=1"}


def test_keys_have_the_clock_of_the_codec() -> None:
    offer = theirs(
        "m=audio 1000 RTP/AVP 111 0 101 110",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:101 Telephone-Event/8000",
        "a=rtpmap:110 telephone-event/48000",
        "a=fmtp:101 0-16",
    )
    media, plan = answered(offer, OPUS, PCMU)
    assert (plan.dtmf_send_type, plan.dtmf_receive_types) == (110, frozenset({110}))
    assert media.formats == ["111", "110"]
    media, plan = answered(offer, PCMU)
    assert (plan.dtmf_send_type, plan.dtmf_receive_types) == (101, frozenset({101}))
    assert media.rtpmaps()[101].clock == 8000
    assert media.fmtps()[101] == "0-15"
    media, plan = answered(offer, PCMU, dtmf=False)
    assert (plan.dtmf_send_type, plan.dtmf_receive_types) == (None, frozenset())
    assert media.formats == ["0"]


def test_keys_of_another_clock_are_read_and_not_sent() -> None:
    offer = theirs("m=audio 1000 RTP/AVP 111 101", "a=rtpmap:111 opus/48000/2", "a=rtpmap:101 telephone-event/8000")
    media, plan = answered(offer, OPUS)
    assert (plan.dtmf_send_type, plan.dtmf_receive_types) == (None, frozenset({101}))
    assert media.rtpmaps()[101].clock == 8000


def test_comfort_noise_needs_both() -> None:
    offer = theirs("m=audio 1000 RTP/AVP 0 13")
    assert answered(offer)[1].comfort_noise is False
    media, plan = answered(offer, comfort_noise=True)
    assert plan.comfort_noise is True
    assert media.formats == ["0", "13"]
    assert answered(theirs("m=audio 1000 RTP/AVP 0"), comfort_noise=True)[1].comfort_noise is False
    wide = theirs("m=audio 1000 RTP/AVP 111 13", "a=rtpmap:111 opus/48000/2")
    assert answered(wide, OPUS, comfort_noise=True)[1].comfort_noise is False


@pytest.mark.parametrize(
    ("lines", "codec", "ptime"),
    [
        ([], PCMU, 20),
        (["a=ptime:30"], PCMU, 30),
        (["a=ptime:20.0"], PCMU, 20),
        (["a=ptime:25"], PCMU, 20),
        (["a=ptime:5"], PCMU, 10),
        (["a=ptime:200"], PCMU, 60),
        (["a=ptime:40", "a=maxptime:30"], PCMU, 30),
        (["a=maxptime:10"], PCMU, 10),
        (["a=ptime:0"], PCMU, 20),
        (["a=ptime:soon", "a=maxptime:-1"], PCMU, 20),
        (["a=ptime:60"], L16_16K, 40),
        (["a=ptime:60"], L16_8K, 60),
        (["a=ptime:30"], OPUS, 20),
        (["a=ptime:50"], OPUS, 40),
        (["a=ptime:60"], OPUS, 60),
    ],
)
def test_packets_are_as_long_as_they_wish_and_may_be(lines: list[str], codec: Codec, ptime: int) -> None:
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    offer = theirs("m=audio 1000 RTP/AVP 96", f"a=rtpmap:96 {codec.name}/{codec.clock}{channels}", *lines)
    media, plan = answered(offer, *ALL)
    assert plan.ptime == ptime
    assert media.attribute("ptime") == "20"  # ours is our own wish


def test_ptime_of_the_session_counts_where_the_stream_has_none() -> None:
    offer = theirs("a=ptime:40", "m=audio 1000 RTP/AVP 0")
    assert answered(offer)[1].ptime == 40
    assert answered(theirs("m=audio 1000 RTP/AVP 0"), ptime=30)[1].ptime == 30


@pytest.mark.parametrize(
    ("lines", "rtcp", "mux"),
    [
        ([], ("192.0.2.4", 1001), False),
        (["a=rtcp:5007"], ("192.0.2.4", 5007), False),
        (["a=rtcp:5007 IN IP4 192.0.2.9"], ("192.0.2.9", 5007), False),
        (["a=rtcp:5007 IN IP4 0.0.0.0"], ("192.0.2.4", 5007), False),
        (["a=rtcp:none"], ("192.0.2.4", 1001), False),
        (["a=rtcp:99999"], ("192.0.2.4", 1001), False),
        (["a=rtcp-mux", "a=rtcp:5007"], ("192.0.2.4", 1000), True),
    ],
)
def test_where_rtcp_goes(lines: list[str], rtcp: tuple[str, int], mux: bool) -> None:
    media, plan = answered(theirs("m=audio 1000 RTP/AVP 0", *lines))
    assert plan.remote_rtcp == Address(*rtcp)
    assert plan.rtcp_mux is mux
    assert (media.attribute("rtcp-mux") is not None) is mux


def test_the_last_port_has_no_rtcp_above_it() -> None:
    assert answered(theirs("m=audio 65535 RTP/AVP 0"))[1].remote_rtcp is None


def test_ipv6() -> None:
    offer = theirs("m=audio 1000 RTP/AVP 0", c="IN IP6 2001:db8::4")
    body, plan = ours().answer(offer, Address("2001:db8::1", 20000))
    assert plan.remote == Address("2001:db8::4", 1000)
    assert b"c=IN IP6 2001:db8::1\r\n" in body
    assert b"o=- 17 0 IN IP6 2001:db8::1\r\n" in body
    with pytest.raises(NotAcceptable, match="IPv4 here and by IPv6 there") as caught:
        ours().answer(offer, HERE)
    assert caught.value.code == 300


def test_a_name_is_waited_for() -> None:
    assert answered(theirs("m=audio 1000 RTP/AVP 0", c="IN IP4 media.example.net"))[1].remote is None


def test_nothing_is_sent_to_a_multicast_group() -> None:
    with pytest.raises(NotAcceptable, match="multicast"):
        answered(theirs("m=audio 1000 RTP/AVP 0", c="IN IP4 224.2.1.1/127"))


# what two peers really send, off the wire
BARESIP = b"""v=0\r
o=- 516933791 1003297789 IN IP4 127.0.0.2\r
s=-\r
c=IN IP4 127.0.0.2\r
t=0 0\r
a=tool:baresip 1.0.0\r
m=audio 14132 RTP/AVP 0 8 9 96 97 10 98 99 100 101 11 102 103 104 105\r
a=rtpmap:0 PCMU/8000\r
a=rtpmap:8 PCMA/8000\r
a=rtpmap:9 G722/8000\r
a=rtpmap:96 opus/48000/2\r
a=fmtp:96 stereo=1;sprop-stereo=1\r
a=rtpmap:97 L16/48000/2\r
a=rtpmap:10 L16/44100/2\r
a=rtpmap:98 L16/32000/2\r
a=rtpmap:99 L16/16000/2\r
a=rtpmap:100 L16/8000/2\r
a=rtpmap:101 L16/48000\r
a=rtpmap:11 L16/44100\r
a=rtpmap:102 L16/32000\r
a=rtpmap:103 L16/16000\r
a=rtpmap:104 L16/8000\r
a=rtpmap:105 telephone-event/8000\r
a=fmtp:105 0-15\r
a=sendrecv\r
a=label:1\r
a=rtcp-rsize\r
a=ssrc:1686361775 cname:sip:me@127.0.0.2\r
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:H5qM9WuyUE2C1EiZleobl86akJiw5Hkr/95MnYAE\r
a=minptime:4\r
a=ptime:20\r
"""
SIPP = b"""v=0\r
o=user1 53655765 2353687637 IN IP4 127.0.0.3\r
s=-\r
c=IN IP4 127.0.0.3\r
t=0 0\r
m=audio 6000 RTP/AVP 0\r
a=rtpmap:0 PCMU/8000\r
"""


@pytest.mark.parametrize(
    ("codec", "number", "keys"),
    [(PCMU, 0, 105), (G722, 9, 105), (OPUS, 96, None), (L16_16K, 103, None), (L16_8K, 104, 105)],
)
def test_baresip(codec: Codec, number: int, keys: int | None) -> None:
    media, plan = answered(BARESIP, codec, srtp="allowed")
    assert (plan.codec, plan.send_type, plan.dtmf_send_type) == (codec, number, keys)
    assert plan.dtmf_receive_types == {105}
    assert plan.srtp_send is not None
    assert media.proto == "RTP/AVP"
    assert answered(BARESIP, codec)[1].srtp_send is None


def test_sipp() -> None:
    _, plan = answered(SIPP, *ALL)
    assert (plan.codec, plan.remote, plan.dtmf_receive_types) == (PCMU, Address("127.0.0.3", 6000), frozenset())


# --- several streams ---------------------------------------------------------------


def test_other_streams_are_refused_at_their_place() -> None:
    offer = theirs(
        "m=video 2000 RTP/AVP 31",
        "m=audio 1000 RTP/AVP 4",
        "m=audio 1002 RTP/AVP 0",
        "m=image 1004 udptl t38",
        "m=audio 1006 RTP/AVP 8",
    )
    body, plan = ours().answer(offer, HERE)
    assert plan.remote == Address("192.0.2.4", 1002)
    assert [(it.kind, it.port, it.proto, it.formats) for it in parse(body).media] == [
        ("video", 0, "RTP/AVP", ["31"]),
        ("audio", 0, "RTP/AVP", ["4"]),
        ("audio", 20000, "RTP/AVP", ["0"]),
        ("image", 0, "udptl", ["t38"]),
        ("audio", 0, "RTP/AVP", ["8"]),
    ]


def test_our_offers_keep_the_order_of_streams() -> None:
    negotiator = ours()
    negotiator.answer(theirs("m=video 2000 RTP/AVP 31", "m=audio 1000 RTP/AVP 0"), HERE)
    for offer in (negotiator.refresh(), negotiator.offer(HERE)):
        assert [(it.kind, it.port) for it in parse(offer).media] == [("video", 0), ("audio", 20000)]
    plan = negotiator.take_answer(theirs("m=video 0 RTP/AVP 31", "m=audio 1010 RTP/AVP 8"))
    assert (plan.codec, plan.remote) == (PCMA, Address("192.0.2.4", 1010))


def test_the_stream_in_use_stays_in_use() -> None:
    negotiator = ours()
    negotiator.answer(theirs("m=audio 0 RTP/AVP 0", "m=audio 1002 RTP/AVP 0"), HERE)
    _, plan = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", "m=audio 1002 RTP/AVP 0"), HERE)
    assert plan.remote == Address("192.0.2.4", 1002)
    _, plan = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", "m=audio 0 RTP/AVP 0"), HERE)
    assert plan.remote == Address("192.0.2.4", 1000)


@pytest.mark.parametrize(
    ("lines", "code", "fault"),
    [
        (["m=video 1000 RTP/AVP 31"], 304, "no audio stream"),
        (["m=audio 0 RTP/AVP 0"], 304, "no audio stream"),
        (["m=audio 1000 RTP/AVP 4 18"], 305, "no codec"),
        (["m=audio 1000 UDP/TLS/RTP/SAVPF 0"], 302, "UDP/TLS/RTP/SAVPF is not spoken"),
        (['m=audio 1000 "x"\\ 0'], 302, "protocol x is not spoken"),
        (["m=audio 1000 RTP/SAVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"], 302, "not enabled"),
    ],
)
def test_offers_of_which_no_call_can_be_made(lines: list[str], code: int, fault: str) -> None:
    with pytest.raises(NotAcceptable, match=fault) as caught:
        ours().answer(theirs(*lines), HERE)
    assert (caught.value.status, caught.value.code) == (488, code)
    assert caught.value.warning == f'{code} offhook "{caught.value.text}"'


def test_what_is_no_description_is_told_apart() -> None:
    with pytest.raises(BadSdp):
        ours().answer(b"hello", HERE)


# --- hold --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "address", "direction", "sends"),
    [
        ("a=sendrecv", "192.0.2.4", "sendrecv", True),
        ("a=x-own", "192.0.2.4", "sendrecv", True),
        ("a=sendonly", "192.0.2.4", "recvonly", True),
        ("a=recvonly", "192.0.2.4", "sendonly", True),
        ("a=inactive", "192.0.2.4", "inactive", True),
        ("a=sendrecv", "0.0.0.0", "recvonly", False),
        ("a=x-own", "0.0.0.0", "recvonly", False),
        ("a=recvonly", "0.0.0.0", "inactive", False),
        ("a=inactive", "0.0.0.0", "inactive", False),
    ],
)
def test_the_ways_to_hold_us(line: str, address: str, direction: str, sends: bool) -> None:
    media, plan = answered(theirs("m=audio 1000 RTP/AVP 0", line, c=f"IN IP4 {address}"))
    assert plan.direction == direction
    assert media.attribute(direction) is not None
    assert (plan.remote is not None) is sends
    assert (plan.remote_rtcp is not None) is sends


def test_hold_by_the_session_and_back() -> None:
    negotiator = ours()
    _, plan = negotiator.answer(theirs("a=sendonly", "m=audio 1000 RTP/AVP 0"), HERE)
    assert plan.direction == "recvonly"
    _, plan = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", version=2), HERE)
    assert plan.direction == "sendrecv"


def test_we_hold_and_go_on_holding_until_we_say_so() -> None:
    negotiator = ours()
    negotiator.answer(theirs("m=audio 1000 RTP/AVP 0"), HERE)
    offer = negotiator.offer(HERE, hold=True)
    assert audio(offer).attribute("sendonly") is not None
    assert not negotiator.held
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0", "a=recvonly")).direction == "sendonly"
    assert negotiator.held
    # they refresh, they hold as well, they answer our hold carelessly: we hold all the same
    body, plan = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0"), HERE)
    assert plan.direction == "sendonly"
    assert audio(body).attribute("sendonly") is not None
    assert negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", "a=sendonly"), HERE)[1].direction == "inactive"
    negotiator.offer(HERE, hold=True)
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0")).direction == "sendonly"
    negotiator.offer(HERE)
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0")).direction == "sendrecv"
    assert not negotiator.held


# --- offering ----------------------------------------------------------------------


def test_an_offer_says_all_we_can_do() -> None:
    body = ours(*ALL, comfort_noise=True).offer(HERE)
    media = audio(body)
    assert media.formats == ["96", "9", "98", "97", "0", "8", "110", "101", "102", "13"]
    assert {number: (it.name, it.clock, it.channels) for number, it in media.rtpmaps().items()} == {
        96: ("opus", 48000, 2),
        9: ("G722", 8000, 1),
        98: ("L16", 16000, 1),
        97: ("L16", 8000, 1),
        0: ("PCMU", 8000, 1),
        8: ("PCMA", 8000, 1),
        110: ("telephone-event", 48000, 1),
        101: ("telephone-event", 8000, 1),
        102: ("telephone-event", 16000, 1),
    }
    assert media.fmtps() == {96: "useinbandfec=1", 110: "0-15", 101: "0-15", 102: "0-15"}
    assert (media.attribute("ptime"), media.attribute("maxptime")) == ("20", "60")
    assert media.attribute("rtcp-mux") is not None
    assert media.attribute("sendrecv") is not None
    assert media.every("crypto") == []
    assert len(ours(*ALL, srtp="allowed").offer(HERE)) < 1000  # an INVITE has to fit into a datagram


def test_an_offer_without_keys() -> None:
    assert audio(ours(dtmf=False).offer(HERE)).formats == ["0", "8"]


def test_an_answer_is_read_by_their_numbers_and_ours() -> None:
    negotiator = ours(PCMU, PCMA)
    assert audio(negotiator.offer(HERE)).formats == ["0", "8", "101"]
    plan = negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 8 96", "a=rtpmap:96 telephone-event/8000"))
    assert (plan.codec, plan.send_type, plan.receive_types) == (PCMA, 8, {8: PCMA})
    assert plan.dtmf_send_type == 96
    assert plan.dtmf_receive_types == {96, 101}
    assert negotiator.plan is plan


def test_their_number_never_takes_one_of_ours() -> None:
    negotiator = ours(OPUS, PCMU)
    assert audio(negotiator.offer(HERE)).rtpmaps()[96].name == "opus"
    plan = negotiator.take_answer(
        theirs("m=audio 1000 RTP/AVP 101 96", "a=rtpmap:101 opus/48000/2", "a=rtpmap:96 telephone-event/48000")
    )
    assert (plan.send_type, plan.dtmf_send_type) == (101, 96)
    assert plan.receive_types[96].name == "opus"
    assert 96 not in plan.dtmf_receive_types
    assert 110 in plan.dtmf_receive_types


def test_several_codecs_in_an_answer_may_all_arrive() -> None:
    negotiator = ours(PCMU, PCMA, G722)
    negotiator.offer(HERE)
    plan = negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 8 0"))
    assert plan.codec == PCMA
    assert plan.receive_types == {0: PCMU, 8: PCMA}


def test_comfort_noise_of_an_answer() -> None:
    negotiator = ours(PCMU, comfort_noise=True)
    negotiator.offer(HERE)
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0 13")).comfort_noise is True
    negotiator.offer(HERE)
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0")).comfort_noise is False


def test_a_peer_without_keys() -> None:
    negotiator = ours(PCMU)
    negotiator.offer(HERE)
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0")).dtmf_send_type is None


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["m=video 1000 RTP/AVP 31"], "no audio stream"),
        (["m=audio 0 RTP/AVP 0"], "refuses the audio stream"),
        (["m=audio 1000 RTP/AVP 9"], "agrees to no codec"),
        (["m=audio 1000 UDP/TLS/RTP/SAVPF 0"], "transport protocol"),
        (["m=audio 1000 RTP/SAVP 0"], "encrypted"),
    ],
)
def test_answers_of_which_no_call_can_be_made(lines: list[str], fault: str) -> None:
    negotiator = ours()
    negotiator.offer(HERE)
    with pytest.raises(NotAcceptable, match=fault):
        negotiator.take_answer(theirs(*lines))
    assert negotiator.plan is None


def test_an_answer_to_nothing() -> None:
    with pytest.raises(RuntimeError, match="no offer"):
        ours().take_answer(theirs("m=audio 1000 RTP/AVP 0"))
    with pytest.raises(RuntimeError, match="agreed on"):
        ours().refresh()
    negotiator = ours()
    negotiator.offer(HERE)
    negotiator.withdraw()
    with pytest.raises(RuntimeError):
        negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0"))


def test_another_phone_of_the_fork_answers() -> None:
    negotiator = ours()
    negotiator.offer(HERE)
    negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0"))
    plan = negotiator.take_answer(theirs("m=audio 3000 RTP/AVP 8", c="IN IP4 192.0.2.77"))
    assert (plan.codec, plan.remote) == (PCMA, Address("192.0.2.77", 3000))


def test_both_sides_understand_each_other() -> None:
    caller, callee = ours(*ALL, srtp="required"), ours(PCMA, G722, srtp="allowed", session_id=18)
    answer, theirs_ = callee.answer(caller.offer(HERE), Address("192.0.2.4", 30000))
    plan = caller.take_answer(answer)
    assert plan.codec == theirs_.codec == G722
    assert plan.srtp_send == theirs_.srtp_receive
    assert plan.srtp_receive == theirs_.srtp_send
    assert plan.remote == Address("192.0.2.4", 30000)
    assert theirs_.remote == HERE


# --- again -------------------------------------------------------------------------


def version(body: bytes) -> int:
    return int(parse(body).origin.version)


def test_the_version_grows_only_when_something_changed() -> None:
    negotiator = ours()
    offer = theirs("m=audio 1000 RTP/AVP 0")
    first, _ = negotiator.answer(offer, HERE)
    again, _ = negotiator.answer(offer, HERE)
    assert first == again == negotiator.refresh()
    held, _ = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", "a=sendonly", version=2), HERE)
    assert (version(first), version(held)) == (0, 1)
    moved, _ = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", "a=sendonly"), Address("198.51.100.1", 20002))
    assert version(moved) == 2
    assert parse(moved).origin.session_id == "17"


def test_their_ids_may_do_as_they_like() -> None:
    negotiator = ours()
    negotiator.answer(theirs("m=audio 1000 RTP/AVP 0", version=5), HERE)
    _, plan = negotiator.answer(theirs("m=audio 1010 RTP/AVP 0", version=1), HERE)
    assert plan.remote == Address("192.0.2.4", 1010)


def test_what_fails_changes_nothing() -> None:
    negotiator = ours()
    first, plan = negotiator.answer(theirs("m=audio 1000 RTP/AVP 0"), HERE)
    with pytest.raises(NotAcceptable):
        negotiator.answer(theirs("m=audio 1000 RTP/AVP 18"), HERE)
    assert negotiator.plan is plan
    assert negotiator.refresh() == first
    negotiator.offer(HERE, hold=True)
    negotiator.withdraw()
    assert negotiator.plan is plan
    assert not negotiator.held
    refreshed = negotiator.refresh()
    # the offer that was refused was sent all the same, and its version is used up
    assert (version(first), version(refreshed)) == (0, 2)
    assert parse(refreshed).media == parse(first).media


def test_an_offer_in_a_call_is_whole_and_begins_with_the_codec_in_use() -> None:
    negotiator = ours(PCMU, PCMA, G722)
    negotiator.answer(theirs("m=audio 1000 RTP/AVP 8 0"), HERE)
    assert audio(negotiator.offer(HERE)).formats == ["8", "0", "9", "101"]


def test_payload_types_keep_their_meaning() -> None:
    negotiator = ours(OPUS, L16_16K, PCMU)
    negotiator.answer(
        theirs("m=audio 1000 RTP/AVP 101 96", "a=rtpmap:101 opus/48000/2", "a=rtpmap:96 telephone-event/48000"), HERE
    )
    maps = audio(negotiator.offer(HERE)).rtpmaps()
    assert (maps[101].name, maps[96]) == ("opus", ("telephone-event", 48000, 1))
    assert sorted(it.name for it in maps.values()) == ["L16", "PCMU", "opus", *["telephone-event"] * 3]


def test_a_peer_that_renumbers_without_end() -> None:
    negotiator = ours(OPUS, PCMU)
    for number in (*range(96, 128), *range(35, 64)):
        negotiator.answer(theirs(f"m=audio 1000 RTP/AVP {number}", f"a=rtpmap:{number} opus/48000/2"), HERE)
    media = audio(negotiator.offer(HERE))
    assert len(set(media.formats)) == 4
    assert sorted(it.name for it in media.rtpmaps().values()) == ["PCMU", "opus", *["telephone-event"] * 2]


def test_early_offer_and_answer_in_the_ack() -> None:
    negotiator = ours()
    offer = negotiator.offer(HERE)  # the INVITE had none: ours is in the 200
    assert negotiator.plan is None
    assert negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0")).direction == "sendrecv"
    assert version(offer) == 0


def test_no_codecs_make_no_negotiator() -> None:
    with pytest.raises(ValueError, match="codecs is empty"):
        MediaNegotiator(codecs=(), session_id=1)
