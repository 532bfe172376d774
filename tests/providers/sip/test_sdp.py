"""Session descriptions: what telephones write, what is tolerated, and what is not."""

from __future__ import annotations

import pytest

from offhook.providers.sip.sdp import (
    MAX_FORMATS,
    MAX_LINES,
    MAX_MEDIA,
    MAX_SIZE,
    Attribute,
    BadSdp,
    Media,
    Origin,
    RtpMap,
    Session,
    is_address,
    parse,
)

DESK_PHONE = b"""v=0\r
o=alice 2890844526 2890844527 IN IP4 host.example.net\r
s=A call\r
i=about nothing\r
c=IN IP4 192.0.2.4\r
b=AS:84\r
t=0 0\r
a=recvonly\r
m=audio 49170/2 RTP/AVP 0 8 97 101\r
i=the voice\r
c=IN IP4 192.0.2.5/127\r
c=IN IP4 192.0.2.6/127\r
a=rtpmap:0 PCMU/8000\r
a=rtpmap:97 opus/48000/2\r
a=rtpmap:101 telephone-event/8000\r
a=fmtp:101 0-15\r
a=fmtp:97 useinbandfec=1; stereo=0\r
a=ptime:30\r
a=sendrecv\r
m=video 0 RTP/AVP 31\r
"""


def described(*lines: str, head: tuple[str, ...] = ("v=0", "o=- 1 1 IN IP4 192.0.2.4", "c=IN IP4 192.0.2.4")) -> bytes:
    return "\n".join([*head, *lines]).encode()


def test_a_whole_description() -> None:
    session = parse(DESK_PHONE)
    assert session.origin == Origin("alice", "2890844526", "2890844527", "host.example.net")
    assert session.name == "A call"
    assert session.host == "192.0.2.4"
    audio, video = session.media
    assert (audio.kind, audio.port, audio.ports, audio.proto) == ("audio", 49170, 2, "RTP/AVP")
    assert audio.payload_types() == [0, 8, 97, 101]
    assert session.host_of(audio) == "192.0.2.5"
    assert session.host_of(video) == "192.0.2.4"
    assert audio.rtpmaps() == {
        0: RtpMap("PCMU", 8000),
        97: RtpMap("opus", 48000, 2),
        101: RtpMap("telephone-event", 8000),
    }
    assert audio.fmtps() == {101: "0-15", 97: "useinbandfec=1; stereo=0"}
    assert audio.attribute("ptime") == "30"
    assert audio.attribute("sendrecv") == ""
    assert audio.attribute("rtcp") is None
    assert session.direction_of(audio) == "sendrecv"
    assert session.direction_of(video) == "recvonly"
    assert session.attribute("recvonly") == ""
    assert session.attribute("ice-lite") is None


def test_what_is_written_is_read_again() -> None:
    session = parse(DESK_PHONE)
    again = parse(session.encode())
    assert again == session
    assert again.encode() == session.encode()


def test_the_text_of_a_description() -> None:
    audio = Media("audio", 20000, "RTP/AVP", ["0"], attributes=[Attribute("ptime", "20"), Attribute("sendrecv")])
    other = Media("audio", 20002, "RTP/AVP", ["8"], host="2001:db8::2", ports=2)
    session = Session(Origin("-", "17", "2", "2001:db8::1"), "2001:db8::1", [audio, other], name="offhook")
    assert session.encode().decode().split("\r\n") == [
        "v=0",
        "o=- 17 2 IN IP6 2001:db8::1",
        "s=offhook",
        "c=IN IP6 2001:db8::1",
        "t=0 0",
        "m=audio 20000 RTP/AVP 0",
        "a=ptime:20",
        "a=sendrecv",
        "m=audio 20002/2 RTP/AVP 8",
        "c=IN IP6 2001:db8::2",
        "",
    ]


def test_streams_may_have_all_the_addresses() -> None:
    text = b"v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nt=0 0\r\nm=audio 1 RTP/AVP 0\r\nc=IN IP4 192.0.2.4\r\n"
    assert parse(text).encode() == text


def test_direction_of_the_session_holds_for_streams_without_one() -> None:
    session = parse(described("a=inactive", "m=audio 1 RTP/AVP 0", "m=audio 2 RTP/AVP 0", "a=sendonly"))
    assert [session.direction_of(media) for media in session.media] == ["inactive", "sendonly"]


