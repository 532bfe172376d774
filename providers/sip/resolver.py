"""Where a SIP address leads: transport, addresses and ports, in the order to try them (RFC 3263, RFC 2782).

    hops = await Resolver().resolve(Uri.parse("sip:trunk.example.net"))

* An IP address needs no lookup. A name with a port is looked up as a host. A name with `;transport=` and no port
  has its SRV records asked for that transport. A bare name is asked for NAPTR, then for SRV of every transport.
* Where DNS has neither, the name is a host at the default port, 5060 or 5061.
* The hosts of SRV records come by priority, and within one by chance in proportion to their weights. Whoever sends
  tries the hops in order and goes on to the next on a timeout, a transport error or a 503 (RFC 3263 section 4.3).
* A certificate must carry the name that was asked for, not that of an SRV record, which anybody on the way could have
  written (RFC 5922 section 4).
* A host that DNS does not know is looked for in the system's own table (`/etc/hosts`).

The first half of this module decides and does no I/O; `Resolver` asks, by dnspython (`pip install 'offhook[sip]'`).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.uri import Uri

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver

MAX_HOPS: Final = 16
"""Addresses of one name that are tried: more would take longer than any caller waits."""

MAX_RECORDS: Final = 32
"""Records of one answer that are looked at."""

MAX_CACHED: Final = 1000
"""Answers kept for as long as they say."""

TIMEOUT: Final = 4.0
"""Seconds for one question, all name servers and repeats together: a caller waits meanwhile."""

Family = Literal[4, 6]


class Unresolvable(Exception):
    """A name leads nowhere. `temporary` tells a name server that does not answer from a name that does not exist."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class Srv(NamedTuple):
    """An SRV record."""

    priority: int
    weight: int
    port: int
    host: str


