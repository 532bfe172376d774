"""Keys that the agent presses: allowed by the route, then played on the stream, or by the carrier's API."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from offhook.agents import link
from offhook.gateway.call_state import CallState
from offhook.gateway.orders import MAX_KEYS_AT_ONCE, NOT_UP

if TYPE_CHECKING:
    from offhook.gateway.call import Call
    from offhook.gateway.switchboard import Switchboard


class Keys:
    """The keys of one call."""

    def __init__(self, call: Call, board: Switchboard) -> None:
        self._owner, self._board = ref(call), board

    @property
    def _call(self) -> Call:
        call = self._owner()
        assert call is not None, "it owns this"
        return call

    def press(self, digits: str) -> None:
        """Play these to the caller, or tell the agent why not."""
        call = self._call
        refusal = call.plan.orders.dtmf(digits) if call.state is CallState.LIVE else NOT_UP
        if refusal:
            call.log.warning("keys denied", route=call.plan.route, reason=refusal)
            self._pressed(digits, refusal)
            return
        try:
            message = call.stream.send_dtmf(digits) if call.stream is not None else None
        except ValueError as error:
            self._pressed(digits, str(error))
            return
        if message is not None:
            if message:
                call.send(message)
            self._pressed(digits, "")
        else:
            self._board.run(self._by_api(digits), f"call-{call.id}:dtmf")

    async def _by_api(self, digits: str) -> None:
        call = self._call
        order = call.provider.control.send_dtmf(call.incoming.carrier_call_id, digits)
        ok = await self._board.order(call, "dtmf", order)
        self._pressed(digits, "" if ok else f"{call.provider.name} cannot send DTMF on a live stream")

    def _pressed(self, digits: str, error: str) -> None:
        self._call.note("dtmf.send", {"digits": digits[:MAX_KEYS_AT_ONCE], "ok": not error, "error": error})
        if error:
            self._call.tell(link.OrderRefused("dtmf.send", error))
