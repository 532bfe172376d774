"""A gateway calls SIPp: answered, refused in every way, rung in vain, challenged, and sent on to the next proxy."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SIP_PORT as GATEWAY_PORT
from fakes.sip_gateway import Row, SipGateway, loopback, sip_gateway
from fakes.sipp import SIP_PORT, Place, Said, Scenario, Sipp, call, ear, journal, needs_sipp, ran, records, sdp, sipp

pytestmark = needs_sipp

OUT = 100
"""The address that the trunk `out0` calls; see conftest.py."""


async def called(
    gateway: SipGateway, index: int, number: str, scenario: Scenario | str, *, transport: str = "udp", **order: object
) -> tuple[Sipp, Row]:
    """Have the gateway call SIPp over a trunk; gives both when it is over."""
    host = gateway.peer(OUT + index)
    async with sipp(gateway, scenario, host=host, port=SIP_PORT, number="uas", transport=transport) as phone:
        await phone.listening()
        await gateway.place(number, trunk=f"out{index}", **order)
        await phone.succeeded()
    (row,) = await records(gateway, number)
    assert row["direction"] == "outbound"
    return phone, row


async def hang_up(gateway: SipGateway, number: str) -> None:
    """End a call by the gateway's HTTP interface, once it is live."""
    async with asyncio.timeout(8):
        while True:
            calls = (await gateway.api("GET", "/v1/calls")).json()
            found = [it["id"] for it in calls if it["to"] == number and it["state"] == "live"]
            if found:
                break
            await asyncio.sleep(0.05)
    assert (await gateway.api("DELETE", f"/v1/calls/{found[0]}")).status_code == 204


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_that_is_answered(shared: SipGateway, transport: str) -> None:
    index = int(transport == "tcp")
    number, host = f"+1555400{index}", shared.peer(OUT + index)
    scenario = Scenario().wait("INVITE").reply_invite(180).pause(200).pick_up(body=sdp(host=host, port="7500"))
    order = {"attributes": {"X-Campaign": "spring"}}
    async with ear(host, 7500, 600) as phone:
        scenario.pause(900).bye()
        answering, row = await called(shared, index, number, scenario, transport=transport, **order)
        hertz, level, _ = phone.sound().tone()
        assert abs(hertz - 600) < 2
        assert level > -12
    (invite,) = answering.received("INVITE")
    assert invite.start.split()[1].startswith(f"sip:{number}@{host}")
    assert f"sip:+155501{index:02}@" in (invite.header("From") or "")
    assert invite.header("X-Campaign") == "spring"
    assert len(answering.received("ACK")) == 1
    assert (row["status"], row["reason"], row["ended_by"]) == ("completed", "callee_hangup", "callee")
    assert row["from_number"] == f"+155501{index:02}"


async def test_the_built_in_answering_party(shared: SipGateway) -> None:
    host = shared.peer(OUT)
    async with sipp(shared, "uas", host=host, port=SIP_PORT, number="builtin") as phone:
        await phone.listening()
        await shared.place("+15554002", trunk="out0")
        await hang_up(shared, "+15554002")
        await phone.until("BYE")
    (row,) = await records(shared, "+15554002")
    assert (row["status"], row["reason"], row["ended_by"]) == ("completed", "operator_hangup", "operator")
    (bye,) = phone.received("BYE")
    assert (bye.header("Reason") or "").startswith("Q.850;cause=16")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (486, "callee_busy"),
        (404, "callee_unknown"),
        (603, "callee_declined"),
        (480, "callee_no_answer"),
        (488, "no_answer_possible"),
    ],
)
async def test_a_call_that_is_refused(shared: SipGateway, status: int, reason: str) -> None:
    number = f"+15554{status}"
    scenario = Scenario().wait("INVITE").reply_invite(180).reply_invite(status, retrans=500).wait("ACK")
    _, row = await called(shared, 3, number, scenario)
    assert (row["reason"], row["ended_by"], row["answered_at"]) == (reason, "carrier", None)
    assert row["detail"].startswith(str(status))


async def test_a_phone_that_nobody_picks_up(shared: SipGateway) -> None:
    scenario = Scenario().wait("INVITE").reply_invite(180).wait("CANCEL").reply(200)
    scenario.reply_invite(487, retrans=500).wait("ACK")
    phone, row = await called(shared, 4, "+15554004", scenario, ring_timeout=1)
    assert (row["status"], row["reason"], row["answered_at"]) == ("unanswered", "callee_no_answer", None)
    (invite,), (cancel,) = phone.received("INVITE"), phone.received("CANCEL")
    assert invite.header("Via") == cancel.header("Via")


async def test_a_phone_that_is_picked_up_as_we_give_up(shared: SipGateway) -> None:
    """The 200 crosses our CANCEL: it is acknowledged, and hung up on."""
    scenario = Scenario().wait("INVITE").reply_invite(180).wait("CANCEL").reply(200).pick_up().wait("BYE").reply(200)
    _, row = await called(shared, 4, "+15554005", scenario, ring_timeout=1)
    assert (row["status"], row["reason"]) == ("unanswered", "callee_no_answer")


