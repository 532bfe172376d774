"""A call as functions see it, on which nothing happens but what the test reads afterwards."""

from __future__ import annotations

from typing import Any

from offhook.agents.functions.base import CallControl, FunctionFailed
from offhook.agents.link import CallInfo


class FakeControl(CallControl):
    """Keeps every order in `orders` and every note in `notes`. With `refuses` set, orders fail with that text."""

    def __init__(self, info: CallInfo | None = None) -> None:
        self.info = info or CallInfo("call-1", "+15550123", "+15550100", "twilio")
        self.orders: list[tuple[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.keys = ""
        "What the caller presses when keys are collected."
        self.refuses = ""

    def _order(self, name: str, what: Any) -> None:
        self.orders.append((name, what))
        if self.refuses:
            raise FunctionFailed(self.refuses)

    async def say(self, text: str, *, interruptible: bool = True) -> bool:
        self._order("say", text)
        return True

    async def hang_up(self, reason: str = "") -> None:
        self._order("hang_up", reason)

    async def transfer(self, to: str) -> None:
        self._order("transfer", to)

    async def send_dtmf(self, digits: str) -> None:
        self._order("send_dtmf", digits)

    async def collect_dtmf(self, *, max_digits: int, terminator: str, first_timeout: float, next_timeout: float) -> str:
        self._order("collect_dtmf", (max_digits, terminator, first_timeout, next_timeout))
        return self.keys

    async def hold(self, seconds: float) -> None:
        self._order("hold", seconds)

    async def leave_message(self, text: str) -> None:
        self._order("leave_message", text)

    def note(self, name: str, **data: Any) -> None:
        self.notes.append((name, data))
