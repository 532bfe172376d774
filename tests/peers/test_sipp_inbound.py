"""SIPp calls a gateway: whole calls, many at once, over a network that loses, cancelled, and never acknowledged."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from fakes.baresip import Sound, sine, steady
from fakes.sip_gateway import SipGateway, sip_gateway
from fakes.sipp import Scenario, call, journal, needs_sipp, ran, records, sdp, sipp, together

from offhook.codecs.g711 import pcm_to_ulaw

pytestmark = needs_sipp


async def test_the_caller_hears_himself(shared: SipGateway, tmp_path: Path) -> None:
    wave = (sine(440, 1, 8000) * 32767).astype("<i2").tobytes()
    (tmp_path / "tone.ulaw").write_bytes(pcm_to_ulaw(wave))
    await together(
        hears_himself(shared, tmp_path / "tone.ulaw", "+15553001", "udp"),
        hears_himself(shared, tmp_path / "tone.ulaw", "+15553002", "tcp"),
    )


async def hears_himself(shared: SipGateway, tone: Path, number: str, transport: str) -> None:
    offer = sdp(port="[rtpstream_audio_port]")
    caller = Scenario().invite(body=offer).answered().ack().stream(tone).pause(1500).bye()
    await ran(shared, caller, number=number, transport=transport)
    (row,) = await records(shared, number)
    assert (row["status"], row["reason"], row["ended_by"]) == ("completed", "caller_hangup", "caller")
    assert row["format"] == "pcmu/8000"
    await shared.until(lambda: any(it["recording_path"] for it in shared.calls() if it["id"] == row["id"]))
    (path,) = [it["recording_path"] for it in shared.calls() if it["id"] == row["id"]]
    # An echo that a busy machine brings late by more than a frame has a hole, and its phase jumps.
    for channel, clean in ((0, 25), (1, 6)):
        hertz, level, purity = steady(Sound.read(shared.folder / "var" / path, channel)).tone()
        assert abs(hertz - 440) < 4
        assert -11 < level < -8
        assert purity > clean
    (quality,) = journal(shared, row, "media.quality")
    assert quality["loss_percent"] == 0


async def test_the_scenario_that_everybody_knows(shared: SipGateway) -> None:
    await ran(shared, "uac", number="+15550901", calls=3, more=["-d", 200])
    rows = await records(shared, "+15550901", 3)
    assert {row["reason"] for row in rows} == {"caller_hangup"}


async def test_twenty_calls_at_ten_a_second(shared: SipGateway) -> None:
    numbers = {"udp": "+15550902", "tcp": "+15550903"}
    callers = await asyncio.gather(
        *(ran(shared, call(seconds=1), number=to, calls=20, transport=by) for by, to in numbers.items())
    )
    for caller, number in zip(callers, numbers.values(), strict=True):
        rows = await records(shared, number, 20)
        assert {row["status"] for row in rows} == {"completed"}
        assert len({row["carrier_call_id"] for row in rows}) == 20
        assert len(caller.received("INVITE", 100)) == len(caller.received("INVITE", 200)) == 20
        assert len({answer.header("To") for answer in caller.received("INVITE", 200)}) == 20, "a tag for each"


async def test_a_network_that_loses_every_fifth_message_loses_no_call(shared: SipGateway) -> None:
    # The BYE gets through: SIPp takes a 200 that is repeated for its lost ACK for the answer to a BYE that was lost.
    caller = Scenario().invite(retrans=200).answered().ack().pause(200).request("BYE", retrans=200, kept=True).recv(200)
    more = ["-lost", 20, "-T2", 500, "-max_retrans", 30]
    await ran(shared, caller, number="+15550904", calls=20, rate=20, more=more)
    rows = await records(shared, "+15550904", 20)
    assert {row["status"] for row in rows} == {"completed"}


async def test_a_repeated_invite_starts_one_call(shared: SipGateway) -> None:
    caller = Scenario().invite(retrans=0).recv(100).again().answered().again().again().pause(100).ack().pause(200)
    started = await ran(shared, caller.bye(), number="+15551905")
    assert len(started.sent("INVITE")) >= 4
    (row,) = await records(shared, "+15551905")
    assert row["reason"] == "caller_hangup"
    assert len({answer.header("To") for answer in started.received("INVITE", 180)}) == 1
    assert len(started.received("INVITE", 200)) == 1, "what repeats a 200 is its own clock"


async def test_a_call_cancelled_before_the_answer(shared: SipGateway) -> None:
    caller = Scenario().invite().recv(100).recv(180).cancel("Reason: SIP;cause=200").recv(200).recv(487)
    await ran(shared, caller.ack(refused=True), number="+15551906")
    (row,) = await records(shared, "+15551906")
    assert (row["status"], row["reason"], row["ended_by"]) == ("completed", "caller_hangup", "caller")
    assert row["answered_at"] is None


async def test_a_cancel_that_crosses_the_answer_changes_nothing(shared: SipGateway) -> None:
    caller = Scenario().invite().answered().cancel().recv(200).ack().pause(300).bye()
    await ran(shared, caller, number="+15550907")
    (row,) = await records(shared, "+15550907")
    assert row["reason"] == "caller_hangup"
    assert row["talk_seconds"] >= 0.3


async def test_an_answer_is_repeated_until_it_is_acknowledged(shared: SipGateway) -> None:
    numbers = {"udp": "+15550908", "tcp": "+15550909"}
    # On UDP, SIPp takes the repetitions for nothing new.
    udp, tcp = Scenario().invite().answered().pause(3700), Scenario().invite().answered().recv(200).recv(200).recv(200)
    callers = await asyncio.gather(
        ran(shared, udp.ack().pause(200).bye(), number=numbers["udp"]),
        ran(shared, tcp.ack().pause(200).bye(), number=numbers["tcp"], transport="tcp"),
    )
    for caller, number in zip(callers, numbers.values(), strict=True):
        times = [answer.at for answer in caller.received("INVITE", 200)]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert waits == pytest.approx([0.5, 1, 2], abs=0.25)
        (row,) = await records(shared, number)
        assert row["reason"] == "caller_hangup"
        assert row["talk_seconds"] < 1, "audio flows from the ACK on"


# --- who may call, and when -------------------------------------------------------------


def options() -> Scenario:
    return Scenario().request("OPTIONS")


async def test_options_tell_what_we_can_do(shared: SipGateway) -> None:
    asking = await ran(shared, options().recv(200), number="+15550911")
    (answer,) = asking.received("OPTIONS", 200)
    assert set((answer.header("Allow") or "").split(", ")) >= {"INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REFER"}
    assert answer.header("Accept") == "application/sdp"
    assert {"timer", "replaces", "100rel"} <= set((answer.header("Supported") or "").split(", "))


async def test_somebody_who_is_no_trunk(shared: SipGateway) -> None:
    stranger = shared.peer(60)
    refused = await ran(shared, Scenario().invite().recv(403).ack(refused=True), number="+15550912", host=stranger)
    assert [answer.status for answer in refused.messages if not answer.sent] == [403], "not even a 100"
    await ran(shared, options().recv(403), number="+15550912", host=stranger)
    assert [row for row in shared.calls() if row["to_number"] == "+15550912"] == []


async def test_a_trunk_that_is_full(shared: SipGateway) -> None:
    """It has room for one call."""
    host = shared.peer(4)
    async with sipp(shared, call(seconds=1.2), host=host, number="+15550913") as first:
        await first.until("INVITE", 200)
        second = await ran(shared, Scenario().invite().refused(503), host=host, number="+15550914")
        (refusal,) = second.received("INVITE", 503)
        assert int(refusal.header("Retry-After") or 0) > 0
        asking = await ran(shared, options().recv(503), host=host)
        assert asking.received("OPTIONS", 503)[0].header("Retry-After")
        other = await ran(shared, options().recv(200), host=shared.peer(3))
        assert other.received("OPTIONS", 200)
        await first.succeeded()
    await ran(shared, options().recv(200), host=host)
    await records(shared, "+15550913")
    assert [row for row in shared.calls() if row["to_number"] == "+15550914"] == []


async def test_a_gateway_that_is_full_and_then_drains(tmp_path: Path) -> None:
    """It has room for two calls."""
    async with sip_gateway(tmp_path, limits={"max_calls": 2}) as gateway:
        other = gateway.peer(3)

        async def refuses() -> None:
            asking = await ran(gateway, options().recv(503), host=other)
            assert asking.received("OPTIONS", 503)[0].header("Retry-After")
            calling = await ran(gateway, Scenario().invite().refused(503), host=other, number="+15550917")
            assert calling.received("INVITE", 503)[0].header("Retry-After")

        async with sipp(gateway, call(seconds=2.5), number="+15550915") as last:
            await last.until("INVITE", 200)
            async with sipp(gateway, call(seconds=0.8), number="+15550916") as second:
                await second.until("INVITE", 200)
                await refuses()
                await second.succeeded()
            await ran(gateway, options().recv(200), host=other)
            gateway.process.terminate()
            await asyncio.sleep(0.2)
            await refuses()
            await last.succeeded()
        async with asyncio.timeout(10):
            while gateway.process.poll() is None:
                await asyncio.sleep(0.05)
        assert gateway.process.poll() == 0
        ended = {row["to_number"]: row["reason"] for row in gateway.calls()}
        assert ended == {"+15550915": "caller_hangup", "+15550916": "caller_hangup"}
