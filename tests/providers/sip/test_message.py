"""Messages: read, looked into, written, answered, checked."""

from __future__ import annotations

import pytest

from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.message import (
    MAX_BODY,
    MAX_FIELD,
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    MAX_VALUES,
    REASONS,
    BadMessage,
    Headers,
    Request,
    Response,
    check,
    parse,
    respond,
)

INVITE = (
    b"INVITE sip:+15550001111@trunk.example.net SIP/2.0\r\n"
    b"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2;rport, SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK1\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK0\r\n"
    b"Record-Route: <sip:r2;lr>, <sip:r1;lr>\r\n"
    b"Max-Forwards: 70\r\n"
    b'f: "Anna, B" <sip:+15550002222@carrier.example>;tag=a1\r\n'
    b"To: <sip:+15550001111@trunk.example.net>\r\n"
    b"i: c1@192.0.2.1\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:+15550002222@192.0.2.1:5060>\r\n"
    b"k: timer,\r\n\t100rel\r\n"
    b"Timestamp: 5\r\n"
    b"c: Application/SDP;charset=utf-8\r\n"
    b"l: 5\r\n\r\n"
    b"v=0\r\n"
)


def invite() -> Request:
    message = parse(INVITE)
    assert isinstance(message, Request)
    return message


def changed(old: bytes, new: bytes) -> bytes:
    assert old in INVITE
    return INVITE.replace(old, new, 1)


def test_read() -> None:
    message = invite()
    check(message)
    assert (message.method, message.uri) == ("INVITE", "sip:+15550001111@trunk.example.net")
    assert [via.branch for via in message.vias] == ["z9hG4bK2", "z9hG4bK1", "z9hG4bK0"]
    assert message.top_via.branch == "z9hG4bK2"
    assert (message.from_.display, message.from_.tag, message.to.tag) == ("Anna, B", "a1", "")
    assert (message.call_id, message.cseq) == ("c1@192.0.2.1", (7, "INVITE"))
    assert message.contact is not None
    assert message.contact.uri.port == 5060
    assert message.options("Supported") == {"timer", "100rel"}
    assert message.options("Require") == set()
    assert message.content_type == "application/sdp"
    assert (message.body, message.body_of("application/sdp")) == (b"v=0\r\n", b"v=0\r\n")
    assert message.body_of("text/plain") is None


def test_written_as_it_was_read() -> None:
    message = invite()
    assert message.headers.items()[0][0] == "v"
    text = message.encode()
    assert b'\r\nf: "Anna, B" <sip:+15550002222@carrier.example>;tag=a1\r\n' in text
    assert text.endswith(b"\r\nContent-Length: 5\r\n\r\nv=0\r\n")
    again = parse(text)
    assert isinstance(again, Request)
    assert [item for item in again.headers.items() if item[0] != "Content-Length"] == [
        item for item in message.headers.items() if item[0] != "l"
    ]


def test_headers() -> None:
    headers = Headers([("Via", "a"), ("X-One", "1"), ("v", "b, c")])
    assert headers.get("VIA") == headers.get("v") == "a"
    assert headers.lines("via") == ["a", "b, c"]
    assert headers.values("v") == ["a", "b", "c"]
    assert ("x-one" in headers, "x-two" in headers, 3 in headers) == (True, False, False)
    headers.set("x-one", "2")
    headers.set("New", "n")
    assert [name for name, _ in headers] == ["Via", "x-one", "v", "New"]
    headers.insert("Via", "top")
    headers.set("Via", "only")
    assert headers.items() == [("Via", "only"), ("x-one", "2"), ("New", "n")]
    other = headers.copy()
    other.remove("NEW")
    other.remove("absent")
    assert (len(headers), len(other)) == (3, 2)
    assert other != headers
    assert other == Headers([("v", "only"), ("X-ONE", "2")])
    assert other.__eq__(3) is NotImplemented
    other.extend(headers, "new")
    assert other == headers
    other.extend(headers)
    assert len(other) == 6
    assert repr(Headers([("A", "b")])) == "Headers([('A', 'b')])"


