"""Calls by SIP: one user agent and its sockets for all calls of a run, RTP sockets for each.

async with SipPhone(Target(to="sip:agent@127.0.0.1:5060")) as phone:
    log = await phone.carry(order, operator)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from offhook.codecs import opus
from offhook.providers.rtp.ports import NoPortLeft, PortPool
from offhook.providers.sip.core import Fields
from offhook.providers.sip.endpoint import Endpoint
from offhook.providers.sip.events import RequestArrived, RequestDone, UaEvent
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.message import Message, Response
from offhook.providers.sip.resolver import Resolver, Unresolvable
from offhook.providers.sip.settings import SipTls
from offhook.providers.sip.sockets import client_context
from offhook.providers.sip.uri import BadUri, Uri
from offhook.qa.phones.base import CallLog, CallOrder, Operator, Phone, Unable, Unreachable
from offhook.qa.phones.ladder import call_id_of
from offhook.qa.phones.pacer import Pacer
from offhook.qa.phones.sip_call import SipCall
from offhook.qa.scenario.model import Target

PORTS: Final = (30_000, 39_998)
"""RTP ports; the gateway's own begin at 20000."""

REST: Final = 5.0
"""Seconds for which a port is not used again."""

_NUMBER: Final = re.compile(r"[+0-9A-Za-z_.*#-]{1,64}")
"""Who may be said to call."""


