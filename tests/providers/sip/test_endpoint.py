"""The shell that drives a user agent on its sockets, with a wire in place of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes.sip_sockets import options

from offhook.providers.sip.endpoint import Endpoint
from offhook.providers.sip.events import RequestArrived, RequestDone, UaEvent
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Message, Request, parse
from offhook.providers.sip.uri import Uri

pytestmark = pytest.mark.virtual_time

PEER = Hop("udp", "192.0.2.9", 5060, "192.0.2.1", 5062)


class Wire:
    """Keeps what is sent."""

    addresses = (("udp", "192.0.2.1", 5060), ("udp", "192.0.2.2", 5062), ("tcp", "192.0.2.1", 5070))

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, data: bytes, hop: Hop) -> None:
        self.sent.append(data.split(b"\r\n", 1)[0].decode())

    async def close(self) -> None:
        self.sent.append("closed")


def endpoint(act: Callable[[Sequence[UaEvent]], None], **settings: Any) -> tuple[Endpoint, Wire]:
    made, wire = Endpoint(act, lambda hop: hop.local, user_agent="x", trusted=lambda host: True, **settings), Wire()
    made.transport = wire  # type: ignore[assignment]
    return made, wire


def a_message() -> Message:
    message = parse(options())
    assert isinstance(message, Request)
    return message


def dismiss(sip: Endpoint, events: Sequence[UaEvent]) -> None:
    """What an owner does that serves nobody."""
    for event in events:
        assert isinstance(event, RequestArrived)
        sip.ua.dismiss(event.tx, 0.0)


async def test_an_answer_leaves_before_anything_else_is_looked_at() -> None:
    sip, wire = endpoint(lambda events: dismiss(sip, events))
    sip.receive(a_message(), PEER)
    assert wire.sent == ["SIP/2.0 200 OK"]
    await sip.close()
    assert wire.sent == ["SIP/2.0 200 OK", "closed"]


async def test_an_answer_leaves_though_its_owner_fails_after_it() -> None:
    def act(events: Sequence[UaEvent]) -> None:
        dismiss(sip, events)
        if events:
            raise LookupError("a mistake")

    sip, wire = endpoint(act)
    with pytest.raises(LookupError, match="a mistake"):
        sip.receive(a_message(), PEER)
    assert wire.sent == ["SIP/2.0 200 OK"]
    await sip.close()


async def test_an_owner_may_flush_while_it_is_told_something() -> None:
    def act(events: Sequence[UaEvent]) -> None:
        dismiss(sip, events)
        sip.flush()

    sip, wire = endpoint(act)
    sip.receive(a_message(), PEER)
    assert wire.sent == ["SIP/2.0 200 OK"]
    await sip.close()


async def test_a_request_is_repeated_until_it_is_given_up_and_nothing_is_left() -> None:
    told: list[UaEvent] = []
    sip, wire = endpoint(told.extend)
    nobody = NameAddr("", Uri("sip", "a", host="192.0.2.9"))
    now = asyncio.get_running_loop().time()
    sip.ua.request("OPTIONS", nobody.uri, PEER, local=nobody, remote=nobody, now=now)
    sip.flush()
    await asyncio.sleep(60)
    assert len(wire.sent) == 11  # RFC 3261 section 17.1.2.2: at once, then after 0.5, 1, 2, 4, 4… s, to 32 s
    assert [event.status for event in told if isinstance(event, RequestDone)] == [408]
    assert len(told) == 1
    await sip.close()


async def test_who_asked_for_it_sees_what_comes_and_what_goes() -> None:
    seen: list[str] = []

    def came(message: Message, hop: Hop) -> None:
        seen.append("came")
        sip.receive(message, hop)

    def leaves(data: bytes, hop: Hop) -> None:
        assert wire.sent == []
        seen.append(data[:11].decode())

    sip, wire = endpoint(lambda events: dismiss(sip, events), on_message=came, on_send=leaves)
    came(a_message(), PEER)
    assert seen == ["came", "SIP/2.0 200"]
    await sip.close()


async def test_calls_itself_by_the_port_that_listens() -> None:
    sip, _ = endpoint(lambda events: None, user="qa")
    assert sip.sent_by(PEER) == "192.0.2.1:5060"
    assert sip.sent_by(PEER._replace(local="203.0.113.5")) == "203.0.113.5:5062"
    assert sip.sent_by(PEER._replace(local="203.0.113.5", local_port=9)) == "203.0.113.5:5060"
    assert sip.contact(PEER) == "sip:qa@192.0.2.1:5060"
    assert sip.contact(PEER._replace(transport="tcp"), "100") == "sip:100@192.0.2.1:5070;transport=tcp"
    assert sip.port(PEER._replace(transport="tls")) == 0
    await sip.close()


async def test_has_no_user_in_its_contact_unless_it_is_given_one() -> None:
    sip, _ = endpoint(lambda events: None)
    assert sip.contact(PEER) == "sip:192.0.2.1:5060"
    await sip.close()
