"""Outgoing calls: which carrier places one, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offhook.gateway.operator_api import BadOrder, PlaceCall
from offhook.providers import SIP

if TYPE_CHECKING:
    from offhook.gateway.sip.service import SipService
    from offhook.gateway.switchboard import Switchboard


class Dialling:
    """Places calls. `sip` is None where there is no SIP."""

    def __init__(self, board: Switchboard, sip: SipService | None) -> None:
        self._board, self._sip = board, sip

    async def place(self, order: PlaceCall) -> dict[str, str]:
        """Place a call; gives its ids as far as they are known now.

        Raises:
            BadOrder: the order names a carrier, trunk or number that there is not.
            CarrierError: the carrier does not place it.
        """
        name = order.carrier or self._only()
        if name == SIP and self._sip is not None:
            return await self._sip.place(order)
        provider = self._board.providers.get(name)
        if provider is None:
            known = [*self._board.providers, *([SIP] if self._sip is not None else [])]
            raise BadOrder(f"carrier: {name!r} is not configured; there is {', '.join(known)}")
        if not order.from_number:
            raise BadOrder("from: say which of your numbers calls")
        for field in ("trunk", "agent", "attributes"):
            if getattr(order, field):
                raise BadOrder(f"{field}: only SIP calls take this; {name} asks the route of the number that calls")
        placed = await provider.control.dial(
            order.to,
            order.from_number,
            answer_url=self._board.webhook_url(provider, "incoming"),
            status_url=self._board.webhook_url(provider, "status"),
            ring_timeout=order.ring_timeout,
        )
        return {"carrier": name, "carrier_call_id": placed}

    def _only(self) -> str:
        names = [*self._board.providers, *([SIP] if self._sip is not None else [])]
        if len(names) > 1:
            raise BadOrder(f"carrier: say which of {', '.join(names)} places the call")
        return names[0]