class Naptr(NamedTuple):
    """A NAPTR record, what of it matters here."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Service:
    """SRV records to ask for, and what speaks there."""

    transport: Transport
    name: str
    "Such as `_sip._udp.example.net`."


# --- what to ask, and in which order (no I/O) ----------------------------------------------

_PREFIXES: Final[dict[Transport, str]] = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}
_SERVICES: Final[dict[str, Transport]] = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}


def default_port(transport: Transport) -> int:
    """RFC 3261 section 19.1.2."""
    return 5061 if transport == "tls" else 5060


def wanted_transport(uri: Uri) -> Transport | None:
    """The transport that a URI leaves no choice about; None: DNS decides. Raises Unresolvable for an unknown one."""
    named = uri.params.get("transport", "").lower()
    if named not in ("", "udp", "tcp", "tls"):
        raise Unresolvable(f"transport {named[:20]!r} is none of udp, tcp, tls", temporary=False)
    if uri.scheme == "sips":
        return "tls"
    return cast(Transport, named) if named else None


def services(host: str, transport: Transport | None, *, secure: bool, supported: Sequence[Transport]) -> list[Service]:
    """The SRV names to ask for where no NAPTR says so, in our order."""
    only: Transport | None = "tls" if secure else transport
    return [Service(one, f"{_PREFIXES[one]}{host}") for one in ([only] if only else supported)]


def order_naptr(records: Iterable[Naptr], *, secure: bool, supported: Sequence[Transport]) -> list[Service]:
    """The SRV names that NAPTR records give, best first; those for services that we do not speak are left out."""
    found = []
    for record in sorted(records, key=lambda it: (it.order, it.preference)):
        transport = _SERVICES.get(record.service.upper())
        if (
            transport is not None
            and transport in supported
            and record.flags.lower() == "s"
            and (not secure or transport == "tls")
        ):
            found.append(Service(transport, record.replacement.rstrip(".")))
    return found


def order_srv(records: Iterable[Srv], below: Callable[[int], int] = secrets.randbelow) -> list[Srv]:
    """SRV records in the order to try them: by priority, then by chance in proportion to weight (RFC 2782).

    Args:
        below: gives a random number from 0 to its argument, exclusive.
    """
    ordered: list[Srv] = []
    groups: dict[int, list[Srv]] = {}
    for record in records:
        if record.host not in ("", "."):  # a lone dot says that there is no such service
            groups.setdefault(record.priority, []).append(record)
    for priority in sorted(groups):
        # records of weight 0 come first in the list, which leaves them a small chance
        left = sorted(groups[priority], key=lambda it: it.weight)
        while left:
            point = below(sum(record.weight for record in left) + 1)
            for index, record in enumerate(left):
                point -= record.weight
                if point <= 0:
                    ordered.append(left.pop(index))
                    break
    return ordered


# --- asking ----------------------------------------------------------------------------------


class Resolver:
    """Asks DNS. One for the whole gateway: it keeps answers as long as they say.

    Args:
        nameservers: addresses to ask; unset: those of the system.
        port: of the name servers.
        timeout: seconds for one question.
        families: of addresses, in the order of preference; leave out what no socket of ours can reach.
        transports: those we can send by, in the order of preference where DNS has none.
        below: see `order_srv`.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[str] = (),
        port: int = 53,
        timeout: float = TIMEOUT,
        families: Sequence[Family] = (4, 6),
        transports: Sequence[Transport] = ("udp", "tcp", "tls"),
        below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._nameservers, self._port, self._timeout = list(nameservers), port, timeout
        self._families, self._transports, self._below = tuple(families), tuple(transports), below
        self._dns: _Dns | None = None
        self._loading = asyncio.Lock()

    async def resolve(self, uri: Uri) -> list[Hop]:
        """Find where requests to a SIP address go, best first, at least one and at most MAX_HOPS.

        Raises:
            Unresolvable: it leads nowhere, or nothing there is of a family and transport we have.
            RuntimeError: a name is to be looked up, and dnspython is missing.
        """
        transport = wanted_transport(uri)
        host = (uri.params.get("maddr") or uri.host).removeprefix("[").removesuffix("]")
        if not host:
            raise Unresolvable("the address names no host", temporary=False)
        secure = uri.scheme == "sips"
        if is_ip(host):
            spoken = transport or "udp"
            return [Hop(spoken, host, uri.port or default_port(spoken), server_name=_name(spoken, uri.host))]
        host = host.rstrip(".")
        if uri.port or "." not in host:  # a name without a dot is that of a machine nearby, and in no zone
            spoken = transport or "udp"
            return await self._hosts([(spoken, host, uri.port or default_port(spoken))], uri.host)
        asked: list[Service] = []
        if transport is None or secure:
            asked = order_naptr(await self._naptr(host), secure=secure, supported=self._transports)
        if not asked:
            asked = services(host, transport, secure=secure, supported=self._transports)
        answers = await asyncio.gather(*(self._srv(service.name) for service in asked))
        found = [
            (service.transport, record.host, record.port)
            for service, records in zip(asked, answers, strict=True)
            for record in order_srv(records, self._below)
        ]
        if not found:
            if any(answers):  # a record whose target is a dot (RFC 2782)
                raise Unresolvable(f"{host} says that it takes no calls by {transport or 'SIP'}", temporary=False)
            spoken = transport or "udp"
            found = [(spoken, host, default_port(spoken))]
        return await self._hosts(found, uri.host)

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host, by our order of families. Raises Unresolvable."""
        if is_ip(host):
            return [host]
        fault = Unresolvable(f"{host} has no address of {self._wanted}", temporary=False)
        found: list[str] = []
        if "." in host:
            kinds = ["A" if family == 4 else "AAAA" for family in self._families]
            for answer in await asyncio.gather(*(self._ask(host, kind) for kind in kinds)):
                if isinstance(answer, Unresolvable):
                    fault = answer
                else:
                    found += [str(record.address) for record in answer[:MAX_RECORDS]]
        found = found or await self._from_system(host)
        if not found:
            raise fault
        return found

    async def _hosts(self, targets: Sequence[tuple[Transport, str, int]], name: str) -> list[Hop]:
        """Every address of every target, in order. A target that has none is left out."""
        names = list(dict.fromkeys(host for _, host, _ in targets))[:MAX_HOPS]
        known = dict(zip(names, await asyncio.gather(*map(self._addresses_or_fault, names)), strict=True))
        hops: dict[Hop, None] = {}
        fault = Unresolvable(f"{name} has no address of {self._wanted}", temporary=False)
        for transport, host, port in targets:
            answer = known.get(host, [])
            if isinstance(answer, Unresolvable):
                fault = answer
            else:
                hops |= {Hop(transport, it, port, server_name=_name(transport, name)): None for it in answer}
        if not hops:
            raise fault
        return list(hops)[:MAX_HOPS]

    async def _addresses_or_fault(self, host: str) -> list[str] | Unresolvable:
        try:
            return await self.addresses(host)
        except Unresolvable as error:
            return error

    # Some name servers, those of containers and home routers among them, fail on NAPTR and SRV instead of saying
    # that there are none. A host of the name may be there all the same; whether it is, is asked next.

    async def _srv(self, name: str) -> list[Srv]:
        records = await self._ask(name, "SRV", self._timeout / 2)
        if isinstance(records, Unresolvable):
            return []
        return [
            Srv(it.priority, it.weight, it.port, it.target.to_text(omit_final_dot=True)) for it in records[:MAX_RECORDS]
        ]

    async def _naptr(self, name: str) -> list[Naptr]:
        records = await self._ask(name, "NAPTR", self._timeout / 2)
        if isinstance(records, Unresolvable):
            return []
        return [
            Naptr(it.order, it.preference, _text(it.flags), _text(it.service), it.replacement.to_text())
            for it in records[:MAX_RECORDS]
        ]

    async def _ask(self, name: str, kind: str, timeout: float = 0) -> list[Any] | Unresolvable:
        """Records of one kind, none where there are none; or why nobody can say."""
        if self._dns is None:
            async with self._loading:
                if self._dns is None:  # importing and /etc/resolv.conf are disk
                    self._dns = await asyncio.to_thread(_load, self._nameservers, self._port)
        return await self._dns.ask(name, kind, timeout or self._timeout)

    async def _from_system(self, host: str) -> list[str]:
        """What the system's own table says."""
        try:
            async with asyncio.timeout(self._timeout):
                rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError):  # UnicodeError: a label is too long
            return []
        found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        return [one for family in self._families for one in found if (":" in one) == (family == 6)]

    @property
    def _wanted(self) -> str:
        return " or ".join(f"IPv{family}" for family in self._families)


