"""SIPp changes a call that is up: timers, hold, another address, UPDATE, late offers, reliable ringing, keys."""

from __future__ import annotations

import asyncio

from fakes.sip_gateway import SipGateway
from fakes.sipp import Scenario, ear, journal, needs_sipp, ran, records, sdp, sipp, together

pytestmark = needs_sipp


def version(body: str) -> str:
    """The o= line: session id and version."""
    return next(line for line in body.splitlines() if line.startswith("o="))


# --- session timers ---------------------------------------------------------------------


async def test_the_caller_keeps_the_session_alive(shared: SipGateway) -> None:
    await together(kept_alive(shared, "+15550920", "udp"), kept_alive(shared, "+15550921", "tcp"))


async def kept_alive(shared: SipGateway, number: str, transport: str) -> None:
    timer = ("Supported: timer", "Session-Expires: 90;refresher=uac")
    caller = Scenario().invite(*timer).answered().ack().pause(200).invite(*timer).answered().ack().pause(200)
    caller.request("UPDATE", *timer).recv(200).pause(200)
    done = await ran(shared, caller.bye(), number=number, transport=transport)
    first, again = done.received("INVITE", 200)
    (update,) = done.received("UPDATE", 200)
    for answer in (first, again, update):
        assert answer.header("Session-Expires") == "90;refresher=uac"
        assert "timer" in (answer.header("Require") or "")
    assert version(first.body) == version(again.body), "nothing has changed"
    (row,) = await records(shared, number)
    assert row["reason"] == "caller_hangup"


async def test_a_session_timer_that_is_too_short(shared: SipGateway) -> None:
    caller = Scenario().invite("Supported: timer", "Session-Expires: 60").refused(422)
    caller.invite("Supported: timer", "Session-Expires: 90", "Min-SE: 90").answered().ack().pause(100)
    done = await ran(shared, caller.bye(), number="+15550922")
    assert done.received("INVITE", 422)[0].header("Min-SE") == "90"
    assert (done.received("INVITE", 200)[0].header("Session-Expires") or "").startswith("90;refresher=")
    await records(shared, "+15550922")


# --- other media ------------------------------------------------------------------------


async def test_audio_follows_the_caller_to_another_address(shared: SipGateway) -> None:
    host, other = shared.peer(2), shared.peer(70)
    first, second = sdp(host=host, port="7000"), sdp(host=other, port="7002", version=2)
    caller = Scenario().invite(body=first).answered().ack().pause(900)
    caller.invite(body=second).answered().ack().pause(1100).bye()
    async with ear(host, 7000, 440) as here, ear(other, 7002, 700) as there:
        async with sipp(shared, caller, number="+15550923") as calling:
            await calling.until("INVITE", 200)
            await asyncio.sleep(0.6)
            hertz, level, _ = here.sound().tone()
            assert abs(hertz - 440) < 2
            assert level > -12
            assert there.heard == []
            await calling.until("INVITE", 200, count=2)
            await asyncio.sleep(0.2)
            heard = len(here.heard)
            await calling.succeeded()
        hertz, level, _ = there.sound(20).tone()
        assert abs(hertz - 700) < 2
        assert level > -12
        assert len(here.heard) == heard, "nothing goes to the old address any more"
    answers = calling.received("INVITE", 200)
    assert version(answers[0].body) == version(answers[1].body), "ours is what it was"
    await records(shared, "+15550923")


async def test_hold_and_back(shared: SipGateway) -> None:
    await together(
        held(shared, "+15552930", 7100, "sendonly"),
        held(shared, "+15552931", 7110, "inactive"),
        held(shared, "+15552932", 7120, "zero"),
    )