@pytest.mark.parametrize(
    "text",
    [
        b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 192.0.2.4\nm=audio 5004 RTP/AVP 0\n",  # bare line feeds, neither s= nor t=
        b"\r\nv=0  \r\n\r\no=- 1 1 IN IP4 h \r\ns=\r\nc=IN IP4 192.0.2.4 \r\n\r\nm=audio 5004 RTP/AVP 0 \r\n\r\n",
        b"v=0\ro=- 1 1 IN IP4 h\rc=IN IP4 192.0.2.4\rm=audio 5004 RTP/AVP 0",  # bare carriage returns
        b"v=0\no=a b c 1 1 IN IP4 h\nc=in ip4 192.0.2.4\nm=AUDIO 5004 RTP/AVP 0",  # a user with spaces, lower case
        b"v=0\no=- x y IN IP4 h\nc=IN IP4 192.0.2.4\nz=0 0\nq=?\nm=audio  5004  RTP/AVP  0\nx=1",  # unknown lines
        b"v=0\no=- 1 1 IN IP4 h\nm=audio 5004 RTP/AVP 0\nc=IN IP4 192.0.2.4",
        b"v=0\no=- 1 1 IN IP4 h\no=- 2 2 IN IP4 h\nc=IN IP4 192.0.2.4\nc=IN IP4 198.51.100.1\nm=audio 5004 RTP/AVP 0",
        "v=0\no=müller 1 1 IN IP4 h\nc=IN IP4 192.0.2.4\nm=audio 5004 RTP/AVP 0".encode("latin-1"),
    ],
)
def test_sloppy_writers_are_understood(text: bytes) -> None:
    session = parse(text)
    (media,) = session.media
    assert (media.kind, media.port, media.proto, media.formats) == ("audio", 5004, "RTP/AVP", ["0"])
    assert session.host_of(media) == "192.0.2.4"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "is empty"),
        (b"\r\n \r\n", "is empty"),
        (b"INVITE sip:a SIP/2.0", "not of the form"),
        (b"v=1\no=- 1 1 IN IP4 h", "begins with 'v=1', not with v=0"),
        (b"o=- 1 1 IN IP4 h\nv=0", "not with v=0"),
        (b"v=0\nm=audio 0 RTP/AVP 0", "has no o= line"),
        (b"v=0\no=- 1 1 IN IP4 h", "has no m= line"),
        (b"v=0\no=- 1 1 IN IP4\nm=audio 0 RTP/AVP 0", "o='- 1 1 IN IP4' needs six words"),
        (b"v=0\no=- 1 1 IN IP4 h\nm=audio 5004 RTP/AVP 0", "has no c= line for a stream"),
        (described("m=audio"), "needs a kind, a port"),
        (described("m=audio 5004 RTP/AVP"), "needs a kind, a port"),
        (described("m=audio 70000 RTP/AVP 0"), "port '70000'"),
        (described("m=audio -1 RTP/AVP 0"), "port '-1'"),
        (described("m=audio 5004/0 RTP/AVP 0"), "port '5004/0'"),
        (described("m=audio 5004/x RTP/AVP 0"), "port '5004/x'"),
        (described("m=audio ٥ RTP/AVP 0"), "port"),
        (b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4", "not of the form IN IP4 address"),
        (b"v=0\no=- 1 1 IN IP4 h\nc=ATM NSAP 47", "not of the form IN IP4 address"),
        (b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 /1\nm=audio 1 RTP/AVP 0", "holds no address"),
        (b"v=0\no=- 1 1 IN IP4 h\nc=IN IP4 a@b\nm=audio 1 RTP/AVP 0", "holds no address"),
        (described("m=audio 5004 RTP/AVP 0", "a=x\0y"), "NUL"),
        (described("m=audio 5004 RTP/AVP 0", "nonsense"), "'nonsense' is not of the form"),
        (b"v=0\n" * 20_000, "the limit is"),
        (b"\n" * (MAX_LINES + 1), "lines"),
        (described(*["m=audio 1 RTP/AVP 0"] * (MAX_MEDIA + 1)), "m= lines"),
        (described("m=audio 1 RTP/AVP" + " 0" * (MAX_FORMATS + 1)), "formats"),
    ],
)
def test_what_is_no_description(text: bytes, fault: str) -> None:
    with pytest.raises(BadSdp, match=fault):
        parse(text)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(parse(described(*["m=audio 1 RTP/AVP 0"] * MAX_MEDIA)).media) == MAX_MEDIA
    padding = described("m=audio 1 RTP/AVP 0", "a=x:")
    assert parse(padding + b"y" * (MAX_SIZE - len(padding)))


def test_mappings_that_cannot_be_read_are_left_out() -> None:
    media = parse(
        described(
            "m=audio 1 RTP/AVP 0 0 x 200 96 97",
            "a=rtpmap:96 L16/16000",
            "a=rtpmap:96 opus/48000/2",
            "a=rtpmap:97 opus",
            "a=rtpmap:98 /8000",
            "a=rtpmap:999 PCMU/8000",
            "a=rtpmap:99 PCMU/0",
            "a=rtpmap",
            "a=fmtp:x 1",
            "a=fmtp:96",
        )
    ).media[0]
    assert media.payload_types() == [0, 96, 97]
    assert media.rtpmaps() == {96: RtpMap("L16", 16000)}
    assert media.fmtps() == {96: ""}
    assert media.every("rtpmap")[0] == "96 L16/16000"


def test_addresses_and_names() -> None:
    assert is_address("192.0.2.1")
    assert is_address("2001:db8::1")
    assert not is_address("media.example.net")
    session = parse(b"v=0\no=- 1 1 IN IP6 ::1\nc=IN IP6 [2001:db8::1]\nm=audio 1 RTP/AVP 0")
    assert session.host == "2001:db8::1"
    assert parse(described("m=audio 1 RTP/AVP 0", head=("v=0", "o=- 1 1 IN IP4 h", "c=IN IP4 m.example.net"))).host
