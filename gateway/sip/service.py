"""SIP of this process: its sockets, its user agent, its trunks, and the legs of its calls.

Everything runs on the event loop: what arrives is handed to the user agent where it was parsed, what the user agent
tells is acted on at once, and what it wants to send leaves before the next thing is looked at. A request of somebody
who is no trunk gets at most a challenge or a 403, and nothing is set aside for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal

import structlog

from offhook.codecs import opus
from offhook.gateway.operator_api import BadOrder, PlaceCall
from offhook.gateway.sip.leg import SipLeg
from offhook.gateway.sip.provider import SipControl, SipProvider
from offhook.gateway.sip.targets import Target, Targets
from offhook.gateway.sip.upkeep import Upkeep
from offhook.providers.base import CarrierUnavailable, IncomingCall
from offhook.providers.rtp.clock import FrameClock
from offhook.providers.rtp.leg import RtpLeg
from offhook.providers.rtp.media import Address
from offhook.providers.rtp.ports import NoPortLeft, PortPool
from offhook.providers.sip.digest import Nonces
from offhook.providers.sip.endpoint import Endpoint
from offhook.providers.sip.events import RequestArrived, RequestDone, UaEvent
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.invite import OVER
from offhook.providers.sip.message import Request
from offhook.providers.sip.resolver import Resolver, is_ip
from offhook.providers.sip.sockets import client_context, server_context
from offhook.providers.sip.trunks import Admitted, Challenge, Doorman, Dropped, Refused, Slot
from offhook.providers.sip.uri import Uri, format_host

if TYPE_CHECKING:
    from offhook.gateway.switchboard import Switchboard
    from offhook.providers.sip.invite import InviteSession
    from offhook.providers.sip.settings import SipSettings, TrunkSettings

log = structlog.get_logger("offhook.gateway.sip")

MAX_USER: Final = 64
"""Characters of a stranger's user name that go to the log."""

_CALLABLE: Final = re.compile(r"[+0-9A-Za-z_.*#-]{1,64}")
"""A number, or an extension of a PBX."""

ACCEPT: Final = ("Accept", "application/sdp")


