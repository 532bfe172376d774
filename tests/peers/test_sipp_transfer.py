"""SIPp hands calls over and is handed others: REFER both ways, attended transfers, Replaces; reasons and headers."""

from __future__ import annotations

import re

from fakes.sip_gateway import SipGateway
from fakes.sipp import SIP_PORT, Said, Scenario, Sipp, ear, journal, needs_sipp, ran, records, sdp, sipp, together

pytestmark = needs_sipp

TARGET = "+15559999"
"""Whom the clerk transfers to."""


def press(scenario: Scenario, key: str) -> Scenario:
    """Press a key of the clerk's."""
    body = f"Signal={key}\nDuration=160\n"
    return scenario.request("INFO", body=body, content_type="application/dtmf-relay").recv(200)


def report(scenario: Scenario, line: str, state: str) -> Scenario:
    """Tell how a transfer goes."""
    event = ("Event: refer", f"Subscription-State: {state}")
    return scenario.request("NOTIFY", *event, body=f"SIP/2.0 {line}", content_type="message/sipfrag").recv(200)


def notes(gateway: SipGateway, number: str) -> list[str]:
    """The names of what the clerk noted."""
    (row,) = [row for row in gateway.calls() if row["to_number"] == number]
    return [note["name"] for note in journal(gateway, row, "agent.note")]


# --- we transfer ------------------------------------------------------------------------


async def test_the_agent_transfers_the_caller(shared: SipGateway) -> None:
    await together(transferred(shared, "+15552960", "udp"), transferred(shared, "+15552961", "tcp"))


async def transferred(shared: SipGateway, number: str, transport: str) -> None:
    caller = press(Scenario().invite().answered().ack().pause(200), "6").wait("REFER").reply(202)
    report(caller, "100 Trying", "active;expires=60")
    report(caller, "180 Ringing", "active;expires=60")
    report(caller, "200 OK", "terminated;reason=noresource")
    done = await ran(shared, caller.wait("BYE").reply(200), number=number, transport=transport)
    (refer,) = done.received("REFER")
    assert re.match(rf"<sip:\{TARGET}@", refer.header("Refer-To") or "")
    assert refer.header("Referred-By")
    (row,) = await records(shared, number)
    assert (row["status"], row["reason"], row["transferred_to"]) == ("completed", "transferred", TARGET)
    assert [event["ok"] for event in journal(shared, row, "transfer")] == [True]


async def test_a_transfer_that_is_refused_leaves_the_call_with_the_agent(shared: SipGateway) -> None:
    numbers = {603: "+15552962", 405: "+15552963", 202: "+15552964"}
    await together(*(not_transferred(shared, number, status) for status, number in numbers.items()))


async def not_transferred(shared: SipGateway, number: str, status: int) -> None:
    caller = press(Scenario().invite().answered().ack().pause(200), "6").wait("REFER").reply(status)
    if status == 202:
        report(caller, "603 Decline", "terminated;reason=noresource")
    caller.pause(200)
    done = await ran(shared, press(caller, "9").pause(200).bye(), number=number)
    assert done.received("BYE") == []
    (row,) = await records(shared, number)
    assert (row["reason"], row["transferred_to"]) == ("caller_hangup", "")
    assert [event["ok"] for event in journal(shared, row, "transfer")] == [False]
    assert notes(shared, number) == ["told", "key", "refused", "key"], "the agent went on"


async def test_an_attended_transfer(shared: SipGateway) -> None:
    number = "+15552965"
    caller = press(Scenario().invite().answered().ack().pause(200), "6").wait("REFER").reply(202)
    report(caller, "200 OK", "terminated;reason=noresource")
    caller.wait("BYE").reply(200)
    target = Scenario().wait("INVITE").reply_invite(180).pause(200).pick_up().wait("BYE").reply(200)
    async with sipp(shared, target, host=shared.peer(15), port=SIP_PORT, number="target") as called:
        done = await ran(shared, caller, host=shared.peer(5), number=number)
        await called.succeeded()
    (refer,) = done.received("REFER")
    (invite,), (answer,) = called.received("INVITE"), called.sent("INVITE", 200)
    assert invite.start.split()[1].startswith(f"sip:{TARGET}@")
    named = _replaces(refer.header("Refer-To") or "")
    assert named == {"id": invite.header("Call-ID"), "to-tag": _tag(answer, "To"), "from-tag": _tag(answer, "From")}
    (row,) = await records(shared, number)
    assert (row["reason"], row["transferred_to"]) == ("transferred", TARGET)


