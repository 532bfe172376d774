"""Dialogs: tags, routes, numbers, and where the next request goes."""

from __future__ import annotations

import pytest

from offhook.providers.sip.dialog import MAX_ROUTES, Dialog, DialogId, next_hop
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import BadMessage, Request, Response, parse, respond

HOP = Hop("udp", "192.0.2.9", 5060, "192.0.2.1", 5060)


def invite(
    *extra: str, contact: str = "<sip:alice@192.0.2.9:5062;transport=udp>", to: str = "<sip:bob@192.0.2.1>"
) -> Request:
    lines = [
        "INVITE sip:bob@192.0.2.1 SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1",
        'From: "Al, Ice" <sip:alice@192.0.2.9>;tag=a;x=y',
        f"To: {to}",
        "Call-ID: c1",
        "CSeq: 41 INVITE",
        *([f"Contact: {contact}"] if contact else []),
        *extra,
    ]
    message = parse(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(message, Request)
    return message


def called(*extra: str, **more: str) -> Dialog:
    return Dialog.called(invite(*extra, **more), HOP, tag="b", contact="<sip:192.0.2.1>", number=100)


def test_called_side() -> None:
    dialog = called("Record-Route: <sip:p1;lr>", "Record-Route: <sip:p2;lr>")
    assert dialog.id == ("c1", "b", "a")
    request = dialog.request("UPDATE", "us", body=b"v=0\r\n")
    assert request.uri == "sip:alice@192.0.2.9:5062;transport=udp"
    assert request.headers.get("From") == "<sip:bob@192.0.2.1>;tag=b"
    assert request.headers.get("To") == '"Al, Ice" <sip:alice@192.0.2.9>;tag=a;x=y'  # to the letter
    assert request.headers.values("Route") == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert request.headers.get("CSeq") == "101 UPDATE"
    assert request.headers.get("Contact") == "<sip:192.0.2.1>"
    assert dialog.request("BYE", "us").headers.get("CSeq") == "102 BYE"
    assert "Contact" not in dialog.request("BYE", "us").headers
    assert dialog.request("ACK", "us", number=41).cseq.number == 41


def test_id_of_a_request() -> None:
    request = invite(to="<sip:bob@192.0.2.1>;tag=b")
    assert DialogId.of_request(request) == called().id


def test_numbers_must_rise() -> None:
    dialog = called()
    assert [dialog.in_order(number) for number in (41, 40, 42, 42, 99, 50)] == [False, False, True, False, True, False]


def test_calling_side_follows_each_phone() -> None:
    root = Dialog("c1", "<sip:a@x>;tag=a", "a", "<sip:bob@192.0.2.1>", "sip:bob@192.0.2.1", HOP, "<sip:a@x>", 6)
    request = root.request("INVITE", "us")
    request.headers.add("Via", "SIP/2.0/UDP x;branch=z9hG4bK2")

    def answer(tag: str, *routes: str) -> Response:
        response = respond(request, 180, to_tag=tag)
        response.headers.add("Contact", f"sip:{tag}@192.0.2.7;q=1")
        for route in routes:
            response.headers.add("Record-Route", route)
        return response

    one, two = root.answered_by(answer("t1", "<sip:p2;lr>, <sip:p1;lr>")), root.answered_by(answer("t2"))
    assert (one.id, two.id) == (("c1", "a", "t1"), ("c1", "a", "t2"))
    assert (one.target, one.routes, two.routes) == ("sip:t1@192.0.2.7", ["<sip:p1;lr>", "<sip:p2;lr>"], [])
    assert one.remote == "<sip:bob@192.0.2.1>;tag=t1"
    assert one.request("PRACK", "us").cseq.number == two.request("PRACK", "us").cseq.number == 8
    assert one.next_uri == "sip:p1;lr"
    assert two.next_uri == two.target
    one.adopt(answer("t1"))
    assert one.routes == []


def test_strict_router_gets_the_request_uri() -> None:
    request = called("Record-Route: <sip:p1;x=1>, <sip:p2;lr>").request("BYE", "us")
    assert request.uri == "sip:p1;x=1"
    assert request.headers.values("Route") == ["<sip:p2;lr>", "<sip:alice@192.0.2.9:5062;transport=udp>"]


def test_what_no_dialog_can_be_made_of() -> None:
    with pytest.raises(BadMessage, match="Contact"):
        called(contact="")
    with pytest.raises(BadMessage, match="Record-Route"):
        called(*["Record-Route: <sip:p;lr>"] * (MAX_ROUTES + 1))


def test_routes_that_cannot_be_read_are_kept_as_they_are() -> None:
    dialog = called("Record-Route: <sip:>")
    assert dialog.next_uri == "sip:"
    assert dialog.request("BYE", "us").headers.get("Route") == "<sip:>"


@pytest.mark.parametrize(
    ("contact", "target"),
    [
        ("sip:a@192.0.2.9;expires=9", "sip:a@192.0.2.9"),
        ('"A <b>" <sip:a@192.0.2.9;x=%41>', "sip:a@192.0.2.9;x=A"),
        ("A <sip:a@192.0.2.9;X=%41>;q=1", "sip:a@192.0.2.9;X=%41"),
    ],
)
def test_target_is_taken_as_written(contact: str, target: str) -> None:
    assert called(contact=contact).target == target


@pytest.mark.parametrize(
    ("uri", "last", "hop"),
    [
        ("sip:a@192.0.2.9:5062", HOP, HOP._replace(port=5062)),
        ("sip:a@192.0.2.9", HOP, HOP),
        ("sip:proxy.example;lr", HOP, HOP),
        ("not a uri", HOP, HOP),
        ("sip:a@10.1.1.1:5999", HOP._replace(host="8.8.8.8"), HOP._replace(host="8.8.8.8")),  # behind a NAT
        ("sip:a@8.8.4.4", HOP._replace(host="8.8.8.8"), HOP._replace(host="8.8.4.4")),
        ("sip:a@192.0.2.9;transport=tcp", HOP, Hop("tcp", "192.0.2.9", 5060, "192.0.2.1")),
        ("sips:a@192.0.2.9", HOP, Hop("tls", "192.0.2.9", 5061, "192.0.2.1")),
        ("sip:a@[2001:db8::1]:5070", Hop("udp", "2001:db8::9", 5060), Hop("udp", "2001:db8::1", 5070)),
    ],
)
def test_next_hop(uri: str, last: Hop, hop: Hop) -> None:
    assert next_hop(uri, last) == hop


def test_open_connection_is_used_until_it_is_lost() -> None:
    last = Hop("tcp", "192.0.2.9", 41234, "192.0.2.1", 5060)
    assert next_hop("sip:a@192.0.2.9:5060;transport=tcp", last) == last
    assert next_hop("sip:a@192.0.2.9:5060;transport=tcp", last, reuse=False).port == 5060
    assert next_hop("sip:sbc.example;transport=tcp;lr", last) == last
    assert next_hop("sip:sbc.example;transport=tcp;lr", last, reuse=False) == last._replace(port=5060)
    assert next_hop("sip:sbc.example:5099;transport=tcp;lr", last, reuse=False) == last._replace(port=5099)