async def test_the_next_proxy_when_the_first_takes_no_calls(shared: SipGateway) -> None:
    number = "+15554006"
    full = Scenario().wait("INVITE").reply_invite(503, "Retry-After: 60", retrans=500).wait("ACK")
    takes = Scenario().wait("INVITE").pick_up().pause(300).bye()
    first, second = shared.peer(OUT + 2), shared.peer(OUT + 50)
    async with (
        sipp(shared, full, host=first, port=SIP_PORT, number="full") as refusing,
        sipp(shared, takes, host=second, port=SIP_PORT, number="takes") as taking,
    ):
        await refusing.listening()
        await taking.listening()
        await shared.place(number, trunk="out2")
        await refusing.succeeded()
        await taking.succeeded()
    (row,) = await records(shared, number)
    assert row["reason"] == "callee_hangup"
    ids = {it.header("Call-ID") for phone in (refusing, taking) for it in phone.received("INVITE")}
    assert len(ids) == 2, "each attempt is a call of its own"


async def test_early_media(shared: SipGateway) -> None:
    """What a 183 brings is no answer yet; the 200 is, with or without SDP of its own."""
    host = shared.peer(OUT + 5)
    where = sdp(host=host, port="7510")
    scenario = Scenario().wait("INVITE").reply_invite(183, body=where).pause(600).pick_up(body=where).pause(700).bye()
    async with ear(host, 7510, 600) as phone:
        _, row = await called(shared, 5, "+15554007", scenario)
        hertz, _, _ = phone.sound(20).tone()
        assert abs(hertz - 600) < 2
    assert row["reason"] == "callee_hangup"
    assert row["ring_seconds"] >= 0.6
    assert journal(shared, row, "sip.progress")[-1]["status"] == 183


async def test_ringing_that_we_acknowledge(shared: SipGateway) -> None:
    scenario = Scenario().wait("INVITE").reply_invite(180, "Require: 100rel", "RSeq: 7001", retrans=500)
    scenario.wait("PRACK").reply(200).pause(100).pick_up().pause(200).bye()
    phone, row = await called(shared, 6, "+15554008", scenario)
    (invite,), (prack,) = phone.received("INVITE"), phone.received("PRACK")
    assert prack.header("RAck") == f"7001 {(invite.header('CSeq') or '').split()[0]} INVITE"
    assert row["reason"] == "callee_hangup"


async def test_an_answer_that_came_with_the_ringing(shared: SipGateway) -> None:
    """A reliable 183 brings the SDP, the 200 need not repeat it (RFC 3262 section 5)."""
    host = shared.peer(OUT + 9)
    scenario = Scenario().wait("INVITE")
    scenario.reply_invite(183, "Require: 100rel", "RSeq: 7001", body=sdp(host=host, port="7520"), retrans=500)
    scenario.wait("PRACK").reply(200).pause(100).pick_up(body="").pause(700).bye()
    async with ear(host, 7520, 600) as phone:
        _, row = await called(shared, 9, "+15554010", scenario)
        hertz, _, _ = phone.sound(20).tone()
        assert abs(hertz - 600) < 2
    assert row["reason"] == "callee_hangup"


async def test_an_answer_without_a_codec_of_ours(shared: SipGateway) -> None:
    g723 = sdp(media="audio {port} RTP/AVP 4").replace("0 PCMU", "4 G723")
    phone, row = await called(
        shared, 10, "+15554011", Scenario().wait("INVITE").pick_up(body=g723).wait("BYE").reply(200)
    )
    assert (phone.received("BYE")[0].header("Reason") or "").startswith("Q.850;cause=127")
    assert (row["status"], row["reason"]) == ("failed", "carrier_protocol_error")


async def test_the_party_called_holds_and_comes_back(shared: SipGateway) -> None:
    scenario = Scenario().wait("INVITE").pick_up().pause(200).invite(body=sdp("sendonly", version=2)).answered().ack()
    scenario.pause(200).invite(body=sdp(version=3)).answered().ack().pause(100).bye()
    _, row = await called(shared, 11, "+15554012", scenario)
    assert [event["held"] for event in journal(shared, row, "hold")] == [True, False]


async def test_a_call_that_is_called_off_while_it_rings(shared: SipGateway) -> None:
    scenario = Scenario().wait("INVITE").reply_invite(180).wait("CANCEL").reply(200)
    scenario.reply_invite(487, retrans=500).wait("ACK")
    async with sipp(shared, scenario, host=shared.peer(OUT + 12), port=SIP_PORT, number="uas") as phone:
        await phone.listening()
        placed = await shared.place("+15554013", trunk="out12")
        await phone.until("INVITE")
        assert (await shared.api("DELETE", f"/v1/calls/{placed['id']}")).status_code == 204
        await phone.succeeded()
    (row,) = await records(shared, "+15554013")
    assert (row["reason"], row["ended_by"], row["answered_at"]) == ("operator_hangup", "operator", None)


