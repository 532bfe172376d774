"""The messages of RFC 4475, bit for bit as its appendix A holds them, and what becomes of each.

Where the RFC leaves a choice, ours is told beside the message. `torture/<name>.dat` holds the message.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.providers.sip.framing import StreamFramer
from offhook.providers.sip.headers import NameAddr, parse_auth
from offhook.providers.sip.message import BadMessage, Request, Response, check, parse, respond
from offhook.providers.sip.uri import Uri

FOLDER = Path(__file__).parent / "torture"

ACCEPTED = {
    "wsinv": "INVITE",  # 3.1.1.1 a short tortuous INVITE
    "intmeth": "!interesting-Method0123456789_*+`.%indeed'~",  # 3.1.1.2 wide range of valid characters
    "esc01": "INVITE",  # 3.1.1.3 percent escapes in URIs
    "escnull": "REGISTER",  # 3.1.1.4 escaped NULs in URIs
    "esc02": "RE%47IST%45R",  # 3.1.1.5 percent where it escapes nothing
    "lwsdisp": "OPTIONS",  # 3.1.1.6 no space between display name and <
    "longreq": "INVITE",  # 3.1.1.7 long values
    "dblreq": "REGISTER",  # 3.1.1.8 what follows the body in a datagram is ignored
    "semiuri": "OPTIONS",  # 3.1.1.9 semicolons in the user part
    "transports": "OPTIONS",  # 3.1.1.10 varied transports in Via
    "mpart01": "MESSAGE",  # 3.1.1.11 multipart
    "unreason": 200,  # 3.1.1.12 reason phrase in UTF-8
    "noreason": 100,  # 3.1.1.13 empty reason phrase
    "baddate": "INVITE",  # 3.1.2.12 a Date that is not in GMT: allowed to ignore it, and we do
    "badaspec": "OPTIONS",  # 3.1.2.14 spaces inside <>: allowed to be liberal, and we are
    "baddn": "OPTIONS",  # 3.1.2.15 a display name with a comma needs quotes: likewise
    "badbranch": "OPTIONS",  # 3.2.1 branch is nothing but the magic cookie: the transaction layer's matter
    "bext01": "OPTIONS",  # 3.3.5 unknown options are answered 420 by the user agent
    "invut": "INVITE",  # 415 by the user agent
    "regaut01": "REGISTER",  # unknown authentication scheme: the doorman's matter
    "unksm2": "REGISTER",  # 3.3.4 unknown schemes in header fields are no reason to refuse
    "zeromf": "OPTIONS",  # Max-Forwards 0 is fine for its target
    "cparam01": "REGISTER",
    "cparam02": "REGISTER",
    "regescrt": "REGISTER",
    "sdp01": "INVITE",
    "bcast": 200,
}

REFUSED = {
    "badinv01": (400, "Via"),  # 3.1.2.1 extraneous separators
    "clerr": (400, "body shorter"),  # 3.1.2.2 Content-Length larger than the datagram
    "ncl": (400, "Content-Length"),  # 3.1.2.3 negative
    "scalar02": (400, "CSeq"),  # 3.1.2.4 numbers out of range in a request
    "scalarlg": (400, "CSeq"),  # 3.1.2.5 and in a response, which is dropped
    "quotbal": (400, "To"),  # 3.1.2.6 unterminated quotes
    "ltgtruri": (400, "Request-URI"),  # 3.1.2.7 <> around the Request-URI
    "lwsruri": (400, "start line"),  # 3.1.2.8 space within the Request-URI
    "lwsstart": (400, "start line"),  # 3.1.2.9 two spaces in the start line
    "trws": (400, "start line"),  # 3.1.2.10 spaces after the version
    "escruri": (400, "Request-URI"),  # 3.1.2.11 headers in the Request-URI
    "regbadct": (400, "Contact"),  # 3.1.2.13 a Contact whose URI needs <>
    "badvers": (505, "version"),  # 3.1.2.16
    "mismatch01": (400, "CSeq"),  # 3.1.2.17 CSeq names another method
    "mismatch02": (400, "CSeq"),  # 3.1.2.18 the same of an unknown method (501 is allowed as well)
    "bigcode": (400, "status"),  # 3.1.2.19 a status larger than an integer; dropped
    "insuf": (400, "Call-ID"),  # 3.3.1 missing required headers
    "unkscm": (416, "scheme"),  # 3.3.2
    "novelsc": (416, "scheme"),  # 3.3.3
    "multi01": (400, "more than once"),  # 3.3.8 several values where one is allowed
    "mcl01": (400, "Content-Length"),  # 3.3.9 two Content-Lengths
    # 3.4.1 RFC 2543 let a Contact be left out. We refuse it: nobody could tell where to send the BYE.
    "inv2543": (400, "Contact"),
}


def load(name: str) -> bytes:
    return (FOLDER / f"{name}.dat").read_bytes()


def request(name: str) -> Request:
    message = parse(load(name))
    assert isinstance(message, Request)
    check(message)
    return message


def test_every_message_has_an_outcome() -> None:
    assert {path.stem for path in FOLDER.glob("*.dat")} == ACCEPTED.keys() | REFUSED.keys()
    assert len(ACCEPTED) + len(REFUSED) == 49


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    message = parse(load(name))
    check(message)
    assert (message.method if isinstance(message, Request) else message.status) == ACCEPTED[name]
    again = parse(message.encode())
    assert (again.headers.lines("Via"), again.body) == (message.headers.lines("Via"), message.body)
    check(again)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    status, words = REFUSED[name]
    with pytest.raises(BadMessage, match=words) as caught:
        check(parse(load(name)))
    assert caught.value.status == status


@pytest.mark.parametrize("name", sorted(ACCEPTED.keys() | REFUSED.keys()))
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_through_a_stream(name: str, size: int) -> None:
    """On a stream each gives the same, whatever the segments, except where the length is missing or too large."""
    data, framer = load(name), StreamFramer()
    found = [item for at in range(0, len(data), size) for item in framer.feed(data[at : at + size])]
    if name == "clerr":
        assert not found
        assert framer.pending
    elif name in ("ncl", "mcl01", "inv2543"):
        assert framer.broken
        assert isinstance(found[-1], BadMessage)
        assert found[-1].message is not None
    else:
        # The second message of dblreq has more SDP than it says, so its stream ends in rubbish.
        assert framer.broken is (name == "dblreq")
        first = found[0]
        if name in ACCEPTED:
            assert isinstance(first, Request | Response)
        elif isinstance(first, Request | Response):
            with pytest.raises(BadMessage, match=REFUSED[name][1]):
                check(first)


def test_short_tortuous_invite() -> None:
    message = request("wsinv")
    assert message.to.tag == "1918181833n"
    assert (message.from_.display, message.from_.tag) == ('J Rosenberg \\"', "98asjd8")
    assert message.headers.get("max-forwards") == "0068"
    assert message.cseq == (9, "INVITE")
    assert [(via.transport, via.host, via.branch) for via in message.vias] == [
        ("UDP", "192.0.2.2", "390skdjuw"),
        ("TCP", "spindle.example.com", "z9hG4bK9ikj8"),
        ("UDP", "192.168.255.111", "z9hG4bK30239"),
    ]
    assert message.headers.get("Subject") == ""
    assert message.headers.get("newfangledheader") == "newfangled value continued newfangled value"
    assert message.contact is not None
    assert message.contact.display == 'Quoted string ""'
    assert dict(message.contact.params) == {"newparam": "newvalue", "secondparam": "", "q": "0.33"}
    route = message.read_all("Route", NameAddr.parse)
    assert dict(route[0].uri.params) == {"lr": "", "unknownwith": "value", "unknown-no-value": ""}
    assert len(message.body) == 150


def test_wide_range_of_characters() -> None:
    message = request("intmeth")
    uri = Uri.parse(message.uri)
    assert uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert uri.host == "example.com"
    assert str(uri) == message.uri
    assert message.to.display == "BEL: NUL: DEL:"  # what no screen shows is left out
    assert message.from_.display == "token1~` token2'+_ token3*%!.-"
    assert message.from_.tag == "_token~1'+`*%!-."
    assert message.from_.params["fromparam''~+*_!.-%"] == "работающий"
    assert message.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"
    assert message.headers.get("extensionHeader-!.%*+_`'~") == "\ufeff大停電"
    answer = respond(message, 501)
    assert b'To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <' in answer.encode()


def test_escapes_in_uris() -> None:
    message = request("esc01")
    assert Uri.parse(message.uri).user == "sips:user@example.com"
    assert str(Uri.parse(message.uri)) == message.uri
    assert message.to.uri.same_as(Uri.parse("sip:user@example.com"))
    assert message.from_.uri.user == "I have spaces"
    assert message.contact is not None
    assert message.contact.uri.user == "caller"
    # A percent sign stays escaped, so that nothing is ever decoded twice.
    assert dict(message.contact.uri.params) == {"lr": "", "name": "value%2541"}


def test_escaped_nulls_stay_escaped() -> None:
    message = request("escnull")
    assert message.to.uri.user == "null-%00-null"
    assert [NameAddr.parse(text).uri.user for text in message.headers.values("Contact")] == ["%00", "%00%00"]
    assert str(message.to.uri) == "sip:null-%00-null@example.com"


def test_percent_that_escapes_nothing() -> None:
    message = request("esc02")
    assert message.to.display == "%Z%45"
    assert message.top_via.branch == "z9hG4bK209%fzsnel234"
    assert len(message.headers.lines("Contact")) == 2
    assert "C%6Fntact" in message.headers


def test_semicolons_in_the_user_part() -> None:
    message = request("semiuri")
    uri = Uri.parse(message.uri)
    assert (uri.user, uri.host, dict(uri.params)) == ("user;par=u@example.net", "example.com", {})
    assert len(message.headers.values("Accept")) == 6


def test_two_requests_in_one_datagram_and_in_one_stream() -> None:
    assert request("dblreq").body == b""
    both = StreamFramer().feed(load("dblreq"))
    assert [item.method for item in both if isinstance(item, Request)] == ["REGISTER", "INVITE"]


def test_multipart() -> None:
    message = request("mpart01")
    assert message.body_of("text/plain") == b"Hello"
    binary = message.body_of("application/octet-stream")
    assert binary is not None
    assert binary.startswith(b"\x30\x82")
    assert message.body_of("application/sdp") is None


def test_parameters_inside_and_outside_the_uri() -> None:
    outside, inside = request("cparam01").contact, request("cparam02").contact
    assert outside is not None
    assert inside is not None
    assert ("unknownparam" in outside.params, "unknownparam" in outside.uri.params) == (True, False)
    assert ("unknownparam" in inside.params, "unknownparam" in inside.uri.params) == (False, True)


def test_headers_in_a_contact() -> None:
    contact = request("regescrt").contact
    assert contact is not None
    assert dict(contact.uri.headers) == {"route": "<sip:sip.example.com>"}


def test_unknown_schemes_and_credentials() -> None:
    message = request("unksm2")
    assert (message.to.uri.scheme, message.to.uri.user) == ("isbn", "2983792873")
    assert str(message.from_.uri) == "http://www.example.com"
    credentials = request("regaut01").headers.get("Authorization") or ""
    assert parse_auth(credentials) == ("nooneknowsthisscheme", {"opaque-data": "here"})


def test_reasons() -> None:
    wordy, silent = parse(load("unreason")), parse(load("noreason"))
    assert isinstance(wordy, Response)
    assert wordy.reason.startswith("= 2**3 * 5**2 но сто")
    assert isinstance(silent, Response)
    assert silent.reason == ""