class _Dns:
    """dnspython, with its errors made ours."""

    def __init__(self, resolver: DnsResolver | None) -> None:
        self._resolver = resolver

    async def ask(self, name: str, kind: str, timeout: float) -> list[Any] | Unresolvable:
        import dns.exception
        import dns.resolver

        if self._resolver is None:
            return Unresolvable("this machine has no name server (/etc/resolv.conf)", temporary=True)
        try:
            answer = await self._resolver.resolve(name, kind, lifetime=timeout, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.resolver.LifetimeTimeout, dns.resolver.NoNameservers) as error:
            why = "in time" if isinstance(error, dns.resolver.LifetimeTimeout) else "properly"
            return Unresolvable(f"no name server answered {why} for {name} {kind}", temporary=True)
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            return Unresolvable(f"{name} {kind} cannot be looked up: {type(error).__name__}", temporary=False)
        return list(answer) if answer.rrset is not None else []


def _load(nameservers: Sequence[str], port: int) -> _Dns:
    """Raises RuntimeError when dnspython is missing."""
    try:
        import dns.asyncresolver
        import dns.resolver
    except ModuleNotFoundError as error:
        raise RuntimeError("names of SIP servers need dnspython; run: pip install 'offhook[sip]'") from error
    try:
        resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration:
        return _Dns(None)
    if nameservers:
        resolver.nameservers = list(nameservers)
        resolver.port = port
    resolver.cache = dns.resolver.LRUCache(MAX_CACHED)
    return _Dns(resolver)


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")


def _name(transport: Transport, host: str) -> str:
    """What the certificate must carry."""
    return host if transport == "tls" and not is_ip(host) else ""


def is_ip(host: str) -> bool:
    """Whether it is an address, which needs no lookup, and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
