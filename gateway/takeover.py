"""What survives an agent that is lost in the middle of a call, and when the call goes on with another.

An agent that wants its call to survive it puts the conversation into the journal as it goes (`link.Context`). When
its process crashes, hangs or grows too big, or the agent raises, the call is offered once more, with that
conversation as `link.Offer.history`, and the caller hears a pause instead of the apology. What kills one agent may
kill the next: so this happens a few times a call at most, and never twice in a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from offhook.agents.link import Dtmf
from offhook.gateway.reasons import EndReason

MAX_HISTORY: Final = 256 * 1024
"""Bytes of conversation kept for a call, as JSON: hours of talk, and a quarter of what one link message may have."""

BUDGET: Final = 6.0
"""Seconds the next agent has to be ready. A fresh process with its models takes one to three; after six of silence
callers hang up."""

SETTLED: Final = 10.0
"""Seconds an agent must have lasted after taking over; the next would not last longer than one that did not."""

MAX_KEYS: Final = 64
"""Keys kept for the next agent; nobody presses more in the pause."""

SURVIVED: Final = frozenset(
    {
        EndReason.AGENT_CRASHED,
        EndReason.AGENT_HUNG,
        EndReason.AGENT_OUT_OF_MEMORY,
        EndReason.AGENT_PROTOCOL_ERROR,
    }
)
"""Losses after which another agent may do better. One that refuses or is not ready is not replaced."""


class Memory:
    """The conversation of one call, as its agents have reported it.

    Over MAX_HISTORY the oldest messages but those of the role `system` are forgotten, and with a function's call its
    result, which no language model takes alone.
    """

    def __init__(self, history: Iterable[dict[str, Any]] = ()) -> None:
        self._messages: list[tuple[int, int, dict[str, Any]]] = []  # (the agent's number, bytes, message)
        self._size = 0
        self.put(0, history)

    @property
    def history(self) -> list[dict[str, Any]]:
        """What is remembered, oldest first."""
        return [message for _, _, message in self._messages]

    def put(self, start: int, messages: Iterable[dict[str, Any]]) -> None:
        """Replace everything from message `start` on, by the agent's own count."""
        while self._messages and self._messages[-1][0] >= start:
            self._size -= self._messages.pop()[1]
        for number, message in enumerate(messages, start):
            size = len(msgspec.json.encode(message))
            self._messages.append((number, size, message))
            self._size += size
        if self._size > MAX_HISTORY:
            self._forget()

    def hand_over(self) -> Memory:
        """A memory for the next agent, who counts what it is given from 0."""
        return Memory(self.history)

    def _forget(self) -> None:
        system = deque(item for item in self._messages if item[2].get("role") == "system")
        others = deque(item for item in self._messages if item[2].get("role") != "system")
        while others and (self._size > MAX_HISTORY or others[0][2].get("role") == "tool"):
            self._size -= others.popleft()[1]
        while self._size > MAX_HISTORY:
            self._size -= system.popleft()[1]
        self._messages = sorted((*system, *others), key=lambda item: item[0])


class Takeovers:
    """The take-overs of one call."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._began = 0.0
        self._loss = (EndReason.AGENT_CRASHED, "")
        self.keys: list[Dtmf] = []
        "What the caller pressed while nobody was there."

    def begin(self, reason: EndReason, detail: str, now: float) -> bool:
        """Count one when the call may go on with another agent after this loss; False when it may not."""
        if reason not in SURVIVED or self._count >= self._limit:
            return False
        if self._count and now - self._began < SETTLED:
            return False
        self._count += 1
        self._began = now
        self._loss = (reason, detail)
        self.keys.clear()
        return True

    def missed(self, key: Dtmf) -> None:
        """The caller pressed a key that no agent got."""
        if len(self.keys) < MAX_KEYS:
            self.keys.append(key)

    def resumed(self, now: float) -> dict[str, Any]:
        """What the record says of one that went well: why it was needed, and the caller's pause."""
        reason, detail = self._loss
        return {"reason": reason, "detail": detail, "pause_ms": round((now - self._began) * 1000)}

    def failed(self, reason: EndReason, detail: str) -> tuple[EndReason, str]:
        """Why the call ends after one that went wrong: for the loss before it, unless somebody else ends the call."""
        if reason not in SURVIVED | {EndReason.AGENT_NOT_READY, EndReason.AGENT_REFUSED}:
            return reason, detail
        return self._loss[0], f"{self._loss[1]}; nobody took over: {detail}"
