"""RFC 3263 against a name server on loopback that speaks DNS."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.resolver import (
    MAX_HOPS,
    Naptr,
    Resolver,
    Srv,
    Unresolvable,
    default_port,
    order_naptr,
    order_srv,
    services,
    wanted_transport,
)
from offhook.providers.sip.uri import Uri

ALL = ("udp", "tcp", "tls")

ZONE = """
trunk.example.net. NAPTR 10 50 "s" "SIPS+D2T" "" _sips._tcp.trunk.example.net.
trunk.example.net. NAPTR 20 50 "s" "SIP+D2U" "" _sip._udp.trunk.example.net.
_sips._tcp.trunk.example.net. SRV 1 1 5061 a.example.net.
_sip._udp.trunk.example.net. SRV 2 1 5062 b.example.net.
_sip._udp.trunk.example.net. SRV 1 1 5060 a.example.net.
a.example.net. A 192.0.2.1
a.example.net. AAAA 2001:db8::1
b.example.net. A 192.0.2.2
srv.example.net. A 192.0.2.9
_sip._udp.srv.example.net. SRV 1 1 5070 gone.example.net.
_sip._tcp.srv.example.net. SRV 1 1 5071 b.example.net.
plain.example.net. A 192.0.2.3
six.example.net. AAAA 2001:db8::6
alias.example.net. CNAME plain.example.net.
shut.example.net. A 192.0.2.4
_sip._udp.shut.example.net. SRV 0 0 0 .
"""


class NameServer(asyncio.DatagramProtocol):
    """Answers from a zone; what it was asked is kept."""

    def __init__(self, zone: str) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        "Names or kinds that get SERVFAIL."
        self.mute = False
        self._records: dict[tuple[str, str], list[str]] = {}
        for line in zone.strip().splitlines():
            name, kind, rest = line.split(None, 2)
            self._records.setdefault((name, kind), []).append(rest)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        if self.mute:
            return
        response = dns.message.make_response(query)
        if name in self.broken or kind in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif target := self._records.get((name, "CNAME")):
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *target))
            if found := self._records.get((target[0], kind)):
                response.answer.append(dns.rrset.from_text(target[0], 60, "IN", kind, *found))
        elif found := self._records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *found))
        elif not any(known == name for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server(zone: str = ZONE) -> AsyncIterator[tuple[NameServer, Callable[..., Resolver]]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(zone), ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]

    def resolver(**settings: object) -> Resolver:
        return Resolver(nameservers=["127.0.0.1"], port=port, below=lambda most: 0, **settings)  # type: ignore[arg-type]

    try:
        yield server, resolver
    finally:
        transport.close()


async def resolve(text: str, **settings: object) -> list[Hop]:
    async with name_server() as (_, resolver):
        return await resolver(**settings).resolve(Uri.parse(text))


# --- deciding ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "transport"),
    [
        ("sip:a.example.net", None),
        ("sip:a.example.net;transport=TCP", "tcp"),
        ("sip:a.example.net;transport=tls", "tls"),
        ("sips:a.example.net", "tls"),
        ("sips:a.example.net;transport=tcp", "tls"),
    ],
)
def test_transport_of_a_uri(uri: str, transport: str | None) -> None:
    assert wanted_transport(Uri.parse(uri)) == transport


def test_unknown_transport_is_named() -> None:
    with pytest.raises(Unresolvable, match="'sctp' is none of udp, tcp, tls") as caught:
        wanted_transport(Uri.parse("sip:a.example.net;transport=sctp"))
    assert not caught.value.temporary


def test_default_ports() -> None:
    assert [default_port(one) for one in ALL] == [5060, 5060, 5061]  # type: ignore[arg-type]


def test_services_without_naptr() -> None:
    def names(transport: str | None, secure: bool) -> list[str]:
        return [it.name for it in services("x.net", transport, secure=secure, supported=("udp", "tls"))]  # type: ignore[arg-type]

    assert names(None, False) == ["_sip._udp.x.net", "_sips._tcp.x.net"]
    assert names("tcp", False) == ["_sip._tcp.x.net"]
    assert names("tls", False) == names(None, True) == ["_sips._tcp.x.net"]


def test_naptr_order_and_what_is_left_out() -> None:
    records = [
        Naptr(30, 1, "s", "SIP+D2T", "_sip._tcp.x.net."),
        Naptr(10, 9, "S", "sip+d2u", "_sip._udp.x.net."),
        Naptr(10, 1, "s", "SIPS+D2T", "_sips._tcp.x.net."),
        Naptr(5, 1, "s", "SIP+D2S", "_sip._sctp.x.net."),
        Naptr(5, 1, "u", "E2U+sip", "."),
        Naptr(6, 1, "a", "SIP+D2U", "a.x.net."),
    ]
    found = order_naptr(records, secure=False, supported=ALL)  # type: ignore[arg-type]
    assert [(it.transport, it.name) for it in found] == [
        ("tls", "_sips._tcp.x.net"),
        ("udp", "_sip._udp.x.net"),
        ("tcp", "_sip._tcp.x.net"),
    ]
    only = order_naptr(records, secure=True, supported=ALL)  # type: ignore[arg-type]
    assert [it.transport for it in only] == ["tls"]


def test_srv_priority_comes_before_weight() -> None:
    records = [Srv(20, 100, 5060, "late"), Srv(10, 0, 5060, "first"), Srv(10, 0, 5060, "."), Srv(30, 1, 5060, "last")]
    assert [record.host for record in order_srv(records)] == ["first", "late", "last"]


def test_srv_weights_share_the_calls() -> None:
    random = Random(7)
    records = [Srv(1, 75, 1, "three"), Srv(1, 25, 1, "one"), Srv(1, 0, 1, "spare")]
    first = Counter(order_srv(records, random.randrange)[0].host for _ in range(4000))
    assert 2850 < first["three"] < 3150
    assert 850 < first["one"] < 1150
    assert 0 < first["spare"] < 120
    assert sorted(record.host for record in order_srv(records, random.randrange)) == ["one", "spare", "three"]


# --- asking ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "hop"),
    [
        ("sip:192.0.2.7", Hop("udp", "192.0.2.7", 5060)),
        ("sip:192.0.2.7:5080;transport=tcp", Hop("tcp", "192.0.2.7", 5080)),
        ("sips:192.0.2.7", Hop("tls", "192.0.2.7", 5061)),
        ("sip:[2001:db8::7]", Hop("udp", "2001:db8::7", 5060)),
        (
            "sip:trunk.example.net;maddr=192.0.2.8;transport=tls",
            Hop("tls", "192.0.2.8", 5061, "", 0, "trunk.example.net"),
        ),
    ],
)
async def test_addresses_need_no_lookup(uri: str, hop: Hop) -> None:
    assert await Resolver(nameservers=["127.0.0.1"], port=9).resolve(Uri.parse(uri)) == [hop]


async def test_naptr_then_srv_then_every_address() -> None:
    tls = "trunk.example.net"  # the certificate carries the name asked for, not a.example.net
    assert await resolve("sip:trunk.example.net") == [
        Hop("tls", "192.0.2.1", 5061, server_name=tls),
        Hop("tls", "2001:db8::1", 5061, server_name=tls),
        Hop("udp", "192.0.2.1", 5060),
        Hop("udp", "2001:db8::1", 5060),
        Hop("udp", "192.0.2.2", 5062),
    ]


async def test_addresses_of_a_host() -> None:
    async with name_server() as (_, resolver):
        both = resolver(families=(6, 4))
        assert await both.addresses("a.example.net") == ["2001:db8::1", "192.0.2.1"]
        assert await both.addresses("192.0.2.77") == ["192.0.2.77"]


async def test_families_and_transports_that_we_have() -> None:
    hops = await resolve("sip:trunk.example.net", families=(6,), transports=("udp", "tcp"))
    assert hops == [Hop("udp", "2001:db8::1", 5060)]
    with pytest.raises(Unresolvable, match="no address of IPv4"):
        await resolve("sip:six.example.net:5060", families=(4,))


async def test_named_transport_asks_for_its_srv_only() -> None:
    async with name_server() as (server, resolver):
        hops = await resolver().resolve(Uri.parse("sip:trunk.example.net;transport=udp"))
        assert [(hop.host, hop.port) for hop in hops if ":" not in hop.host] == [
            ("192.0.2.1", 5060),
            ("192.0.2.2", 5062),
        ]
        assert server.asked[0] == "_sip._udp.trunk.example.net. SRV"
        assert not any("NAPTR" in question for question in server.asked)


async def test_a_port_means_a_host() -> None:
    async with name_server() as (server, resolver):
        assert await resolver(families=(4,)).resolve(Uri.parse("sip:alias.example.net:5070")) == [
            Hop("udp", "192.0.2.3", 5070)
        ]
        assert server.asked == ["alias.example.net. A"]


async def test_neither_naptr_nor_srv() -> None:
    assert await resolve("sip:plain.example.net") == [Hop("udp", "192.0.2.3", 5060)]
    assert await resolve("sips:plain.example.net") == [Hop("tls", "192.0.2.3", 5061, server_name="plain.example.net")]


async def test_a_target_that_is_gone_is_left_out() -> None:
    assert await resolve("sip:srv.example.net") == [Hop("tcp", "192.0.2.2", 5071)]


async def test_a_service_that_there_decidedly_is_not() -> None:
    with pytest.raises(Unresolvable, match="takes no calls by udp"):
        await resolve("sip:shut.example.net;transport=udp")
    assert await resolve("sip:shut.example.net;transport=tcp") == [Hop("tcp", "192.0.2.4", 5060)]


async def test_name_servers_that_fail_on_naptr_and_srv() -> None:
    async with name_server() as (server, resolver):
        server.broken = {"NAPTR", "SRV"}
        assert await resolver().resolve(Uri.parse("sip:plain.example.net")) == [Hop("udp", "192.0.2.3", 5060)]


async def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(Unresolvable, match=r"nowhere\.invalid has no address") as caught:
        await resolve("sip:nowhere.invalid:5060")
    assert not caught.value.temporary


async def test_a_name_server_that_fails_or_is_mute_is_temporary() -> None:
    async with name_server() as (server, resolver):
        server.broken = {"plain.invalid."}
        with pytest.raises(Unresolvable, match="no name server answered properly") as caught:
            await resolver().resolve(Uri.parse("sip:plain.invalid:5060"))
        assert caught.value.temporary
        server.mute = True
        with pytest.raises(Unresolvable, match="no name server answered in time") as caught:
            await resolver(timeout=0.05).resolve(Uri.parse("sip:other.invalid:5060"))
        assert caught.value.temporary


async def test_answers_are_kept() -> None:
    async with name_server() as (server, resolver):
        asking = resolver()
        uri = Uri.parse("sip:trunk.example.net")
        first = await asking.resolve(uri)
        questions = len(server.asked)
        assert await asking.resolve(uri) == first
        assert len(server.asked) == questions


async def test_a_thousand_addresses_are_not_tried() -> None:
    zone = "\n".join(f"many.example.net. A 10.0.{index // 250}.{index % 250}" for index in range(28))
    async with name_server(zone) as (_, resolver):
        assert len(await resolver().resolve(Uri.parse("sip:many.example.net:5060"))) == MAX_HOPS


async def test_machines_nearby_come_from_the_system() -> None:
    async with name_server() as (server, resolver):
        assert await resolver(families=(4,)).resolve(Uri.parse("sip:localhost")) == [Hop("udp", "127.0.0.1", 5060)]
        assert server.asked == []


async def test_names_that_cannot_be_looked_up() -> None:
    async with name_server() as (_, resolver):
        with pytest.raises(Unresolvable):
            await resolver().resolve(Uri("sip", host="a" * 80 + ".example.net"))
        with pytest.raises(Unresolvable, match="names no host"):
            await resolver().resolve(Uri("tel", user="+15550100"))


async def test_without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(RuntimeError, match=r"pip install 'offhook\[sip\]'"):
        await Resolver().resolve(Uri.parse("sip:trunk.example.net"))


async def test_the_name_servers_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    import dns.asyncresolver

    made: list[bool] = []
    real = dns.asyncresolver.Resolver

    def configured(*, configure: bool) -> dns.asyncresolver.Resolver:
        made.append(configure)
        return real(configure=False)  # one without name servers, so that none is asked

    monkeypatch.setattr(dns.asyncresolver, "Resolver", configured)
    with pytest.raises(Unresolvable):
        await Resolver().resolve(Uri.parse("sip:trunk.invalid;transport=udp"))
    assert made == [True]


async def test_without_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import dns.asyncresolver
    import dns.resolver

    def none(*, configure: bool) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.asyncresolver, "Resolver", none)
    with pytest.raises(Unresolvable, match="no name server"):
        await Resolver().resolve(Uri.parse("sip:trunk.invalid"))
