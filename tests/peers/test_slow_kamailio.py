"""Kamailio and rtpengine between a telephone and a gateway, which is the proxy's trunk or its extension."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.baresip import LEVEL, Baresip, baresip, needs_baresip, steady
from fakes.kamailio import PASSWORD, REALM, Kamailio, kamailio, needs_kamailio
from fakes.served import free_port
from fakes.sip_gateway import NUMBER, SipGateway, loopback, sip_gateway
from fakes.strangers import until

pytestmark = [pytest.mark.slow, needs_baresip, needs_kamailio]

CALLER, AGENT = 440.0, 1010.0
EXTENSION = "300"


@asynccontextmanager
async def office(
    tmp_path: Path, *, extension: bool = False, transport: str = "udp", seconds: float = 1.8, **trunk: Any
) -> AsyncIterator[tuple[SipGateway, Kamailio, Baresip]]:
    """A gateway, a telephone registered as `alice`, and the proxy between them, whose audio all goes by rtpengine."""
    port = free_port()
    host, media, gateway_host = (loopback(port, which) for which in (6, 7, 1))
    settings: dict[str, Any] = {
        "sources": [host],
        "proxies": [f"sip:{host};transport={transport}"],
        "from_domain": REALM,
        **trunk,
    }
    if extension:
        login = {"username": EXTENSION, "password": PASSWORD, "register": {"registrars": [f"sip:{host}"]}}
        settings |= {"sources": [], **login}
    agent = {"kind": "phone_agents:Tone", "isolation": "host", "hertz": AGENT, "seconds": seconds}
    account = f"auth_user=alice;auth_pass={PASSWORD};answermode=auto"
    async with (
        kamailio(tmp_path / "kamailio", host, media, gateway=gateway_host) as proxy,
        sip_gateway(
            tmp_path,
            http_port=port,
            trunk=settings,
            agent=agent,
            transports=("udp", "tcp"),
            pythonpath=Path(__file__).parent,
        ) as gateway,
        baresip(tmp_path / "phone", gateway.peer(), registrar=host, account=account, trace=True) as phone,
    ):
        await until(lambda: "1 binding" in phone.log, "the telephone's registration")
        yield gateway, proxy, phone


def talked(gateway: SipGateway, proxy: Kamailio, phone: Baresip) -> None:
    """Each heard exactly the other, through the relay."""
    found, level, purity = steady(phone.heard).tone()
    assert abs(found - AGENT) < 4, proxy.log
    assert abs(level - LEVEL) < 1
    assert purity > 25
    assert steady(phone.heard).has(CALLER) < -45
    [heard] = gateway.notes("heard")
    assert abs(heard["hertz"] - CALLER) < 4
    assert abs(heard["level"] - LEVEL) < 1
    assert f"c=IN IP4 {proxy.media}" in phone.log
    assert f"c=IN IP4 {gateway.host}" not in phone.log


async def test_a_telephone_calls_through_the_proxy(tmp_path: Path) -> None:
    async with office(tmp_path) as (gateway, proxy, phone):
        await phone.call(f"sip:{NUMBER}@{proxy.host}")
        await asyncio.sleep(1.8)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert (record["status"], record["reason"], record["faults"]) == ("completed", "caller_hangup", 0)
        talked(gateway, proxy, phone)


async def test_a_held_call_goes_on(tmp_path: Path) -> None:
    async with office(tmp_path, seconds=10) as (gateway, proxy, phone):
        await phone.call(f"sip:{NUMBER}@{proxy.host}")
        await asyncio.sleep(1.5)
        await phone.order("hold")
        await asyncio.sleep(0.7)
        await phone.order("resume")
        await asyncio.sleep(1.2)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert (record["status"], record["reason"]) == ("completed", "caller_hangup")
        found, _, _ = phone.heard.part(-0.8, -0.2).tone()
        assert abs(found - AGENT) < 4


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_of_ours_proves_its_password_to_the_proxy(tmp_path: Path, transport: str) -> None:
    login = {"username": "gateway", "password": PASSWORD}
    async with office(tmp_path, transport=transport, **login) as (gateway, proxy, phone):
        placed = await gateway.place("alice")
        await phone.until("CALL_ESTABLISHED")
        await asyncio.sleep(1.8)
        assert (await gateway.api("DELETE", f"/v1/calls/{placed['id']}")).status_code == 204
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert (record["status"], record["direction"]) == ("completed", "outbound"), gateway.story()
        talked(gateway, proxy, phone)


async def test_a_wrong_password_places_no_call(tmp_path: Path) -> None:
    async with office(tmp_path, username="gateway", password="wrong") as (gateway, _, phone):
        await gateway.place("alice")
        [record] = await gateway.over()
        assert record["status"] == "unanswered", record
        assert record["detail"].startswith("407 "), record
        assert not [event for event in phone.events if event["type"].startswith("CALL")]


async def test_an_extension_registers_and_is_called(tmp_path: Path) -> None:
    async with office(tmp_path, extension=True) as (gateway, proxy, phone):
        await gateway.until(lambda: "registered" in gateway.log, "the registration")
        await phone.call(f"sip:{EXTENSION}@{proxy.host}")
        await asyncio.sleep(1.8)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
        [record] = await gateway.over()
        assert (record["status"], record["reason"]) == ("completed", "caller_hangup"), gateway.story()
        talked(gateway, proxy, phone)
        placed = await gateway.place("alice")  # and it calls as that extension
        await phone.until("CALL_ESTABLISHED", count=2)
        await gateway.api("DELETE", f"/v1/calls/{placed['id']}")
        _, record = await gateway.over(2)
        assert (record["status"], record["direction"]) == ("completed", "outbound"), gateway.story()
        await gateway.stop()
        await phone.order("dial", f"sip:{EXTENSION}@{proxy.host}")
        closed = await phone.until("CALL_CLOSED", count=3)
        assert "404" in closed["param"], closed  # it took its registration back