async def held(shared: SipGateway, number: str, port: int, way: str) -> None:
    """Hold as the old way has it, by an address of zeros, or by an attribute; then take the call up again."""
    where = shared.peer(2)
    attributes, host = ((), "0.0.0.0") if way == "zero" else ((way,), where)

    def offer(number: int, *attributes: str, host: str = where) -> str:
        return sdp(*attributes, version=number, host=host, port=str(port))

    caller = Scenario().invite(body=offer(1)).answered().ack().pause(400)
    caller.invite(body=offer(2, *attributes, host=host)).answered().ack().pause(900)
    caller.invite(body=offer(3)).answered().ack().pause(900).bye()
    async with ear(where, port, 440) as phone, sipp(shared, caller, number=number) as calling:
        await calling.until("INVITE", 200, count=2)
        await asyncio.sleep(0.15)
        heard = len(phone.heard)
        assert heard > 5
        await asyncio.sleep(0.3)
        assert len(phone.heard) == heard, "on hold nothing is sent"
        await calling.succeeded()
        hertz, level, _ = phone.sound(20).tone()
        assert abs(hertz - 440) < 2
        assert level > -12
    _, on_hold, back = calling.received("INVITE", 200)
    if way != "zero":
        assert {"sendonly": "a=recvonly", "inactive": "a=inactive"}[way] in on_hold.body.splitlines()
    assert "a=sendrecv" in back.body.splitlines()
    (row,) = await records(shared, number)
    assert [event["held"] for event in journal(shared, row, "hold")] == [True, False]
    notes = [note["data"] for note in journal(shared, row, "agent.note") if note["name"] == "hold"]
    assert [note["held"] for note in notes] == [True, False]