def test_replace_top_leaves_the_rest() -> None:
    message = invite()
    message.headers.replace_top("Via", str(message.top_via.with_params(received="198.51.100.1", rport="5")))
    vias = message.vias
    assert [via.branch for via in vias] == ["z9hG4bK2", "z9hG4bK1", "z9hG4bK0"]
    assert vias[0].params["received"] == "198.51.100.1"
    message.headers.replace_top("From", "<sip:a@b>")
    assert message.headers.lines("From") == ["<sip:a@b>"]
    with pytest.raises(KeyError):
        message.headers.replace_top("Route", "x")


def test_commas_that_separate_nothing() -> None:
    digest = 'Digest realm="a", nonce="b"'
    headers = Headers([("WWW-Authenticate", digest), ("Date", "Sat, 13 Nov 2010 23:29:00 GMT"), ("Allow", "A, B")])
    assert headers.values("www-authenticate") == [digest]
    assert headers.values("Date") == ["Sat, 13 Nov 2010 23:29:00 GMT"]
    assert headers.values("Allow") == ["A", "B"]
    assert Headers([("Allow", "")]).values("Allow") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nEvil: 1"), ("X", "a\n"), ("X", "a\rb"), ("X", "\0"), ("X Y", "a"), ("", "a"), ("X:", "a"), ("Ü", "a")],
)
def test_nothing_that_breaks_a_message_gets_in(name: str, value: str) -> None:
    headers = Headers()
    for put in (headers.add, headers.insert, headers.set):
        with pytest.raises(ValueError, match=r"header name|line end"):
            put(name, value)
    assert len(headers) == 0


@pytest.mark.parametrize(
    ("method", "uri"), [("", "sip:a"), ("A B", "sip:a"), ("BYE", ""), ("BYE", "sip:a b"), ("BYE", "sip:a\r\n")]
)
def test_a_start_line_that_breaks_a_message(method: str, uri: str) -> None:
    with pytest.raises(ValueError, match="a request needs"):
        Request(method, uri).encode()


def test_response() -> None:
    message = parse(b"sip/2.0 180 Ringing now\r\nVia: SIP/2.0/UDP h\r\n\r\n")
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (180, "Ringing now")
    assert Response(486).encode() == b"SIP/2.0 486 Busy Here\r\nContent-Length: 0\r\n\r\n"
    assert Response(499, "a\r\nb").encode().startswith(b"SIP/2.0 499 a b\r\n")
    assert all(100 <= status <= 699 for status in REASONS)


