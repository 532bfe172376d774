"""Agents that the telephones of these tests talk to; the gateway's agent host loads them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from offhook.agents.api import Agent, AgentCall
from offhook.codecs.audio import AudioFormat


class Tone(Agent):
    """Plays a tone of half the full scale until the caller hangs up. Settings: `hertz`, `format`."""

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self.format = AudioFormat.parse(settings.get("format", "l16/8000"))

    async def on_answer(self) -> None:
        assert self.format is not None
        rate = self.format.rate
        wave = 0.5 * np.sin(2 * np.pi * self.settings["hertz"] * np.arange(10 * rate) / rate)
        self.call.speak((wave * 32767).astype("<i2").tobytes())
        await asyncio.Event().wait()


class Keys(Agent):
    """Notes every key, and does what some stand for. Settings: `refer`, the number that 6 transfers to."""

    def on_hold(self, held: bool) -> None:
        self.call.note("agent.hold", held=held)

    def on_order_refused(self, order: str, reason: str) -> None:
        self.call.note("agent.refused", order=order, reason=reason)

    def on_dtmf(self, digit: str) -> None:
        self.call.note("agent.key", digit=digit)
        if digit == "5":
            self.call.send_dtmf("159#")
        elif digit == "6":
            self.call.transfer(self.settings["refer"], after_speech=False)
        elif digit == "7":
            self.call.hang_up("seven was pressed", after_speech=False)
