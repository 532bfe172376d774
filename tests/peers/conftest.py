"""One gateway for all calls of SIPp: the trunks tell its tests apart by address, the routes by number."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SipGateway, loopback, sip_gateway

OUT: Final = 100
"""The first address of those that the trunks `out0`, `out1` … call, at SIPp's usual port."""

INBOUND: Final[dict[int, dict[str, Any]]] = {
    2: {"attributes": {"account": "X-Account-Id"}, "accept_refer": ["+1555*"]},
    3: {},
    4: {"max_calls": 1},
    5: {"transfer": "attended"},
    6: {"early_media": True, "reliable_provisional": "required"},
}
"""Last part of the trunk's name and second part of its address → its settings."""

SLOW: Final = "+15551"
CLERK: Final = "+15552"
RECORDED: Final = "+15553"
"""Beginnings of the numbers of those agents; every other number is an echo's."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SipGateway]:
    """A gateway on UDP and TCP, up for all tests."""
    folder, port = tmp_path_factory.mktemp("shared"), free_port()
    trunks: dict[str, dict[str, Any]] = {}
    for which, settings in INBOUND.items():
        target = f"sip:{loopback(port, 10 + which)}:5070"
        trunks[f"in{which}"] = {"sources": [loopback(port, which)], "proxies": [target], **settings}
    for index in range(16):
        proxies = [f"sip:{loopback(port, OUT + index)}:5070"]
        transport = ";transport=tcp" if index == 1 else ""
        if index == 2:  # the first of two does not take calls
            proxies.append(f"sip:{loopback(port, OUT + 50)}:5070")
        trunks[f"out{index}"] = {
            "proxies": [proxy + transport for proxy in proxies],
            "numbers": [f"+155501{index:02}"],
            "username": "offhook",
            "password": "s3cret",
        }
    clerk = "sipp_agents:Clerk"
    agents = {
        "agent": {"kind": "echo"},
        "slow": {"kind": clerk, "isolation": "host", "ring": 1.0},
        "clerk": {"kind": clerk, "isolation": "host", "to": "+15559999"},
    }
    routes = [
        {"number": "*", "agent": "agent"},
        {"number": f"{SLOW}*", "agent": "slow", "ring_budget": 10},
        {"number": f"{CLERK}*", "agent": "clerk", "allow_transfer": ["*"]},
        {"number": f"{RECORDED}*", "agent": "agent", "record": True},
    ]
    with asyncio.Runner() as runner:
        context = sip_gateway(
            folder,
            trunks=trunks,
            transports=("udp", "tcp"),
            http_port=port,
            pythonpath=Path(__file__).parent,
            agents=agents,
            routes=routes,
        )
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))