async def test_an_attended_transfer_to_somebody_who_does_not_want_it(shared: SipGateway) -> None:
    number = "+15552966"
    caller = press(Scenario().invite().answered().ack().pause(200), "6").pause(500)
    target = Scenario().wait("INVITE").reply_invite(603).wait("ACK")
    async with sipp(shared, target, host=shared.peer(15), port=SIP_PORT, number="busy") as called:
        done = await ran(shared, caller.bye(), host=shared.peer(5), number=number)
        await called.succeeded()
    assert done.received("REFER") == []
    (row,) = await records(shared, number)
    assert row["reason"] == "caller_hangup"
    assert "refused" in notes(shared, number)


def _replaces(refer_to: str) -> dict[str, str]:
    """What a Refer-To asks the receiver to replace."""
    found = re.search(r"[?&]Replaces=([^>&]*)", refer_to)
    assert found is not None, refer_to
    text = re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), found[1])
    id, *params = text.split(";")
    return {"id": id, **dict(param.split("=", 1) for param in params)}


def _tag(message: Said, header: str) -> str:
    found = re.search(r";tag=([^;>\s]+)", message.header(header) or "")
    assert found is not None
    return found[1]


# --- they transfer ----------------------------------------------------------------------


async def test_the_peer_moves_the_agent_to_somebody_else(shared: SipGateway) -> None:
    number, other = "+15552967", "+15557001"
    caller = Scenario().invite().answered().ack().pause(200)
    caller.request("REFER", f"Refer-To: <sip:{other}@[remote_ip]>", "Referred-By: <sip:boss@example.com>").recv(202)
    caller.wait("NOTIFY").reply(200).wait("NOTIFY").reply(200).wait("NOTIFY").reply(200).wait("BYE").reply(200)
    host = shared.peer(12)
    target = Scenario().wait("INVITE").reply_invite(180).pause(200).pick_up(body=sdp(host=host, port="7300"))
    target.pause(1200).bye()
    async with ear(host, 7300, 700) as phone:
        async with sipp(shared, target, host=host, port=SIP_PORT, number="other") as called:
            done = await ran(shared, caller, number=number)
            await called.succeeded()
        hertz, level, _ = phone.sound().tone()
        assert abs(hertz - 700) < 2
        assert level > -12
    told = [it.body.strip() for it in done.received("NOTIFY")]
    assert [line.split()[1] for line in told] == ["100", "180", "200"]
    states = [(it.header("Subscription-State") or "").partition(";")[0] for it in done.received("NOTIFY")]
    assert states == ["active", "active", "terminated"]
    (invite,) = called.received("INVITE")
    assert invite.start.split()[1].startswith(f"sip:{other}@")
    assert invite.header("Referred-By") == "<sip:boss@example.com>"
    (row,) = await records(shared, number)
    assert row["reason"] == "caller_hangup", "the one who hung up in the end"
    (moved,) = journal(shared, row, "sip.moved")
    assert other in moved["to"]


