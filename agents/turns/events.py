"""What the turn-taker decides. What it hears, it hears by its methods (`taker.TurnTaker`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop speaking now: this may be an interruption. Resume or Interrupt follows."""

    at: float
    "When the caller began."


@dataclass(frozen=True, slots=True)
class Resume:
    """It was none (a cough, an "uh-huh"): go on at the word where you stopped."""

    heard: str = ""
    "What it was, as far as it was text."


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The caller has the floor: what was not heard yet will not be said. May come without a Hold before it."""

    at: float


@dataclass(frozen=True, slots=True)
class Finalize:
    """Ask the speech-to-text service for what is still to come."""


@dataclass(frozen=True, slots=True)
class AskModel:
    """Ask the end-of-turn model about the audio so far; its answer goes to `verdict` with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """The caller has probably finished: a reply to this text may be prepared, not spoken."""

    text: str


@dataclass(frozen=True, slots=True)
class Discard:
    """What was prepared is void: the caller goes on, or said something else."""


@dataclass(frozen=True, slots=True)
class EndTurn:
    """The caller has finished. A reply prepared for this very text may be spoken."""

    text: str
    started_at: float
    "First voiced frame of the turn, monotonic seconds."
    stopped_at: float
    "Last voiced frame."
    understood_at: float
    "When the text was complete."
    decided_at: float
    why: Literal["silence", "complete", "model", "service", "timeout"]


Decision = Hold | Resume | Interrupt | Finalize | AskModel | Prepare | Discard | EndTurn
