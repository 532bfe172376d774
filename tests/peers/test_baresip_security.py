"""Encrypted audio, TLS, TCP and passwords, with the telephone baresip."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fakes.baresip import LEVEL, SIP_PORT, Baresip, baresip, needs_baresip, steady
from fakes.served import free_port
from fakes.sip_gateway import NUMBER, SIPS_PORT, SipGateway, loopback, sip_gateway
from fakes.tls import certificates

HERE = Path(__file__).parent
HERTZ = 1010.0
AGENT = {"kind": "phone_agents:Tone", "isolation": "host", "hertz": HERTZ}

NOT_ACCEPTABLE = "488 Not Acceptable Here"


async def _talk(gateway: SipGateway, folder: Path, which: int, target: str = "", **phone: Any) -> Baresip:
    async with baresip(folder, gateway.peer(which), **phone) as telephone:
        await telephone.call(target or f"sip:{NUMBER}@{gateway.host}")
        await asyncio.sleep(1.3)
        await telephone.hang_up()
        await telephone.until("CALL_CLOSED")
    return telephone


async def _refused(gateway: SipGateway, folder: Path, which: int, target: str = "", **phone: Any) -> str:
    async with baresip(folder, gateway.peer(which), **phone) as telephone:
        return await telephone.refused(target or f"sip:{NUMBER}@{gateway.host}")


def _heard_each_other(phone: Baresip, gateway: SipGateway, call_id: str = "") -> None:
    found, level, _ = steady(phone.heard).tone()
    assert abs(found - HERTZ) < 4
    assert abs(level - LEVEL) < 1
    [heard] = gateway.notes("heard", call_id)
    assert abs(heard["hertz"] - 440) < 4
    assert abs(heard["level"] - LEVEL) < 1


async def test_what_the_trunk_says_of_srtp_is_kept(tmp_path: Path) -> None:
    port = free_port()
    wanted = {2: "required", 3: "required", 4: "disabled", 5: "allowed", 6: "allowed"}
    trunks = {f"t{which}": {"sources": [loopback(port, which)], "srtp": srtp} for which, srtp in wanted.items()}
    async with sip_gateway(tmp_path, trunks=trunks, http_port=port, agent=AGENT, pythonpath=HERE) as gateway:
        must, may_enc, may_plain = await asyncio.gather(
            _talk(gateway, tmp_path / "2", 2, account="mediaenc=srtp-mand"),
            _talk(gateway, tmp_path / "5", 5, account="mediaenc=srtp-mand"),
            _talk(gateway, tmp_path / "6", 6),
        )
        plain, encrypted = await asyncio.gather(
            _refused(gateway, tmp_path / "3", 3), _refused(gateway, tmp_path / "4", 4, account="mediaenc=srtp-mand")
        )
        assert (plain, encrypted) == (NOT_ACCEPTABLE, NOT_ACCEPTABLE)
        records = await gateway.over(3)
    assert len(records) == 3
    by_trunk = {data["fields"]["trunk"]: row for row in gateway.events() if "fields" in (data := row["data"])}
    for phone, trunk, srtp in ((must, "t2", True), (may_enc, "t5", True), (may_plain, "t6", False)):
        call_id = by_trunk[trunk]["call_id"]
        [media] = gateway.named("sip.media", call_id)
        assert media["srtp"] is srtp
        _heard_each_other(phone, gateway, call_id)
    assert gateway.named("fault") == []
    assert {row["faults"] for row in records} == {0}


async def test_calls_by_tls_with_encrypted_audio(tmp_path: Path) -> None:
    port = free_port()
    host, trusted, stranger = (loopback(port, which) for which in (1, 2, 3))
    ours = certificates(tmp_path / "ours", host, trusted)
    theirs = certificates(tmp_path / "theirs", stranger)
    trunks = {
        name: {
            "sources": [source],
            "srtp": "required",
            "numbers": [NUMBER],
            "proxies": [f"sip:{peer}:{SIP_PORT + 1};transport=tls"],
        }
        # it opens connections from 127.0.0.1, whatever it listens at
        for name, peer, source in (("trusted", trusted, "127.0.0.1"), ("stranger", stranger, stranger))
    }
    tls = {"cert_file": str(ours / f"{host}.pem"), "ca_file": str(ours / "ca.pem")}
    target = f"sip:{NUMBER}@{host}:{SIPS_PORT};transport=tls"
    account = "mediaenc=srtp-mand;answermode=auto"
    good = [f"sip_certificate {ours / trusted}.pem", f"sip_cafile {ours / 'ca.pem'}"]
    bad = [f"sip_certificate {theirs / stranger}.pem", f"sip_cafile {theirs / 'ca.pem'}"]
    async with (
        sip_gateway(
            tmp_path, trunks=trunks, transports=("tls",), sip={"tls": tls}, http_port=port, agent=AGENT, pythonpath=HERE
        ) as gateway,
        baresip(tmp_path / "2", trusted, transport="tls", account=account, config=good) as phone,
        baresip(tmp_path / "3", stranger, transport="tls", account=account, config=bad) as other,
    ):
        await phone.call(target)
        await asyncio.sleep(1.3)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert (record["status"], record["reason"], record["faults"]) == ("completed", "caller_hangup", 0)
        _heard_each_other(phone, gateway)
        placed = await gateway.place("alice", trunk="trusted")
        await phone.until("CALL_ESTABLISHED", count=2)
        await asyncio.sleep(1.3)
        await phone.hang_up()
        await phone.until("CALL_CLOSED", count=2)
        await gateway.over(2)
        _heard_each_other(phone, gateway, placed["id"])
        placed = await gateway.place("alice", trunk="stranger")
        records = {row["id"]: row for row in await gateway.over(3)}
    assert len(records) == 3
    assert [data["srtp"] for data in gateway.named("sip.media")] == [True, True]
    refused = records[placed["id"]]
    assert (refused["status"], refused["reason"]) == ("unanswered", "callee_unreachable")
    assert refused["detail"] == f"503 tls {stranger}:{SIP_PORT + 1} cannot be reached"
    assert not any(event["type"].startswith("CALL") for event in other.events)


async def test_only_the_right_password_gets_through_by_udp_and_tcp(tmp_path: Path) -> None:
    trunk = {"auth": "digest", "username": "office", "password": "correct-horse", "digest": ["MD5"]}
    async with sip_gateway(tmp_path, trunk=trunk, transports=("udp", "tcp"), agent=AGENT, pythonpath=HERE) as gateway:
        good = "auth_user=office;auth_pass=correct-horse"
        by_tcp = f"sip:{NUMBER}@{gateway.host};transport=tcp"
        udp, tcp, *refusals = await asyncio.gather(
            _talk(gateway, tmp_path / "udp", 2, account=good, user="udp"),
            _talk(gateway, tmp_path / "tcp", 5, by_tcp, account=good, user="tcp", transport="tcp"),
            _refused(gateway, tmp_path / "bad", 3, account="auth_user=office;auth_pass=battery"),
            _refused(gateway, tmp_path / "unknown", 4, account="auth_user=home;auth_pass=correct-horse"),
        )
        records = await gateway.over(2)
    assert refusals == ["401 Unauthorized"] * 2
    told = [json.loads(line) for line in gateway.log.splitlines() if "wrong password" in line]
    assert {(line["host"], line["user"]) for line in told} == {(gateway.peer(3), "office"), (gateway.peer(4), "home")}
    assert len(records) == 2
    for phone, user in ((udp, "udp"), (tcp, "tcp")):
        [record] = [row for row in records if row["from_number"] == user]
        assert (record["status"], record["reason"], record["faults"]) == ("completed", "caller_hangup", 0)
        _heard_each_other(phone, gateway, record["id"])


pytestmark = needs_baresip