def test_respond() -> None:
    request = invite()
    ringing = respond(request, 180, to_tag="t1")
    assert ringing.reason == "Ringing"
    assert ringing.headers.items() == [
        ("v", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2;rport, SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK1"),
        ("Via", "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK0"),
        ("Record-Route", "<sip:r2;lr>, <sip:r1;lr>"),
        ("f", '"Anna, B" <sip:+15550002222@carrier.example>;tag=a1'),
        ("To", "<sip:+15550001111@trunk.example.net>;tag=t1"),
        ("i", "c1@192.0.2.1"),
        ("CSeq", "7 INVITE"),
    ]
    trying = respond(request, 100, to_tag="t1")
    assert (trying.to.tag, trying.headers.get("Timestamp"), "Record-Route" in trying.headers) == ("", "5", False)
    refused = respond(request, 486, "No", to_tag="t1")
    assert (refused.reason, refused.to.tag, "Record-Route" in refused.headers) == ("No", "t1", False)
    request.headers.set("To", "<sip:a@b>;tag=mine")
    assert respond(request, 200, to_tag="t1").to.tag == "mine"
    request.headers.set("To", "sip:a@b;")
    assert respond(request, 200, to_tag="t1").to.tag == "t1"
    request.headers.set("To", '"broken')
    assert respond(request, 400, to_tag="t1").headers.get("To") == '"broken'


def test_body_length() -> None:
    assert parse(changed(b"l: 5\r\n", b"l: 3\r\n")).body == b"v=0"
    assert parse(changed(b"l: 5\r\n", b"l: 0\r\n")).body == b""
    assert parse(changed(b"l: 5\r\n", b"")).body == b"v=0\r\n"
    assert parse(b"\r\n\r\n" + INVITE).body == b"v=0\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\r\n\r\n", 400),
        (b"INVITE sip:a SIP/2.0\r\nVia: x\r\n", 400),
        (b"INVITE sip:a SIP/2.0\nVia: x\n\n", 400),
        (b"INVITE sip:a\r\n\r\n", 400),
        (b"INVITE  SIP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"INVITE sip:a SIP/3.0\r\n\r\n", 505),
        (b"SIP/2.0 20 OK\r\n\r\n", 400),
        (b"SIP/2.0 099 OK\r\n\r\n", 400),
        (b"SIP/2.0 700 OK\r\n\r\n", 400),
        (b"SIP/2.0\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\n folded\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nno colon\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\n: x\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nA B: x\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\rb\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\nEvil: b\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\0\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\\\0\r\n\r\n", 400),
        (b"A sip:a\0 SIP/2.0\r\nX: a\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nl: 1\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nl: 0\r\nContent-Length: 0\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nl: +0\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nl: \r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nl: 1000000\r\n\r\n", 513),
        (b"A sip:a SIP/2.0\r\nX: " + b"a" * (MAX_LINE + 1) + b"\r\n\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\r\n" + b" aaaaaaaaa\r\n" * 1000 + b"\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: a\r\n" + b" %s\r\n" % (b"a" * 100) * 100 + b"\r\n", 400),
        (b"A sip:a SIP/2.0\r\n" + b"X: a\r\n" * (MAX_HEADERS + 1) + b"\r\n", 400),
        (b"A sip:a SIP/2.0\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n", 513),
        (b"A sip:a SIP/2.0\r\n\r\n" + b"a" * (MAX_BODY + 1), 513),
    ],
)  # fmt: skip
def test_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as caught:
        parse(data)
    assert caught.value.status == status


def test_a_length_that_is_wrong_still_gives_the_head() -> None:
    with pytest.raises(BadMessage) as caught:
        parse(changed(b"l: 5\r\n", b"l: 9\r\n"))
    message = caught.value.message
    assert isinstance(message, Request)
    assert respond(message, caught.value.status).status == 400


@pytest.mark.parametrize(
    ("old", "new", "words", "status"),
    [
        (b"CSeq: 7 INVITE\r\n", b"", "CSeq is missing", 400),
        (b"CSeq: 7 INVITE\r\n", b"CSeq: 7 INVITE\r\nCSeq: 8 INVITE\r\n", "CSeq is given more than once", 400),
        (b"CSeq: 7 INVITE", b"CSeq: 7 BYE", "CSeq names another method", 400),
        (b"i: c1@192.0.2.1", b"i:", "Call-ID is empty", 400),
        (b"f: ", b"X: ", "From is missing", 400),
        (b"To: <", b"To: ", "To: ", 400),
        (b"Max-Forwards: 70", b"Max-Forwards: 256", "Max-Forwards: it is not a number below 256", 400),
        (b"Max-Forwards: 70", b"Max-Forwards: 1\r\nMax-Forwards: 2", "Max-Forwards is given more than once", 400),
        (b"Contact: <sip:", b"Contact: <mailto", "Contact: ", 400),
        (b"Contact: ", b"Contact: <sip:x>, ", "Contact must be given once", 400),
        (b"SIP/2.0/TCP", b"SIP/2.0/", "Via: ", 400),
        (b"INVITE sip:", b"INVITE mailto:", "scheme", 416),
        (b"INVITE sip:", b"INVITE sip:@", "Request-URI: ", 400),
        (b"trunk.example.net SIP", b"trunk.example.net?a=b SIP", "Request-URI with headers", 400),
        (b"Timestamp: 5\r\n", b"Via: " + b"SIP/2.0/UDP h," * MAX_VALUES + b"SIP/2.0/UDP h\r\n", "Via has more", 400),
    ],
)  # fmt: skip
def test_check(old: bytes, new: bytes, words: str, status: int) -> None:
    message = parse(changed(old, new))
    with pytest.raises(BadMessage, match=words) as caught:
        check(message)
    assert (caught.value.status, caught.value.message) == (status, message)


