"""Agents that the telephones of these tests talk to; the gateway's agent host loads them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from offhook.agents.api import Agent, AgentCall
from offhook.codecs.audio import AudioFormat

SKIPPED = 0.3
"""Seconds at the beginning that are not measured."""

MEASURED = 0.7
"""Seconds that are."""


class Tone(Agent):
    """Plays a tone of half the full scale until the caller hangs up, and notes what it hears from it.

    Settings: `hertz`, `format`, `seconds`.
    """

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self.format = AudioFormat.parse(settings.get("format", "l16/8000"))
        self._rate = self.format.rate
        self._heard = b""

    async def on_answer(self) -> None:
        wave = 0.5 * np.sin(
            2
            * np.pi
            * self.settings["hertz"]
            * np.arange(int(self.settings.get("seconds", 10) * self._rate))
            / self._rate
        )
        self.call.speak((wave * 32767).astype("<i2").tobytes())
        await asyncio.Event().wait()

    def on_audio(self, audio: bytes) -> None:
        needed = int((SKIPPED + MEASURED) * self._rate) * 2
        if len(self._heard) >= needed:
            return
        self._heard += audio
        if len(self._heard) >= needed:
            samples = np.frombuffer(self._heard[:needed], "<i2")[int(SKIPPED * self._rate) :] / 32768
            power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
            peak = int(np.argmax(power))
            share = float(np.sum(power[max(0, peak - 4) : peak + 5]) / max(float(np.sum(power)), 1e-12))
            level = 10 * np.log10(max(share * float(np.mean(samples**2)), 1e-12))
            self.call.note("heard", hertz=peak / MEASURED, level=float(level), share=share)


class Keys(Agent):
    """Notes every key, and does what some stand for. Settings: `refer`, the number that 6 transfers to."""

    def on_hold(self, held: bool) -> None:
        self.call.note("hold", held=held)

    def on_order_refused(self, order: str, reason: str) -> None:
        self.call.note("refused", order=order, reason=reason)

    def on_dtmf(self, digit: str) -> None:
        self.call.note("key", digit=digit)
        if digit == "5":
            self.call.send_dtmf("159#")
        elif digit == "6":
            self.call.transfer(self.settings["refer"], after_speech=False)
        elif digit == "7":
            self.call.hang_up("seven was pressed", after_speech=False)
