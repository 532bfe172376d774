"""Where a call of ours over a trunk may go: the trunk's proxies, looked up, those that are down last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.resolver import Resolver, Unresolvable
from offhook.providers.sip.uri import Uri

if TYPE_CHECKING:
    from offhook.gateway.sip.upkeep import Upkeep
    from offhook.providers.sip.settings import SipSettings, SipTls, TrunkSettings

log = structlog.get_logger("offhook.gateway.sip")

MAX_TLS_NAMES: Final = 10_000
"""Names whose trunk is remembered for the sake of its certificates."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send an INVITE to."""

    uri: Uri
    "The Request-URI."
    hop: Hop
    route: tuple[str, ...] = ()
    "Values of Route headers."


class Targets:
    """The ways out of every trunk."""

    def __init__(self, settings: SipSettings, upkeep: Upkeep, resolver: Resolver) -> None:
        self._settings, self._upkeep, self._resolver = settings, upkeep, resolver
        self._tls: dict[str, SipTls] = {}

    @staticmethod
    def proxies(trunk: TrunkSettings) -> list[str]:
        """Where calls of a trunk go; a PBX that we register with takes them, too."""
        return trunk.proxies or (trunk.register_with.registrars if trunk.register_with is not None else [])

    async def hops(self, name: str, address: str) -> list[Hop]:
        """Look an address up; those that answer come first. Raises Unresolvable."""
        found = await self._resolver.resolve(Uri.parse(address))
        tls = self._settings.trunks[name].tls
        if tls is not None and len(self._tls) < MAX_TLS_NAMES:
            self._tls.update({hop.server_name or hop.host: tls for hop in found})
        return sorted(found, key=lambda hop: not self._upkeep.up(hop))

    async def of(self, name: str, number: str) -> AsyncIterator[Target]:
        """Where a call to `number` may go: an address of SIP, or what the trunk's proxies make of a number."""
        trunk = self._settings.trunks[name]
        if number.lower().startswith(("sip:", "sips:")):  # always over the trunk, wherever the address says
            number = Uri.parse(number).user
        route: tuple[str, ...] = ()
        last: list[Target] = []
        for proxy in self.proxies(trunk):
            first = trunk.outbound_proxy or proxy
            if trunk.outbound_proxy:
                route = (f"<{Uri.parse(trunk.outbound_proxy).with_params(lr='')}>",)
            try:
                hops = await self.hops(name, first)
            except Unresolvable as error:
                log.warning("proxy cannot be found", trunk=name, proxy=first, error=str(error))
                continue
            for hop in hops:
                target = Target(replace(Uri.parse(proxy), user=number), hop, route)
                if self._upkeep.up(hop):
                    yield target
                else:
                    last.append(target)
        for target in last:
            yield target

    async def first(self, name: str) -> Hop | None:
        """The way that a call over the trunk is likely to go; None: no proxy can be found."""
        async for target in self.of(name, ""):
            return target.hop
        return None

    def tls_of(self, hop: Hop) -> SipTls | None:
        """The trunk's own certificates for a hop; None: those of all trunks."""
        return self._tls.get(hop.server_name or hop.host)