async def test_a_peer_that_may_not_move_the_agent(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    caller.request("REFER", "Refer-To: <sip:+15557002@[remote_ip]>").recv(603).pause(100)
    await ran(shared, caller.bye(), host=shared.peer(3), number="+15552968")
    (row,) = await records(shared, "+15552968")
    assert row["reason"] == "caller_hangup"
    elsewhere = Scenario().invite().answered().ack().pause(200)
    elsewhere.request("REFER", "Refer-To: <sip:+44555@[remote_ip]>").recv(603).pause(100)
    await ran(shared, elsewhere.bye(), number="+15552969")


async def test_a_transfer_to_somebody_who_is_busy_leaves_the_peer_with_us(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    caller.request("REFER", "Refer-To: <sip:+15557003@[remote_ip]>").recv(202)
    caller.wait("NOTIFY").reply(200).wait("NOTIFY").reply(200).pause(200)
    target = Scenario().wait("INVITE").reply_invite(486).wait("ACK")
    async with sipp(shared, target, host=shared.peer(12), port=SIP_PORT, number="busy") as called:
        done = await ran(shared, press(caller, "9").pause(100).bye(), number="+15552970")
        await called.succeeded()
    assert [it.body.split()[1] for it in done.received("NOTIFY")] == ["100", "486"]
    (row,) = await records(shared, "+15552970")
    assert row["reason"] == "caller_hangup"
    assert "key" in notes(shared, "+15552970")


async def test_a_call_that_replaces_another(shared: SipGateway) -> None:
    number, host = "+15552971", shared.peer(2)
    first = Scenario().invite().answered().ack().wait("BYE").reply(200)
    async with ear(host, 7400, 500) as phone:
        async with sipp(shared, first, number=number) as calling:
            await calling.until("INVITE", 200)
            replaces = _other(calling)
            second = Scenario().invite(f"Replaces: {replaces}", body=sdp(host=host, port="7400")).answered().ack()
            await ran(shared, second.pause(1400).bye(), number="+15552972")
            await calling.succeeded()
        hertz, _, _ = phone.sound().tone()
        assert abs(hertz - 500) < 2
    (row,) = await records(shared, number)
    assert row["reason"] == "caller_hangup"
    assert len(journal(shared, row, "sip.moved")) == 1
    assert [row for row in shared.calls() if row["to_number"] == "+15552972"] == [], "one call all along"
    nothing = Scenario().invite("Replaces: nobody;to-tag=1;from-tag=2").refused(481)
    await ran(shared, nothing, number="+15552973")


def _other(calling: Sipp) -> str:
    """The value of Replaces that names SIPp's call to the gateway."""
    (answer,) = calling.received("INVITE", 200)
    return f"{answer.header('Call-ID')};to-tag={_tag(answer, 'To')};from-tag={_tag(answer, 'From')}"


# --- headers ----------------------------------------------------------------------------


async def test_headers_become_fields_and_attributes_headers(shared: SipGateway) -> None:
    number = "+15552980"
    theirs = (
        "X-Account-Id: 4711",
        "X-Colour: blue",
        "Diversion: <sip:+15550177@example.com>;reason=unconditional",
        "P-Asserted-Identity: <sip:+15550188@example.com>",
        "User-to-User: 56a390f3d2b7;encoding=hex",
        "Subject: not mapped",
    )
    caller = press(Scenario().invite(*theirs).answered().ack().pause(200), "#").wait("BYE").reply(200)
    done = await ran(shared, caller, number=number)
    (answer,), (bye,) = done.received("INVITE", 200), done.received("BYE")
    assert answer.header("X-Account-Id") == "A-7", "an attribute by the trunk's mapping"
    assert answer.header("X-Clerk") == "seven"
    assert "stays here" not in answer.text
    assert bye.header("X-Result") == "done"
    assert (bye.header("Reason") or "").startswith("Q.850;cause=16")
    (row,) = await records(shared, number)
    (told,) = [note["data"] for note in journal(shared, row, "agent.note") if note["name"] == "told"]
    expected = {
        "account": "4711",
        "X-Colour": "blue",
        "Diversion": "<sip:+15550177@example.com>;reason=unconditional",
        "User-to-User": "56a390f3d2b7;encoding=hex",
        "trunk": "in2",
        "from_name": "SIPp",
    }
    assert expected.items() <= told.items()
    assert "Subject" not in told
    assert row["from_number"] == "+15550188", "the identity that the network vouches for"


async def test_why_the_caller_hung_up(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    await ran(shared, caller.bye('Reason: Q.850;cause=41;text="Temporary failure"'), number="+15552981")
    (row,) = await records(shared, "+15552981")
    (told,) = journal(shared, row, "sip.hang_up")
    assert told["Reason"] == 'Q.850;cause=41;text="Temporary failure"'
