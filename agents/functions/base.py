"""What a function is to the conversation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from offhook.agents.link import CallInfo
from offhook.agents.services.base import FunctionSchema


class FunctionFailed(Exception):
    """A function could not do its work; the text goes to the model, so it says what the caller may be told."""


class CallControl(ABC):
    """What a function may do to the call. Every order is checked by the gateway against the route."""

    info: CallInfo

    @abstractmethod
    async def say(self, text: str, *, interruptible: bool = True) -> bool:
        """Say a sentence now; True when it was heard to its end."""

    @abstractmethod
    async def hang_up(self, reason: str = "") -> None:
        """End the call after the last word has been heard."""

    @abstractmethod
    async def transfer(self, to: str) -> None:
        """Hand the caller over. Returns only when it failed, by raising FunctionFailed with the gateway's reason."""

    @abstractmethod
    async def send_dtmf(self, digits: str) -> None:
        """Press keys (0-9, *, #, A-D, w for half a second). Raises FunctionFailed when the gateway refuses."""

    @abstractmethod
    async def collect_dtmf(self, *, max_digits: int, terminator: str, first_timeout: float, next_timeout: float) -> str:
        """Wait for keys; gives what was pressed, without the terminator. Speech does not end it."""

    @abstractmethod
    async def hold(self, seconds: float) -> None:
        """Play hold music for so long, deaf to speech; a key or the caller's hang-up ends it."""

    @abstractmethod
    async def leave_message(self, text: str) -> None:
        """The other side is a mailbox: wait for its tone or its silence, speak the message, hang up."""

    @abstractmethod
    def note(self, name: str, **data: Any) -> None:
        """Put an event into the call record."""


@dataclass(frozen=True)
class Function:
    """One function. Made by `python.function`, `http.http_function`, `mcp.McpServer` or `call_tools`."""

    schema: FunctionSchema
    call: Callable[[dict[str, Any], CallControl], Awaitable[Any]]
    """Takes arguments that fit the schema. Gives text or anything that JSON can carry.

    Raises FunctionFailed; anything else is a bug, of which the model learns only that the function failed.
    """
    timeout: float = 20.0
    "Seconds."
    background: bool = False
    "The conversation goes on meanwhile; the result is told when it is there."
    keep: bool = False
    "Runs to its end even when the caller has hung up."
    filler: tuple[str, ...] = ()
    "Said when the function is slow; empty: the assistant's own."
    then: Literal["reply", "listen", "end"] = "reply"
    "What follows its result: the model speaks, the caller does, or nobody (the call ends or is handed on)."


@dataclass
class FunctionResult:
    """What became of one call of a function."""

    id: str
    name: str
    content: str
    "For the model: the result as text or JSON, or what went wrong."
    ok: bool
    seconds: float
    then: Literal["reply", "listen", "end"] = "reply"
    arguments: dict[str, Any] = field(default_factory=dict)