async def test_update_holds_as_well_as_an_invite(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    caller.request("UPDATE", body=sdp("sendonly", version=2)).recv(200).pause(200)
    caller.request("UPDATE", body=sdp(version=3)).recv(200).pause(200)
    done = await ran(shared, caller.bye(), number="+15552940", transport="tcp")
    held, back = done.received("UPDATE", 200)
    assert "a=recvonly" in held.body.splitlines()
    assert "a=sendrecv" in back.body.splitlines()
    (row,) = await records(shared, "+15552940")
    assert [event["held"] for event in journal(shared, row, "hold")] == [True, False]


async def test_an_offer_that_cannot_be_used_leaves_the_call_as_it_was(shared: SipGateway) -> None:
    g723 = sdp(version=2, media="audio {port} RTP/AVP 4").replace("0 PCMU", "4 G723")
    caller = Scenario().invite().answered().ack().pause(100).invite(body=g723).refused(488).pause(100)
    done = await ran(shared, caller.bye(), number="+15550925")
    assert done.received("INVITE", 488)
    (row,) = await records(shared, "+15550925")
    assert row["reason"] == "caller_hangup"
    await ran(shared, Scenario().invite(body=g723).refused(488), number="+15550926")


# --- offers that come late --------------------------------------------------------------


async def test_an_invite_without_an_offer(shared: SipGateway) -> None:
    host = shared.peer(2)
    caller = Scenario().invite(body="").answered().ack(body=sdp(host=host, port="7200")).pause(900)
    async with ear(host, 7200, 440) as phone:
        done = await ran(shared, caller.bye(), number="+15550927")
        hertz, _, _ = phone.sound().tone()
        assert abs(hertz - 440) < 2
    (answer,) = done.received("INVITE", 200)
    assert {"0", "8", "9"} <= _formats(answer.body), "a whole offer"
    (row,) = await records(shared, "+15550927")
    assert (row["reason"], row["format"]) == ("caller_hangup", "pcmu/8000")


async def test_an_offer_of_ours_that_nobody_answers(shared: SipGateway) -> None:
    caller = Scenario().invite(body="").answered().ack().wait("BYE").reply(200)
    await ran(shared, caller, number="+15550928")
    (row,) = await records(shared, "+15550928")
    assert row["status"] != "live"
    assert row["answered_at"] is None


async def test_a_caller_who_asks_for_a_fresh_offer(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    caller.invite(body="").answered().ack(body=sdp(version=2)).pause(200)
    done = await ran(shared, caller.bye(), number="+15550933")
    answers = done.received("INVITE", 200)
    narrow, whole = [_formats(answer.body) for answer in answers]
    assert narrow == {"0", "101"}
    assert whole > narrow, "not what was agreed on, but all that we speak"
    (row,) = await records(shared, "+15550933")
    assert row["reason"] == "caller_hangup"


def _formats(body: str) -> set[str]:
    """The payload types of its one line of media."""
    (media,) = [line for line in body.splitlines() if line.startswith("m=")]
    return set(media.split()[3:])


# --- reliable ringing -------------------------------------------------------------------


async def test_a_caller_who_wants_ringing_acknowledged(shared: SipGateway) -> None:
    caller = Scenario().invite("Require: 100rel").recv(100, optional=True)
    rseq = caller.keep("rseq", "RSeq:")
    caller.recv(180, rseq).request("PRACK", "RAck: [$rseq] 1 INVITE").recv(200)
    caller.recv(200).ack().pause(200)
    done = await ran(shared, caller.bye(), number="+15551929")
    (ringing,) = done.received("INVITE", 180)
    assert ringing.header("Require") == "100rel"
    (row,) = await records(shared, "+15551929")
    assert row["reason"] == "caller_hangup"


async def test_early_media_that_must_arrive(shared: SipGateway) -> None:
    """The trunk says 183 with SDP, reliably where the caller can, and plays the ringing itself."""
    host = shared.peer(6)
    caller = Scenario().invite("Supported: 100rel", body=sdp(host=host, port="7210")).recv(100, optional=True)
    rseq = caller.keep("rseq", "RSeq:")
    caller.recv(183, rseq).request("PRACK", "RAck: [$rseq] 1 INVITE").recv(200)
    caller.recv(200).ack().pause(200).bye()
    async with ear(host, 7210, 440) as phone, sipp(shared, caller, number="+15551930", host=host) as done:
        await done.until("PRACK", 200)
        await asyncio.sleep(0.5)
        assert phone.sound(20).level() > -40, "it rings"
        assert done.received("INVITE", 200) == []
        await done.succeeded()
    (early,) = done.received("INVITE", 183)
    assert early.header("Require") == "100rel"
    assert "m=audio" in early.body
    assert done.received("INVITE", 200)[0].body.strip() == "", "the answer was given already"
    (row,) = await records(shared, "+15551930")
    assert row["reason"] == "caller_hangup"


async def test_an_extension_that_nobody_knows(shared: SipGateway) -> None:
    done = await ran(shared, Scenario().invite("Require: precondition").refused(420), number="+15550931")
    assert done.received("INVITE", 420)[0].header("Unsupported") == "precondition"


# --- keys -------------------------------------------------------------------------------


async def test_keys_by_info(shared: SipGateway) -> None:
    await together(keys_by_info(shared, "+15552950", "udp"), keys_by_info(shared, "+15552951", "tcp"))


async def keys_by_info(shared: SipGateway, number: str, transport: str) -> None:
    caller = Scenario().invite().answered().ack().pause(200)
    caller.request("INFO", body="Signal=5\nDuration=160\n", content_type="application/dtmf-relay").recv(200)
    caller.request("INFO", body="9", content_type="application/dtmf").recv(200)
    caller.request("INFO", body="Signal=11\nDuration=160\n", content_type="application/dtmf-relay").recv(200)
    caller.wait("BYE").reply(200)
    done = await ran(shared, caller, number=number, transport=transport)
    (bye,) = done.received("BYE")
    assert (bye.header("Reason") or "").startswith("Q.850;cause=16")
    assert bye.header("X-Result") == "done"
    (row,) = await records(shared, number)
    assert [event["digit"] for event in journal(shared, row, "dtmf")] == ["5", "9", "#"]
    assert (row["reason"], row["ended_by"], row["digits"]) == ("agent_hangup", "agent", 3)


# --- the way, and what we do not do -----------------------------------------------------


async def test_requests_of_ours_take_the_way_that_was_recorded(shared: SipGateway) -> None:
    route = "<sip:[local_ip]:[local_port];lr;edge=1>"
    caller = Scenario().invite(f"Record-Route: {route}").answered().ack().pause(100)
    caller.request("INFO", body="#", content_type="application/dtmf").recv(200).wait("BYE").reply(200)
    done = await ran(shared, caller, number="+15552990")
    (bye,), (answer,) = done.received("BYE"), done.received("INVITE", 200)
    assert answer.header("Record-Route") == bye.header("Route")
    assert (bye.header("Route") or "").endswith(";lr;edge=1>")
    assert bye.start.split()[1].startswith("sip:sipp@"), "the target is the caller's Contact all the same"


async def test_methods_that_we_do_not_serve(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().ack().pause(100).request("JUMP").recv(501)
    caller.request("MESSAGE", body="hello", content_type="text/plain").recv(405)
    caller.request("NOTIFY", "Event: refer", "Subscription-State: active").recv(481)
    done = await ran(shared, caller.pause(100).bye(), number="+15550934")
    assert "INVITE" in (done.received("MESSAGE", 405)[0].header("Allow") or "")
    (row,) = await records(shared, "+15550934")
    assert row["reason"] == "caller_hangup"