# --- passwords --------------------------------------------------------------------------


def response_of(credentials: str, method: str, password: str) -> str:
    """The digest that these credentials must carry (RFC 2617, MD5, qop=auth)."""
    fields = {
        name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', credentials)
    }

    def h(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    ha1, ha2 = h(f"{fields['username']}:{fields['realm']}:{password}"), h(f"{method}:{fields['uri']}")
    middle = (fields["nonce"], fields["nc"], fields["cnonce"], fields["qop"])
    assert fields["response"] == h(":".join((ha1, *middle, ha2)))
    return fields["username"]


@pytest.mark.parametrize(("status", "transport"), [(401, "udp"), (407, "tcp")])
async def test_a_proxy_that_asks_for_our_password(shared: SipGateway, status: int, transport: str) -> None:
    ask, give = {
        401: ("WWW-Authenticate", "Authorization"),
        407: ("Proxy-Authenticate", "Proxy-Authorization"),
    }[status]
    challenge = f'{ask}: Digest realm="sipp.example.com",nonce="n0nce{status}",algorithm=MD5,qop="auth",opaque="o"'
    scenario = Scenario().wait("INVITE").reply_invite(status, challenge, retrans=500).wait("ACK")
    scenario.wait("INVITE").pick_up().pause(200).bye()
    index = 7 if transport == "udp" else 1
    phone, row = await called(shared, index, f"+15554{status}", scenario, transport=transport)
    first, again = phone.received("INVITE")
    assert first.header(give) is None
    assert response_of(again.header(give) or "", "INVITE", "s3cret") == "offhook"
    assert [number(it) for it in (first, again)] == [number(first), number(first) + 1]
    assert first.header("Call-ID") == again.header("Call-ID")
    assert row["reason"] == "callee_hangup"


async def test_a_password_that_is_wrong(shared: SipGateway) -> None:
    challenge = 'WWW-Authenticate: Digest realm="sipp.example.com",nonce="n0nce{}",algorithm=MD5,qop="auth"'
    scenario = Scenario().wait("INVITE").reply_invite(401, challenge.format(1), retrans=500).wait("ACK")
    scenario.wait("INVITE").reply_invite(401, challenge.format(2), retrans=500).wait("ACK")
    phone, row = await called(shared, 8, "+15554009", scenario)
    assert len(phone.received("INVITE")) == 2, "it is not tried for ever"
    assert row["status"] != "completed"
    assert row["detail"].startswith("401")


def number(message: Said) -> int:
    """Of its CSeq."""
    return int((message.header("CSeq") or "0").split()[0])


# --- registration -----------------------------------------------------------------------


async def test_we_register_as_an_extension_and_take_its_calls(tmp_path: Path) -> None:
    """The first registrar has a bad day; the second wants our password, and then calls us."""
    port = free_port()
    broken, registrar = loopback(port, 2), loopback(port, 3)
    place = Place(tmp_path, loopback(port, 1), {"udp": GATEWAY_PORT, "tcp": GATEWAY_PORT})
    challenge = 'WWW-Authenticate: Digest realm="pbx.example.com",nonce="n0nce",algorithm=MD5,qop="auth"'
    expires = "Expires: 600"
    scenario = Scenario().wait("REGISTER").reply(401, challenge).wait("REGISTER").reply(200, expires)
    scenario.wait("REGISTER").reply(200, "Expires: 0")
    trunk = {
        "sources": [],
        "username": "1001",
        "password": "s3cret",
        "register": {
            "registrars": [f"sip:{broken}:{SIP_PORT}", f"sip:{registrar}:{SIP_PORT};transport=tcp"],
            "expires": 600,
        },
    }
    async with (
        sipp(place, Scenario().wait("REGISTER").reply(503), host=broken, port=SIP_PORT) as first,
        sipp(place, scenario, host=registrar, port=SIP_PORT, transport="tcp") as second,
    ):
        await first.listening()
        await second.listening()
        async with sip_gateway(tmp_path, trunk=trunk, transports=("udp", "tcp"), http_port=port) as gateway:
            await gateway.until(lambda: '"event": "registered"' in gateway.log, "the registration")
            await ran(gateway, call(), host=registrar, number="1001")
            (row,) = await records(gateway, "1001")
            assert row["reason"] == "caller_hangup"
            await ran(gateway, Scenario().invite().recv(403).ack(refused=True), host=loopback(port, 4))
        await first.succeeded()
        await second.succeeded()
    asked, again, goodbye = second.received("REGISTER")
    assert asked.header("Authorization") is None
    for request in (again, goodbye):
        assert response_of(request.header("Authorization") or "", "REGISTER", "s3cret") == "1001"
    assert (asked.header("To"), asked.header("Expires")) == (f"<sip:1001@{registrar}>", "600")
    assert (asked.header("Contact") or "").startswith(f"<sip:1001@{place.host}:{GATEWAY_PORT}")
    assert goodbye.header("Expires") == "0", "it is taken back at the end"
    assert [number(it) - number(asked) for it in (again, goodbye)] == [1, 2]