class SipPhone(Phone):
    """Calls to one SIP address.

    Args:
        target: whom to call: `sip:user@host:port`, with `;transport=tcp` where it is not UDP, or `sips:`.
        username, password: answer a challenge (401, 407) with these.
        host: address of ours to send from and to be reached at; empty: the one that leads to the target.
        ca_file: PEM file of the authorities that the other side's certificate is checked against; by default the
            system's.
        verify: False takes any certificate.
        ports: first and last port for RTP.

    Raises:
        Unable: the target is no SIP address.
    """

    way = "sip"

    def __init__(
        self,
        target: Target,
        *,
        username: str = "",
        password: str = "",
        host: str = "",
        ca_file: Path | None = None,
        verify: bool = True,
        ports: tuple[int, int] = PORTS,
    ) -> None:
        self.target = target
        self.hops: Sequence[Hop] = ()
        "Where the target is, best first; known once the phone is open."
        self.ports = PortPool(*ports, quarantine=REST)
        self._credentials = (username, password) if username else None
        self._host, self._tls = host, SipTls(ca_file=ca_file, verify=verify)
        self._calls: dict[str, SipCall] = {}
        "By the id of the session."
        self._by_call_id: dict[str, SipCall] = {}
        try:
            self._uri = Uri.parse(target.to)
        except BadUri as error:
            raise Unable(f"target.to: {target.to!r}: {error}; write sip:user@host:port") from error
        if not self._uri.is_sip:
            raise Unable(f"target.to: {target.to!r} is no SIP address; write sip:user@host:port")

    async def __aenter__(self) -> Self:
        """Find the target, and open the sockets of SIP.

        Raises:
            Unreachable: the target's name leads nowhere, or no way leads to it.
            Unable: names are to be looked up, and the library for it is missing.
        """
        self._loop = asyncio.get_running_loop()
        self.pacer = Pacer()
        try:
            self.hops = await Resolver().resolve(self._uri)
        except Unresolvable as error:
            raise Unreachable(f"{self.target.to} leads nowhere: {error}") from error
        except RuntimeError as error:
            raise Unable(f"{self.target.to}: {error}") from error
        tls = client_context(self._tls) if any(hop.transport == "tls" for hop in self.hops) else None
        self._sip = Endpoint(
            self._act,
            self.local_to,
            user="qa",
            user_agent="offhook-qa",
            trusted=lambda host: True,
            client_tls=lambda hop: tls or client_context(self._tls),
            on_message=self._arrived,
            on_send=self._sent,
        )
        try:
            for hop in self.hops:
                await self._listen(hop)
        except BaseException:
            await self._sip.close()
            raise
        return self

    async def _listen(self, hop: Hop) -> None:
        """Have a socket that fits a hop. TLS has none of its own: what the agent asks comes by our connection."""
        host = self._host or self._sip.transport.local_to(hop.host)
        if not host:
            raise Unreachable(f"{self.target.to}: no address of this machine leads to {hop.host}")
        if hop.transport == "tls" or (hop.transport, host) in [at[:2] for at in self._sip.transport.addresses]:
            return
        try:
            await self._sip.transport.listen(hop.transport, host, 0)
        except OSError as error:
            raise Unreachable(f"no SIP socket at {host}: {error}; is it an address of this machine?") from error

    async def __aexit__(self, *exc: object) -> None:
        """Say what is left to say, and close the sockets."""
        for call in tuple(self._calls.values()):
            call.hang_up("the phone was closed")
        await self._sip.close()

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        """Make a call and see it through to its end.

        Raises:
            Unreachable: nobody is at the target.
            Unable: the order asks for what SIP, or this machine, has not.
        """
        if order.target.tamper:
            raise Unable(
                f"target.tamper: {order.target.tamper} is for carriers' webhooks; use twilio+http:// or plivo+"
            )
        if not _NUMBER.fullmatch(order.target.from_):
            raise Unable(f"target.from: {order.target.from_!r} is neither a number nor a name")
        if "opus" in order.media.codecs:
            try:
                await asyncio.to_thread(opus.warm)
            except RuntimeError as error:
                raise Unable(f"media.codecs: {error}") from error
        try:
            return await SipCall(self, order, operator).run()
        except NoPortLeft as error:
            raise Unable(str(error)) from error

    # --- for the calls

    def invite(
        self,
        call: SipCall,
        target: Uri,
        hop: Hop,
        *,
        local: NameAddr,
        remote: NameAddr,
        sdp: bytes,
        headers: Fields,
    ) -> InviteSession:
        """Send the INVITE of a call. Raises ValueError for headers that cannot be sent."""
        session = self._sip.ua.invite(
            target,
            hop,
            local=local,
            remote=remote,
            sdp=sdp,
            headers=headers,
            credentials=self._credentials,
            session_expires=0,
            now=self._loop.time(),
        )
        self._calls[session.id] = call
        self._by_call_id[session.request.call_id] = call
        self.flush()
        return session

    def forget(self, call: SipCall) -> None:
        """A call is over, or begins anew."""
        self._calls = {id: known for id, known in self._calls.items() if known is not call}
        self._by_call_id = {id: known for id, known in self._by_call_id.items() if known is not call}

    def local_to(self, hop: Hop) -> str:
        """Our address on the way to a hop."""
        return hop.local or self._host or self._sip.transport.local_to(hop.host)

    def flush(self) -> None:
        """Send what waits, act on what that made known, and set the timer."""
        self._sip.flush()

    # --- in and out

    def _arrived(self, message: Message, hop: Hop) -> None:
        call = self._by_call_id.get(message.call_id)
        if call is not None:
            call.alive = True
            if call.order.keep_packets:
                self._tap(message.encode(), hop, out=False)
        self._sip.receive(message, hop)
        if call is not None and isinstance(message, Response) and message.status >= 200:
            call.answered_finally(message)

    def _sent(self, data: bytes, hop: Hop) -> None:
        self._tap(data, hop, out=True)

    def _act(self, events: Sequence[UaEvent]) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                self._sip.ua.dismiss(event.tx, self._loop.time())
            elif not isinstance(event, RequestDone):
                call = self._calls.get(event.session.id)
                if call is not None:
                    call.take_event(event)

    def _tap(self, data: bytes, hop: Hop, *, out: bool) -> None:
        call = self._by_call_id.get(call_id_of(data))
        if call is not None and call.order.keep_packets:
            local = (self.local_to(hop), self._sip.port(hop) or 5061)
            call.tap_sip(data, out=out, local=local, remote=(hop.host, hop.port))