def test_check_tolerates() -> None:
    check(parse(changed(b"Max-Forwards: 70\r\n", b"")))
    check(parse(changed(b";tag=a1", b"")))
    check(
        parse(
            b"REGISTER sip:h SIP/2.0\r\nv: SIP/2.0/UDP h\r\nf: sip:a@h\r\nt: sip:a@h\r\n"
            b"i: 1\r\nCSeq: 1 REGISTER\r\nm: *\r\n\r\n"
        )
    )


def test_missing_headers_say_so() -> None:
    message = Request("BYE", "sip:a@b")
    with pytest.raises(BadMessage, match="Via is missing"):
        _ = message.top_via
    with pytest.raises(BadMessage, match="Via is missing"):
        check(message)
    assert (message.contact, message.content_type, message.body_of("application/sdp")) == (None, "", None)
    assert message.read_all("Route", NameAddr.parse) == []
    message.headers.add("Via", "")
    with pytest.raises(BadMessage, match="Via: "):
        _ = message.top_via


def test_lists_are_bounded() -> None:
    many = Headers([("Allow", ",".join("a" * (MAX_VALUES + 50))), ("Allow", "b")])
    assert many.values("Allow")[MAX_VALUES:] == [",".join("a" * 50), "b"]
    long = Headers([("Via", "SIP/2.0/UDP h;branch=" + "z" * MAX_FIELD), ("Via", "SIP/2.0/UDP h")])
    assert len(long.values("Via")) == 1
    for read in ("vias", "top_via"):
        with pytest.raises(BadMessage, match="Via is longer than"):
            getattr(Request("BYE", "sip:a", long), read)
    with pytest.raises(BadMessage, match="From is longer than"):
        _ = Request("BYE", "sip:a", Headers([("From", "<sip:a@b>;x=" + "z" * MAX_FIELD)])).from_


def test_contact_star() -> None:
    assert Request("REGISTER", "sip:a@b", Headers([("Contact", "*")])).contact is None


def test_latin_1_display_names() -> None:
    message = parse(changed(b"Anna, B", b"M\xfcller"))
    assert message.from_.display == "Müller"
    assert "Müller".encode() in message.encode()
    assert parse(changed(b"Anna, B", "Ærø".encode())).from_.display == "Ærø"
    assert b"?" in Request("A", "sip:a", Headers([("X", "\udcff")])).encode()


def multipart(content_type: str, *parts: str, closed: bool = True) -> Request:
    body = "preamble" + "".join(f"\r\n--b1\r\n{part}" for part in parts) + ("\r\n--b1--\r\nepilogue" if closed else "")
    return Request("INVITE", "sip:a@b", Headers([("Content-Type", content_type)]), body.encode())


def test_multipart() -> None:
    sdp = "Content-Type: Application/SDP; charset=x\r\nContent-Disposition: session\r\n\r\nv=0\r\no=-\r\n"
    isup = "Content-Type: application/isup;version=itu\r\n\r\n\x01\x02"
    for message in (
        multipart("multipart/mixed;boundary=b1", isup, sdp),
        multipart('Multipart/Mixed; boundary="b1"', sdp, isup),
        multipart("multipart/related;boundary=b1", sdp, closed=False),
    ):
        assert message.body_of("application/sdp") == b"v=0\r\no=-\r\n"
        assert message.body_of("text/plain") is None
    assert multipart("multipart/mixed", sdp).body_of("application/sdp") is None
    assert multipart("multipart/mixed;boundary=b1", "no head").body_of("application/sdp") is None
    assert multipart("multipart/mixed;boundary=b1", *[isup] * 20, sdp).body_of("application/sdp") is None
    with pytest.raises(BadMessage, match="Content-Type"):
        multipart('multipart/mixed;boundary="b1', sdp).body_of("application/sdp")


def test_a_body_without_a_type() -> None:
    assert Request("INVITE", "sip:a", body=b"v=0\r\n").body_of("application/sdp") == b"v=0\r\n"
    assert Request("INVITE", "sip:a", body=b"v=0\r\n").body_of("text/plain") is None
    assert Request("INVITE", "sip:a", body=b"Signal=5").body_of("application/sdp") is None
