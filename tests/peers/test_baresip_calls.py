"""What happens during calls with the telephone baresip: keys, hold, transfers, hang-ups, and calls that we place."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fakes.baresip import LEVEL, SIP_PORT, Sound, baresip, needs_baresip, steady
from fakes.served import free_port
from fakes.sip_gateway import NUMBER, SipGateway, loopback, sip_gateway

HERE = Path(__file__).parent
HERTZ = 1010.0
TONE = {"kind": "phone_agents:Tone", "isolation": "host", "hertz": HERTZ}


def _keys(**settings: Any) -> dict[str, Any]:
    return {"kind": "phone_agents:Keys", "isolation": "host", **settings}


def _number_at(gateway: SipGateway) -> str:
    return f"sip:{NUMBER}@{gateway.host}"


def _ended(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["status"], record["reason"], record["ended_by"]


async def _presses(gateway: SipGateway, folder: Path) -> None:
    """Press keys until the agent hangs up; hear those that it presses."""
    async with baresip(folder, gateway.peer(), user="presser") as phone:
        await phone.call(_number_at(gateway))
        for key in "120*#95":
            await phone.order("sndcode", key)
            await asyncio.sleep(0.25)
        for count, key in enumerate("159#", 1):
            assert (await phone.until("CALL_DTMF_START", count=count))["param"] == key
        await phone.order("sndcode", "7")
        await phone.until("CALL_CLOSED")


async def _is_transferred(gateway: SipGateway, folder: Path, target: str) -> Sound:
    """Have the agent transfer us to `target`; gives what we hear there."""
    host = gateway.peer(3)
    async with (
        baresip(folder / "bob", host, user="bob", account="answermode=auto", hertz=700) as bob,
        baresip(folder / "moved", gateway.peer(4), user="moved") as phone,
    ):
        await phone.call(_number_at(gateway))
        await phone.order("sndcode", "6")
        await bob.until("CALL_ESTABLISHED")
        await phone.until("CALL_CLOSED")
        await asyncio.sleep(0.5)
        await phone.hang_up()
        await bob.until("CALL_CLOSED")
    return phone.heard


async def test_keys_both_ways_and_what_the_agent_does_at_some(tmp_path: Path) -> None:
    port = free_port()
    target = f"sip:bob@{loopback(port, 3)}:{SIP_PORT}"
    async with sip_gateway(
        tmp_path, agent=_keys(refer=target), pythonpath=HERE, http_port=port, route={"allow_transfer": ["*"]}
    ) as gateway:
        _, heard = await asyncio.gather(
            _presses(gateway, tmp_path / "presser"), _is_transferred(gateway, tmp_path, target)
        )
        records = {row["from_number"]: row for row in await gateway.over(2)}
    pressed, moved = records["presser"], records["moved"]
    assert "".join(note["digit"] for note in gateway.notes("key", pressed["id"])) == "120*#957"
    assert gateway.notes("refused") == []
    assert [data["ok"] for data in gateway.named("dtmf.send")] == [True]
    assert _ended(pressed) == ("completed", "agent_hangup", "agent"), pressed
    assert (pressed["digits"], pressed["faults"]) == (8, 0), gateway.named("fault")
    assert _ended(moved) == ("completed", "transferred", "agent"), moved
    assert moved["transferred_to"] == target
    assert gateway.named("transfer") == [{"to": target, "ok": True}]
    found, _, _ = steady(heard).tone()
    assert abs(found - 700) < 4


async def test_hold_and_resume(tmp_path: Path) -> None:
    async with (
        sip_gateway(tmp_path, agent=TONE, pythonpath=HERE) as gateway,
        baresip(tmp_path / "phone", gateway.peer(), trace=True) as phone,
    ):
        await phone.call(_number_at(gateway))
        await asyncio.sleep(0.8)
        await phone.order("hold")
        await asyncio.sleep(0.8)
        await phone.order("resume")
        await asyncio.sleep(1.2)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
    assert _ended(record) == ("completed", "caller_hangup", "caller"), record
    assert record["faults"] == 0
    assert [data["held"] for data in gateway.named("hold")] == [True, False]
    media = gateway.named("sip.media")
    assert [data["direction"] for data in media] == ["sendrecv", "recvonly", "sendrecv"]
    assert {data["remote"].partition(":")[0] for data in media} == {gateway.peer()}
    [quality] = gateway.named("media.quality")
    assert min(quality["packets_received"], quality["packets_sent"]) > 80
    assert quality["loss_percent"] == 0
    answers = [line for line in phone.log.splitlines() if line in ("a=sendrecv", "a=sendonly", "a=recvonly")]
    assert answers == ["a=sendrecv", "a=sendrecv", "a=sendonly", "a=recvonly", "a=sendrecv", "a=sendrecv"]
    [said] = gateway.named("utterance")
    assert said["heard_ms"] < 1000 * record["talk_seconds"] - 500  # what was not heard on hold was not said
    # the telephone begins a new recording with every change of media
    found, level, _ = steady(phone.heard).tone()
    assert abs(found - HERTZ) < 4
    assert abs(level - LEVEL) < 1


async def test_calls_that_we_place(tmp_path: Path) -> None:
    port = free_port()
    trunk = {"proxies": [f"sip:{loopback(port, 2)}:{SIP_PORT}"]}
    agent = {**TONE, "seconds": 1.5}
    async with (
        sip_gateway(tmp_path, trunk=trunk, agent=agent, pythonpath=HERE, http_port=port) as gateway,
        baresip(tmp_path / "phone", gateway.peer(), account="answermode=auto", trace=True) as phone,
    ):
        placed = await gateway.place("alice", attributes={"X-Order": "7"})
        await phone.until("CALL_ESTABLISHED")
        await asyncio.sleep(1.2)
        [listed] = (await gateway.api("GET", "/v1/calls")).json()
        assert (listed["id"], listed["direction"], listed["to"], listed["state"]) == (
            placed["id"],
            "outbound",
            "alice",
            "live",
        )
        assert (await gateway.api("DELETE", f"/v1/calls/{placed['id']}")).status_code == 204
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert _ended(record) == ("completed", "operator_hangup", "operator"), record
        found, level, _ = steady(phone.heard).tone()
        assert (abs(found - HERTZ) < 4, abs(level - LEVEL) < 1) == (True, True), (found, level)
        assert "X-Order: 7" in phone.log

        await gateway.place("alice")
        await phone.until("CALL_ESTABLISHED", count=2)
        await phone.hang_up()
        _, record = await gateway.over(2)
        assert _ended(record) == ("completed", "callee_hangup", "callee"), record
    assert {row["direction"] for row in gateway.calls()} == {"outbound"}
    assert {row["from_number"] for row in gateway.calls()} == {NUMBER}


async def test_calls_that_nobody_takes(tmp_path: Path) -> None:
    port = free_port()
    trunks = {
        "there": {"proxies": [f"sip:{loopback(port, 2)}:{SIP_PORT}"], "numbers": [NUMBER]},
        "away": {"proxies": [f"sip:{loopback(port, 3)}:{SIP_PORT}"], "numbers": ["+15550102"]},
    }
    async with (
        sip_gateway(tmp_path, trunks=trunks, agent=TONE, pythonpath=HERE, http_port=port) as gateway,
        baresip(tmp_path / "phone", gateway.peer(), account="answermode=manual") as phone,
    ):
        calls = [("alice", "there", {"ring_timeout": 1}), ("alice", "there", {}), ("nobody", "there", {})]
        ids = []
        for count, (to, trunk, more) in enumerate(calls, 1):
            ids.append((await gateway.place(to, trunk=trunk, **more))["id"])
            if to == "alice":
                await phone.until("CALL_INCOMING", count=count)
            if count == 2:
                await phone.hang_up()
            if to == "alice":
                await phone.until("CALL_CLOSED", count=count)
        ids.append((await gateway.place("alice", trunk="away"))["id"])
        records = {row["id"]: row for row in await gateway.over(4)}
    reasons = ["callee_no_answer", "callee_busy", "callee_unknown", "callee_unreachable"]
    assert [_ended(records[id]) for id in ids] == [("unanswered", reason, "carrier") for reason in reasons]
    away = f"{loopback(port, 3)}:{SIP_PORT}"
    details = ["480 no answer within 1 s", "486 Rejected", "404 Not Found", f"503 udp {away} says nothing"]
    assert [records[id]["detail"] for id in ids] == details
    [tried] = gateway.named("sip.invite", ids[3])
    assert tried["target"] == f"udp {away}"
    assert tried["sip_call_id"]


async def test_a_transfer_by_the_telephone(tmp_path: Path) -> None:
    port = free_port()
    trunk = {"proxies": [f"sip:{loopback(port, 3)}:{SIP_PORT}"], "accept_refer": ["b*"]}
    async with (
        sip_gateway(tmp_path, trunk=trunk, agent=TONE, pythonpath=HERE, http_port=port) as gateway,
        baresip(tmp_path / "bob", gateway.peer(3), user="bob", account="answermode=auto", hertz=700) as bob,
        baresip(tmp_path / "phone", gateway.peer()) as phone,
        baresip(tmp_path / "other", gateway.peer(4), trace=True) as other,
    ):
        await other.call(_number_at(gateway))
        await other.order("transfer", f"sip:carol@{bob.host}:{SIP_PORT}")
        await phone.call(_number_at(gateway))
        assert "603 Decline" in other.log
        await other.hang_up()  # it was still up
        await phone.order("transfer", f"sip:bob@{bob.host}:{SIP_PORT}")
        await bob.until("CALL_ESTABLISHED")
        await phone.until("CALL_CLOSED")
        await asyncio.sleep(1.2)
        await bob.hang_up()
        await bob.until("CALL_CLOSED")
        records = await gateway.over(2)
    assert [_ended(record) for record in records] == [("completed", "caller_hangup", "caller")] * 2
    verdicts = {data["to"]: data["ok"] for data in gateway.named("sip.refer")}
    assert verdicts == {"carol": False, "bob": True}
    found, level, _ = steady(bob.heard).tone()
    assert abs(found - HERTZ) < 4
    assert abs(level - LEVEL) < 1


async def test_a_call_by_ipv6(tmp_path: Path) -> None:
    async with (
        sip_gateway(tmp_path, agent=TONE, pythonpath=HERE, ipv6=True) as gateway,
        baresip(tmp_path / "phone", "::1") as phone,
    ):
        await phone.call(f"sip:{NUMBER}@[::1]:{gateway.udp}")
        await asyncio.sleep(1.3)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
    assert _ended(record) == ("completed", "caller_hangup", "caller"), record
    assert record["faults"] == 0
    found, level, _ = steady(phone.heard).tone()
    assert abs(found - HERTZ) < 4
    assert abs(level - LEVEL) < 1


pytestmark = needs_baresip
