"""How long the caller must be silent for his turn to be over."""

from __future__ import annotations

from typing import Literal

from offhook.agents.turns.endings import Ending
from offhook.agents.turns.settings import End, TurnSettings

Why = Literal["silence", "complete", "model", "service", "timeout"]
"""What says that a turn is over."""


def needed_silence(settings: TurnSettings, end: End, looks: Ending, verdict: float | None) -> tuple[float, Why]:
    """Seconds from the last voiced frame, and what says so.

    Args:
        settings: the call's.
        end: what ends turns.
        looks: what the text says.
        verdict: what the end-of-turn model says; None while it has said nothing.
    """
    if end in ("service", "silence"):
        return (settings.timeout, "timeout") if end == "service" else (settings.silence, "silence")
    if end == "model" and verdict is not None:
        if verdict >= settings.model_threshold and looks != "unfinished":
            return (settings.silence if looks == "doubtful" else settings.model_silence), "model"
        silent = settings.silence if looks == "finished" else settings.long_silence  # word against melody
        return silent, "complete" if looks == "finished" else "silence"
    silence = {"finished": settings.short_silence, "unfinished": settings.long_silence}.get(looks, settings.silence)
    return silence, "complete" if looks == "finished" else "silence"
