"""What is known of a call before it begins, and what is planned for its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from offhook.codecs.audio import PCMU
from offhook.gateway.orders import Orders
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.gateway.takeover import Memory
from offhook.providers.base import Answer

OFFERED: Final = PCMU
"""What the agent is offered before the carrier's start says what it really is; nearly always this."""

APOLOGY: Final = 1 << 30
"""Id of the gateway's own utterance, far from those of agents."""

TRANSFER_BUDGET: Final = 15.0
"""Seconds after which a transfer that the carrier accepted must have taken the stream away."""


@dataclass(frozen=True)
class CallPlan:
    """What the route says about a call."""

    route: str
    agent: str
    unready: Answer
    "What the carrier is told when the agent is not ready in time, or refuses."
    orders: Orders
    "What the agent may have done."
    record: bool = False
    fallback_transfer: str = ""
    max_seconds: float = 3300.0
    max_takeovers: int = 1
    "How often another agent may go on where one was lost."
    apology: bytes = b""
    "int16 at 8 kHz; said when the agent is lost."


@dataclass(frozen=True, slots=True)
class PastCall:
    """What is kept of a call that is over: for the carrier that asks how to go on, or sends it back to us."""

    id: str
    agent: str
    memory: Memory
    after: Answer


@dataclass
class Departure:
    """How a call that is leaving ends."""

    reason: EndReason
    by: EndedBy
    detail: str = ""
    to: str = ""
    "Number to transfer to; empty: hang up."
