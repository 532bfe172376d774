"""A transfer of ours: the peer is asked to call somebody else, by REFER.

Blind, the peer calls whom we name. Attended, we call the target first, and the peer's new call replaces that one, so
that a target which does not answer costs the caller nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import ref

from offhook.providers.base import CarrierRefused
from offhook.providers.sip.core import IllegalStep
from offhook.providers.sip.events import ReferProgressed

if TYPE_CHECKING:
    from offhook.gateway.sip.leg import SipLeg
    from offhook.providers.sip.invite import InviteSession

REFER_BUDGET: Final = 35.0
"""Seconds for a transfer to be reported on; a peer that says nothing for that long has not done it."""

CONSULT_BUDGET: Final = 30
"""Seconds the target of an attended transfer may let its phone ring."""

AFTER_TRANSFER: Final = 1.0
"""Seconds the peer has to hang up after a transfer before we do."""


class Handover:
    """Of one leg."""

    def __init__(self, leg: SipLeg) -> None:
        self._owner = ref(leg)
        self._loop = asyncio.get_running_loop()
        self._refer: asyncio.Future[int] | None = None
        self._consult: SipLeg | None = None
        "To the target of an attended transfer, until the transfer is done or given up."

    @property
    def _leg(self) -> SipLeg:
        leg = self._owner()
        assert leg is not None, "it owns this"
        return leg

    async def transfer(self, to: str) -> None:
        """Hand the caller over.

        Raises:
            CarrierRefused: the peer, or the target, did not take it; the call goes on with us.
        """
        session = self._leg.session
        if session is None or not session.confirmed:
            raise CarrierRefused("the call is not up", status=481)
        if self._leg.trunk.transfer != "attended":
            await self._refer_to(session, to, None)
            return
        consult = self._consult = await self._leg.service.consult(self._leg.name)
        try:
            ours = self._leg.call.incoming.to_number if self._leg.call is not None else ""
            status, reason = await consult.dial(to, ours, CONSULT_BUDGET)
            if status != 200:
                raise CarrierRefused(f"{to} was called and gave {status} {reason}".strip(), status=status)
            await self._refer_to(session, to, consult)
        finally:
            self._consult = None
            self._loop.call_later(AFTER_TRANSFER, consult.hang_up)

    async def _refer_to(self, session: InviteSession, to: str, consult: SipLeg | None) -> None:
        leg = self._leg
        self._refer = self._loop.create_future()
        target = leg.service.refer_target(leg.name, to, session)
        replaces = consult.session if consult is not None else None
        headers = leg.headers(leg.call.attributes) if leg.call is not None else []
        try:
            session.refer(target, replaces=replaces, headers=headers, now=self._loop.time())
            leg.service.flush()
            async with asyncio.timeout(REFER_BUDGET):
                status = await self._refer
        except (IllegalStep, ValueError) as error:  # over meanwhile, another transfer under way, or no SIP address
            raise CarrierRefused(str(error), status=400) from error
        except TimeoutError:
            raise CarrierRefused(f"no word on the transfer to {to} for {REFER_BUDGET:g} s", status=408) from None
        finally:
            self._refer = None
        if status >= 300:
            raise CarrierRefused(f"the transfer to {to} was answered with {status}", status=status)

    def progressed(self, event: ReferProgressed) -> None:
        """The peer tells how its new call goes."""
        if event.final:
            self._settle(event.status)

    def hung_up(self) -> None:
        """The peer did: it does so as soon as the transfer stands, and reports no more."""
        self._settle(200)

    def _settle(self, status: int) -> None:
        if self._refer is not None and not self._refer.done():
            self._refer.set_result(status)

    def close(self) -> None:
        """The call is over: nobody is left to be handed over."""
        if self._consult is not None and self._refer is None:
            self._consult.hang_up()