class SipService:
    """All SIP of one process. Lives on the event loop."""

    def __init__(self, settings: SipSettings, board: Switchboard) -> None:
        self.settings, self.board = settings, board
        self.provider = SipProvider(settings)
        self.provider.control = SipControl(self)
        self._loop = asyncio.get_running_loop()
        self._doorman = Doorman(settings, Nonces(secrets.token_bytes(32)))
        self._sip = Endpoint(
            self._act,
            self._host,
            user_agent=settings.user_agent,
            trusted=self._doorman.knows,
            client_tls=self._client_tls,
        )
        self._upkeep = Upkeep(self)
        families: list[Literal[4, 6]] = [6 if ":" in listen.host else 4 for listen in settings.listen]
        spoken = [listen.transport for listen in settings.listen]
        resolver = Resolver(families=sorted(set(families)), transports=list(dict.fromkeys(spoken)))
        self._targets = Targets(settings, self._upkeep, resolver)
        media = settings.media
        self._ports = PortPool(media.port_low, media.port_high)
        self._clock = FrameClock()
        self._legs: dict[str, SipLeg] = {}
        "By the carrier's id of the call."
        self._sessions: dict[str, SipLeg] = {}
        "By the id of the session."
        self._slots: dict[SipLeg, Slot] = {}
        self._opening: set[str] = set()
        "Call-IDs whose legs are being made."

    # --- life

    async def start(self) -> None:
        """Open the sockets. Raises OSError with the field when one cannot be had."""
        if any("opus" in trunk.codecs for trunk in self.settings.trunks.values()):
            await asyncio.to_thread(opus.warm)
        for index, listen in enumerate(self.settings.listen):
            tls = server_context(self.settings.tls) if listen.transport == "tls" else None
            try:
                port = await self._sip.transport.listen(listen.transport, listen.host, listen.port, tls)
            except OSError as error:
                where = f"{listen.transport} {format_host(listen.host, listen.port)}"
                raise OSError(error.errno, f"sip.listen[{index}]: cannot bind {where}: {error.strerror}") from error
            log.info("SIP is up", transport=listen.transport, host=listen.host, port=port)
        self._upkeep.start()
        metrics = self.board.metrics
        metrics.read("offhook_sip_registered", "Trunks that are registered now.", lambda: self._upkeep.registered)
        metrics.read("offhook_sip_targets_down", "SIP targets that take no calls now.", lambda: self._upkeep.down)
        metrics.read("offhook_sip_late_ticks", "RTP sent late by 20 ms or more.", self._late_ticks, counter=True)

    def _late_ticks(self) -> int:
        return self._clock.late_ticks

    async def close(self) -> None:
        """Hang up what is left, take registrations back, and close the sockets."""
        await self._upkeep.close()
        for leg in tuple(self._legs.values()):
            leg.hang_up()
        await self._sip.close()

    def summary(self) -> Sequence[str]:
        """What listens, for people."""
        return [f"{transport} {format_host(host, port)}" for transport, host, port in self._sip.transport.addresses]

    # --- what the user agent tells

    def flush(self) -> None:
        """Send what waits, act on what that made known, and set the timer."""
        self._sip.flush()

    def _act(self, events: Sequence[UaEvent]) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                self._request(event)
            elif isinstance(event, RequestDone):
                self._upkeep.done(event)
            else:
                leg = self._sessions.get(event.session.id)
                if leg is not None:
                    leg.take_event(event)

    # --- requests that begin something

    def _request(self, event: RequestArrived) -> None:
        tx, request, hop, now = event.tx, event.request, event.hop, self._loop.time()
        verdict = self._doorman.admit(request, hop, now)
        if isinstance(verdict, Dropped | Challenge) and verdict.wrong is not None:
            # Bounded: `limits.failures` of them and the address is blocked.
            word = "address is blocked for its wrong passwords" if isinstance(verdict, Dropped) else "wrong password"
            log.warning(word, user=verdict.wrong[:MAX_USER], host=hop.host, method=request.method)
        if isinstance(verdict, Dropped):
            self._sip.ua.ignore(tx)
            self._count(verdict.why)
        elif isinstance(verdict, Challenge):
            self._sip.ua.respond(tx, 401, headers=verdict.headers, stranger=True, now=now)
            self._count("challenged" if verdict.wrong is None else "password")
        elif isinstance(verdict, Refused):
            headers = _retry(verdict.retry_after)
            # Said once and forgotten: who does not acknowledge it gets no repetitions, and fills no table.
            self._sip.ua.respond(tx, verdict.status, verdict.reason, headers=headers, stranger=True, now=now)
            self._count("refused")
        elif request.method == "INVITE":
            self._invited(event, verdict)
        elif request.method == "OPTIONS" and not self.board.admits:
            headers = _retry(self.settings.limits.retry_after)
            self._sip.ua.respond(tx, 503, "Not taking calls", headers=headers, now=now)
        elif request.method == "OPTIONS" and (refused := self._doorman.refusal(verdict.trunk)) is not None:
            self._sip.ua.respond(tx, refused.status, refused.reason, headers=_retry(refused.retry_after), now=now)
        else:
            self._sip.ua.dismiss(tx, now)

    def _count(self, why: str) -> None:
        self.board.metrics.sip_refused(why)
        log.debug("request not admitted", why=why)

    def _invited(self, event: RequestArrived, admitted: Admitted) -> None:
        slot, now = admitted.slot, self._loop.time()
        assert slot is not None
        if not self.board.admits:
            slot.release()
            headers = _retry(self.settings.limits.retry_after)
            self._sip.ua.respond(event.tx, 503, "Not taking calls", headers=headers, now=now)
            return
        trunk = admitted.settings
        session = self._sip.ua.take_invite(
            event.tx,
            now,
            reliable=trunk.reliable_provisional,
            session_expires=trunk.session_expires,
            min_se=trunk.min_se,
            credentials=_credentials(trunk),
        )
        if session is None:
            slot.release()
            return
        old = session.replaces
        if old is not None:
            slot.release()
            leg = self._sessions.get(old.id)
            if leg is None or leg.name != admitted.trunk:
                session.refuse(481, now=now)
            else:
                leg.replaced_by(session)
            return
        self.board.run(self._take(session, event.hop, admitted, slot), f"sip-{session.request.call_id}")

    async def _take(self, session: InviteSession, hop: Hop, admitted: Admitted, slot: Slot) -> None:
        id = session.request.call_id
        if id in self._legs or id in self._opening:
            slot.release()
            if session.state not in OVER:
                session.refuse(482, "Call-ID is in use", now=self._loop.time())
                self.flush()
            return
        self._opening.add(id)
        try:
            leg = await self._leg(admitted.trunk, hop)
        except (NoPortLeft, OSError, ValueError) as error:  # no address of ours leads there: ValueError
            log.error("no port for a call's audio", error=str(error))
            slot.release()
            if session.state not in OVER:
                self.refuse_busy(session)
            return
        finally:
            self._opening.discard(id)
        self._own(leg, id, session, slot)
        if session.state in OVER:  # it was cancelled before there was a leg to hear of it
            leg.hang_up()
            return
        await leg.take(session)

    def refuse_busy(self, session: InviteSession) -> None:
        """Refuse an INVITE for want of room; the other side may come again, or go elsewhere."""
        headers = _retry(self.settings.limits.retry_after)
        session.refuse(503, "Service Unavailable", headers, now=self._loop.time())
        self.flush()

    # --- legs

    async def _leg(self, trunk: str, hop: Hop) -> SipLeg:
        """A leg with its port. Raises NoPortLeft or OSError."""
        media, local = self.settings.media, self._local(hop)
        rtp = await RtpLeg.open(self._ports, self._clock, media.host or local)
        told = self.settings.public_address
        told = media.public_address or (told if is_ip(told) else "")
        public = (told if not self._is_near(hop) else "") or media.host or local
        return SipLeg(self, trunk, self.settings.trunks[trunk], rtp, Address(public, rtp.local.port))

    def _own(self, leg: SipLeg, id: str, session: InviteSession | None, slot: Slot | None) -> None:
        leg.id = id
        self._legs[id] = leg
        if session is not None:
            self._sessions[session.id] = leg
        if slot is not None:
            self._slots[leg] = slot

    def leg(self, carrier_call_id: str) -> SipLeg | None:
        """The leg of a call that is not over."""
        return self._legs.get(carrier_call_id)

    def moved(self, leg: SipLeg, session: InviteSession) -> None:
        """Another session carries this leg from now on."""
        self._sessions[session.id] = leg

    def ended(self, leg: SipLeg) -> None:
        """A leg let go of everything."""
        if self._legs.get(leg.id) is leg:
            del self._legs[leg.id]
        for id in [id for id, owner in self._sessions.items() if owner is leg]:
            del self._sessions[id]
        if (slot := self._slots.pop(leg, None)) is not None:
            slot.release()

    def hang_up(self, session: InviteSession) -> None:
        """End a session that was replaced."""
        session.hang_up(now=self._loop.time())
        self.flush()

    def host_of(self, session: InviteSession) -> str:
        """The address its signalling comes from."""
        return session.dialog.hop.host

    # --- calls of ours

    async def place(self, order: PlaceCall) -> dict[str, str]:
        """Place a call; gives its ids. Raises BadOrder or CarrierUnavailable."""
        name = order.trunk or self._trunk_for(order.from_number)
        trunk = self.settings.trunks.get(name)
        if trunk is None:
            raise BadOrder(f"trunk: there is no {name!r} under `sip.trunks`")
        from_number = order.from_number or (trunk.numbers[0] if trunk.numbers else "")
        if not from_number:
            raise BadOrder(f"from: say which number calls, or give sip.trunks.{name} its `numbers`")
        if not self._targets.proxies(trunk):
            raise BadOrder(f"trunk: {name} places no calls; give it `proxies`")
        if not _CALLABLE.fullmatch(order.to):
            raise BadOrder(f"to: {order.to[:40]!r} is neither a number nor an extension")
        id = uuid.uuid4().hex
        leg = await self._leg_out(name, id)
        fields = {"trunk": name, **order.attributes}
        incoming = IncomingCall(id, from_number, order.to, "outbound", fields, outbound_id=id)
        self.board.run(leg.place(incoming, order.agent, order.ring_timeout), f"sip-{id}:place")
        await asyncio.sleep(0)  # the switchboard decides before its first await
        call = self.board.find(self.provider, id)
        if call is None:
            raise BadOrder(f"from: no route has {from_number}, or the gateway has no room")
        return {"id": call.id, "carrier": self.provider.name, "carrier_call_id": id, "trunk": name}

    async def dial(self, to: str, from_number: str, *, ring_timeout: int) -> dict[str, str]:
        """As `place`, by the trunk that has our number."""
        return await self.place(PlaceCall(to, from_number, ring_timeout=ring_timeout))

    def _trunk_for(self, number: str) -> str:
        trunks = self.settings.trunks
        for name, trunk in trunks.items():
            if number and number in trunk.numbers:
                return name
        for name, trunk in trunks.items():
            if self._targets.proxies(trunk):
                return name
        raise BadOrder("trunk: none under `sip.trunks` places calls; give one its `proxies`")

    async def consult(self, name: str) -> SipLeg:
        """A leg for a call to the target of an attended transfer. Raises CarrierUnavailable."""
        return await self._leg_out(name, f"consult-{uuid.uuid4().hex}")

    async def _leg_out(self, name: str, id: str) -> SipLeg:
        """A leg for a call of ours, with its slot. Raises CarrierUnavailable."""
        slot = self._doorman.reserve(name, self._loop.time())
        if isinstance(slot, Refused):
            raise CarrierUnavailable(f"trunk {name}: {slot.reason}")
        with contextlib.ExitStack() as undo:
            undo.callback(slot.release)
            try:
                hop = await self._targets.first(name)
                if hop is None:
                    raise CarrierUnavailable(f"trunk {name}: none of its proxies can be found")
                leg = await self._leg(name, hop)
            except (NoPortLeft, OSError, ValueError) as error:
                raise CarrierUnavailable(f"trunk {name}: {error}") from error
            undo.pop_all()
        self._own(leg, id, None, slot)
        return leg

    async def targets(self, name: str, number: str) -> AsyncIterator[Target]:
        """Where a call to a number over a trunk may go, in order."""
        async for target in self._targets.of(name, number):
            yield target

    def outcome(self, name: str, target: Target, status: int) -> None:
        """What a call to a target came to."""
        self._upkeep.report(name, target.hop, status)

    # --- what upkeep sends

    @staticmethod
    def targets_of(trunk: TrunkSettings) -> Sequence[str]:
        """The addresses that a trunk's calls go to first."""
        return [trunk.outbound_proxy] if trunk.outbound_proxy else Targets.proxies(trunk)

    async def hops(self, name: str, address: str) -> Sequence[Hop]:
        """Look an address of a trunk up. Raises Unresolvable."""
        return await self._targets.hops(name, address)

    def options(self, name: str, target: Uri, hop: Hop) -> int:
        """Ask a target whether it is there; gives the id of the request."""
        trunk = self.settings.trunks[name]
        return self._sip.ua.request(
            "OPTIONS",
            target,
            hop,
            local=NameAddr("", Uri("sip", trunk.username or "offhook", host=trunk.from_domain or target.host)),
            remote=NameAddr("", replace(target, params={})),
            headers=(ACCEPT,),
            now=self._loop.time(),
        )

    def send_request(self, request: Request, hop: Hop) -> int:
        """Send a REGISTER; gives its id."""
        return self._sip.ua.send_request(request, hop, self._loop.time())

    def contact(self, user: str, hop: Hop) -> str:
        """Our address for a registrar."""
        return self._sip.contact(hop, user)

    def learn(self, name: str, hosts: Sequence[str]) -> None:
        """A registrar has these addresses: calls of the trunk come from there."""
        self._doorman.learn(name, hosts)

    def invite(
        self,
        leg: SipLeg,
        target: Target,
        number: str,
        from_number: str,
        sdp: bytes,
        headers: Sequence[tuple[str, str]],
    ) -> InviteSession:
        """Send an INVITE for a leg."""
        trunk = leg.trunk
        domain = trunk.from_domain or target.uri.host
        session = self._sip.ua.invite(
            target.uri,
            target.hop,
            local=NameAddr("", Uri("sip", from_number or trunk.username or "offhook", host=domain)),
            remote=NameAddr("", replace(target.uri, params={})),
            sdp=sdp,
            headers=headers,
            credentials=_credentials(trunk),
            route=target.route,
            session_expires=trunk.session_expires,
            min_se=trunk.min_se,
            reliable=trunk.reliable_provisional,
            now=self._loop.time(),
        )
        self._sessions[session.id] = leg
        self.flush()
        return session

    def refer_target(self, name: str, to: str, session: InviteSession) -> str:
        """Whom a peer is asked to call: a number at its own end of the trunk, a SIP address as it is."""
        if to.lower().startswith(("sip:", "sips:", "tel:")):
            return to
        return str(Uri("sip", to, host=session.remote_party.uri.host or session.dialog.hop.host))

    def registered_as(self, name: str) -> Collection[str]:
        """User names that stand in the Request-URI of calls to a trunk that registers, in place of a number."""
        trunk = self.settings.trunks[name]
        if trunk.register_with is None:
            return ()
        return {trunk.register_with.user or trunk.username, trunk.username}

    # --- what we call ourselves

    def _host(self, hop: Hop) -> str:
        public = "" if self._is_near(hop) else self.settings.public_address
        return public or self._local(hop)

    def _is_near(self, hop: Hop) -> bool:
        """Whether no NAT stands between."""
        host = ip_address(hop.host.partition("%")[0])
        return any(host in network for network in self.settings.local_networks)

    def _local(self, hop: Hop) -> str:
        return hop.local or self._sip.transport.local_to(hop.host)

    def _client_tls(self, hop: Hop) -> ssl.SSLContext:
        return client_context(self._targets.tls_of(hop) or self.settings.tls)


def _credentials(trunk: TrunkSettings) -> tuple[str, str] | None:
    """What answers a challenge of the other side, in a call of either direction."""
    password = trunk.password.get_secret_value() if trunk.password is not None else ""
    return (trunk.username, password) if trunk.username else None


def _retry(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(seconds)),) if seconds else ()
