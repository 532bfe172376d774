"""Agents that SIPp talks to; the gateway's agent host loads them."""

from __future__ import annotations

import asyncio
from typing import Any

from offhook.agents.api import Agent, AgentCall


class Clerk(Agent):
    """Echoes, notes what it is told, and does what some keys stand for.

    Settings: `ring`, seconds until it is ready; `to`, whom 6 transfers to.
    """

    format = None

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self.on_audio = call.stream  # type: ignore[method-assign]

    async def on_ring(self) -> None:
        self.call.set_attributes({"account": "A-7", "X-Clerk": "seven", "unmapped": "stays here"})
        await asyncio.sleep(self.settings.get("ring", 0))

    async def on_answer(self) -> None:
        self.call.note("told", **self.call.info.fields)
        await asyncio.Event().wait()

    def on_hold(self, held: bool) -> None:
        self.call.note("hold", held=held)

    def on_order_refused(self, order: str, reason: str) -> None:
        self.call.note("refused", order=order, reason=reason)

    def on_dtmf(self, digit: str) -> None:
        self.call.note("key", digit=digit)
        if digit == "6":
            self.call.transfer(self.settings["to"], after_speech=False)
        elif digit == "#":
            self.call.set_attributes({"X-Result": "done"})
            self.call.hang_up("the caller pressed #", after_speech=False)
