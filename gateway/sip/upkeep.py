"""What a trunk needs between calls: registrations kept up, targets pinged, circuits that know which are down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.ping import DOWN, Ping
from offhook.providers.sip.registration import Registration
from offhook.providers.sip.resolver import Unresolvable
from offhook.providers.sip.uri import Uri

if TYPE_CHECKING:
    from offhook.gateway.sip.service import SipService
    from offhook.providers.sip.events import RequestDone
    from offhook.providers.sip.message import Headers, Request
    from offhook.providers.sip.settings import TrunkSettings

log = structlog.get_logger("offhook.gateway.sip")

LONGEST_NAP: Final = 30.0
"""Seconds after which a trunk's names are looked up again: addresses may come and go."""

SHORTEST_NAP: Final = 0.05

GOODBYE: Final = 1.0
"""Seconds that taking the registrations back may hold up the end of the process."""

NO_WAY: Final = 503
"""Stands for a request that could not be sent."""

MAX_TARGETS: Final = 1000
"""Addresses whose health is remembered."""

Target = tuple[str, str, int]


class Upkeep:
    """Of all trunks. Lives on the event loop; one task a trunk that registers, one a trunk that pings."""

    def __init__(self, service: SipService) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._pings: dict[Target, Ping] = {}
        self._registrations: dict[str, Registration] = {}
        self._waiting: dict[int, asyncio.Future[tuple[int, Headers | None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to register and to ping."""
        for name, trunk in self._service.settings.trunks.items():
            if trunk.register_with is not None:
                self._tasks.append(asyncio.create_task(self._keep_registered(name, trunk), name=f"sip-register-{name}"))
            if trunk.options_ping:
                self._tasks.append(asyncio.create_task(self._keep_pinging(name, trunk), name=f"sip-ping-{name}"))

    async def close(self) -> None:
        """Stop, and take the registrations back."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        bound = [(name, it) for name, it in self._registrations.items() if it.registered]
        if bound:
            goodbyes = [asyncio.create_task(self._unregister(name, it), name=f"sip-bye-{name}") for name, it in bound]
            _, late = await asyncio.wait(goodbyes, timeout=GOODBYE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    @property
    def registered(self) -> int:
        """Trunks that are registered now."""
        return sum(it.registered for it in self._registrations.values())

    @property
    def down(self) -> int:
        """Targets that do not take calls now."""
        return sum(not ping.up for ping in self._pings.values())

    # --- circuits

    def up(self, hop: Hop) -> bool:
        """Whether calls may go there."""
        ping = self._pings.get(hop[:3])
        return ping is None or ping.up

    def report(self, name: str, hop: Hop, status: int) -> None:
        """What a call there came to: its final status."""
        ping, up = self._ping(name, hop), self.up(hop)
        ping.report(status not in DOWN, self._loop.time())
        self._told(name, hop, up)

    def _ping(self, name: str, hop: Hop) -> Ping:
        key = hop[:3]
        ping = self._pings.get(key)
        if ping is None:
            if len(self._pings) >= MAX_TARGETS:
                self._pings.pop(next(iter(self._pings)))
            interval = self._service.settings.trunks[name].options_ping
            ping = self._pings[key] = Ping(interval, self._loop.time())
        return ping

    def _told(self, name: str, hop: Hop, was_up: bool) -> None:
        if (up := self.up(hop)) != was_up:
            say = log.info if up else log.error
            word = "target is back" if up else "target is down; calls go elsewhere"
            say(word, trunk=name, transport=hop.transport, host=hop.host, port=hop.port)

    # --- requests

    def done(self, event: RequestDone) -> None:
        """The final answer to one of our requests."""
        waiting = self._waiting.pop(event.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result((event.status, event.headers))

    async def _answer(self, id: int) -> tuple[int, Headers | None]:
        self._waiting[id] = self._loop.create_future()
        self._service.flush()
        try:
            return await self._waiting[id]
        finally:
            self._waiting.pop(id, None)

    # --- pings

    async def _keep_pinging(self, name: str, trunk: TrunkSettings) -> None:
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                nap = LONGEST_NAP
                for proxy in self._service.targets_of(trunk):
                    for hop in await self._hops(name, proxy):
                        ping = self._ping(name, hop)
                        if ping.tick(self._loop.time()):
                            task = asyncio.create_task(self._ask(name, proxy, hop, ping), name=f"sip-options-{name}")
                            under_way.add(task)
                            task.add_done_callback(under_way.discard)
                        nap = min(nap, (ping.next_timer() or self._loop.time() + 1.0) - self._loop.time())
                await asyncio.sleep(max(SHORTEST_NAP, nap))
        finally:
            for task in under_way:
                task.cancel()
            if under_way:
                await asyncio.wait(under_way)

    async def _ask(self, name: str, proxy: str, hop: Hop, ping: Ping) -> None:
        was_up = ping.up
        status, _ = await self._answer(self._service.options(name, Uri.parse(proxy), hop))
        ping.answered(status, self._loop.time())
        self._told(name, hop, was_up)

    async def _hops(self, name: str, address: str) -> Sequence[Hop]:
        try:
            return await self._service.hops(name, address)
        except Unresolvable as error:
            log.warning("name leads nowhere", trunk=name, address=address, error=str(error))
            return ()

    # --- registrations

    async def _keep_registered(self, name: str, trunk: TrunkSettings) -> None:
        assert trunk.register_with is not None
        user = trunk.register_with.user or trunk.username
        headers = [("User-Agent", self._service.settings.user_agent)] if self._service.settings.user_agent else []
        if trunk.outbound_proxy:
            headers.append(("Route", f"<{Uri.parse(trunk.outbound_proxy).with_params(lr='')}>"))
        registration = self._registrations[name] = Registration(
            trunk.register_with.registrars,
            user,
            self._loop.time(),
            domain=trunk.from_domain,
            username=trunk.username,
            password=trunk.password.get_secret_value() if trunk.password is not None else "",
            expires=trunk.register_with.expires,
            headers=headers,
        )
        while True:
            due = registration.next_timer()
            assert due is not None, "nothing is under way here"
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            was = registration.registered, registration.fault
            hops = await self._hops(name, trunk.outbound_proxy or str(registration.registrar))
            contact = self._service.contact(user, hops[0]) if hops else f"sip:{user}@localhost"
            request: Request | None = registration.start(contact, self._loop.time())
            registrar = registration.registrar.host
            await self._send(registration, request, hops)
            if registration.registered:
                self._service.learn(name, [hop.host for hop in hops])
            if (registration.registered, registration.fault) != was:
                self._tell(name, registrar, registration)

    async def _send(self, registration: Registration, request: Request | None, hops: Sequence[Hop]) -> None:
        while request is not None:
            status, headers = NO_WAY, None
            for hop in hops:  # the next address only when nobody answers at this one
                status, headers = await self._answer(self._service.send_request(request, hop))
                if headers is not None:
                    break
            request = registration.answered(status, headers, self._loop.time())

    def _tell(self, name: str, registrar: str, registration: Registration) -> None:
        if registration.registered and not registration.fault:
            seconds = round(registration.until - self._loop.time())
            log.info("registered", trunk=name, registrar=registrar, seconds=seconds)
        else:
            log.error("registration failed", trunk=name, error=registration.fault)

    async def _unregister(self, name: str, registration: Registration) -> None:
        trunk = self._service.settings.trunks[name]
        hops = await self._hops(name, trunk.outbound_proxy or str(registration.registrar))
        await self._send(registration, registration.stop(), hops)
