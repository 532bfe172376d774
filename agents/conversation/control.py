"""What functions may do to the call of an assistant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from offhook.agents.conversation.speaker import Line
from offhook.agents.functions.base import CallControl, FunctionFailed

if TYPE_CHECKING:
    from offhook.agents.conversation.assistant import Assistant

MAILBOX_PATIENCE: Final = 45.0
"""Seconds a mailbox's greeting may take before the message is left anyway."""

MAILBOX_SILENCE: Final = 2.5
"""Seconds of silence that end a greeting without a tone."""

REFUSAL_TIME: Final = 2.0
"""Seconds in which the gateway refuses an order it does not carry out; it says nothing when it does."""


async def heard(lines: Sequence[Line]) -> bool:
    """Wait until all of it is over; True when it was heard to its end."""
    return all([await asyncio.shield(line.over) for line in lines])


class AssistantControl(CallControl):
    """The hold that an assistant's functions have on its call."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self._call = assistant.call
        self.info = assistant.call.info
        self._refusals: dict[str, asyncio.Future[str]] = {}

    async def say(self, text: str, *, interruptible: bool = True) -> bool:
        return await heard(self._assistant.mind.say(text, interruptible=interruptible, fixed=False))

    async def hang_up(self, reason: str = "") -> None:
        if not await self._heard_out():
            raise FunctionFailed("The caller spoke before you had finished. The call has not been ended.")
        self._call.hang_up(reason or "the assistant ended the call")

    async def transfer(self, to: str) -> None:
        if not await self._heard_out():
            raise FunctionFailed("The caller spoke before you had finished. The transfer was not begun.")
        refused = self._await_refusal("transfer")
        self._call.transfer(to)
        reason = await asyncio.shield(refused)  # when it succeeds, the call is over
        raise FunctionFailed(f"The transfer was not possible: {reason}. The caller is still here.")

    async def send_dtmf(self, digits: str) -> None:
        refused = self._await_refusal("dtmf.send")
        self._call.send_dtmf(digits)
        try:
            async with asyncio.timeout(REFUSAL_TIME):
                raise FunctionFailed(f"The keys were not sent: {await asyncio.shield(refused)}")
        except TimeoutError:
            return

    async def collect_dtmf(self, *, max_digits: int, terminator: str, first_timeout: float, next_timeout: float) -> str:
        await self._heard_out()
        digits = ""
        with self._assistant.collecting_keys():
            while len(digits) < max_digits:
                digit = await self._assistant.next_digit(next_timeout if digits else first_timeout)
                if digit is None or digit == terminator:
                    break
                digits += digit
        return digits

    async def hold(self, seconds: float) -> None:
        await self._heard_out()
        with self._assistant.deaf("hold"), self._assistant.collecting_keys():
            self._assistant.play_bed(self._assistant.options.sound.hold, 1.0)
            try:
                await self._assistant.next_digit(seconds)
            finally:
                self._assistant.play_ambience()

    async def leave_message(self, text: str) -> None:
        assistant = self._assistant
        with assistant.deaf("mailbox"):
            await assistant.mailbox_is_ready(MAILBOX_PATIENCE, MAILBOX_SILENCE)
            await heard(assistant.mind.say(text, interruptible=False, fixed=False))
            await self.hang_up("left a message")

    def note(self, name: str, **data: Any) -> None:
        self._call.note(name, **data)

    def refused(self, order: str, reason: str) -> None:
        """The gateway did not carry an order out."""
        future = self._refusals.pop(order, None)
        if future is not None and not future.done():
            future.set_result(reason)

    def _await_refusal(self, order: str) -> asyncio.Future[str]:
        """Two orders of a kind at once share the answer: it does not say which of them it is for."""
        return self._refusals.setdefault(order, asyncio.get_running_loop().create_future())

    async def _heard_out(self) -> bool:
        """Wait until what was said is over, so that nothing comes before it; False when the caller stopped it."""
        return await self._assistant.speaker.silent()
