"""Where the time of a reply went: the marks of one turn split into stages that sum to voice-to-voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from offhook.agents.link import Turn

STAGES: Final = ("endpointing", "understanding", "thinking", "synthesis", "playout")
"""In the order they happen: caller silent → turn decided → transcript → reply text → reply audio → first frame out."""


@dataclass(frozen=True)
class Split:
    """One reply."""

    total_ms: float
    "From the caller's last voiced frame to the first frame of the reply."
    stages_ms: dict[str, float]
    "By stage; those that did not happen are left out, their time belongs to the next that did."


def stages(turn: Turn, first_sent: float) -> Split:
    """Split one reply. Marks that are missing (0) or out of order are passed over, so the sum always holds."""
    if not turn.caller_stopped:
        return Split(0.0, {})
    marks = zip(STAGES, (turn.turn_ended, turn.understood, turn.reply_text, turn.reply_audio, first_sent), strict=True)
    at = turn.caller_stopped
    split: dict[str, float] = {}
    for stage, mark in marks:
        if mark >= at:
            split[stage] = round((mark - at) * 1000, 1)
            at = mark
    return Split(round((at - turn.caller_stopped) * 1000, 1), split)
