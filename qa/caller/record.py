"""What the caller did, step by step, for the verdict afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from offhook.qa.activity import Span

Lacking = Literal["", "answer", "no-answer", "hangup"]
"""What a step waited for in vain: that the call is answered, that the agent speaks, or that the call is over."""


@dataclass(slots=True)
class StepRecord:
    """One step as it went. The caller only notes; whether what was expected came true is judged from the wire."""

    index: int
    "Of the scenario's steps, from 0."
    verb: str
    name: str = ""
    "The step's `as`."
    began: float = 0.0
    "Track second."
    ended: float = 0.0
    "When the next step began; what the step's `expect` waits for has come by then, or its time was over."
    spoken: Span | None = None
    "What the caller said in it, to the sample: of a sentence from its first to its last voiced sample."
    since: float = 0.0
    """Track second from which its `expect.within` counts: the end of what was said or pressed, in this step or, when
    this one only listens, in the one before; otherwise when it began."""
    within: float = 0.0
    "Its `expect.within`, or what stands for it: the length of a `silence`, the caller's patience."
    source: str = ""
    "Key of what was said in `Script.sounds`; it is compared with the wire."
    keys: str = ""
    failed: str = ""
    "Why the step could not be done, such as that the agent did not fall silent within 15 s; empty: it was."
    lacking: Lacking = ""
    "Of a step that could not be done."
    skipped: bool = False
    "The call was over, or had failed, before."


@dataclass(slots=True)
class CallerRecord:
    """What the caller of one call did."""

    steps: list[StepRecord] = field(default_factory=list)
    hung_up: bool = False
    "The caller ended the call, by a step or because it could not go on."
    gave_up: str = ""
    "Why it could not go on; empty: it did to the last step."
    persona_said: list[tuple[float, str]] = field(default_factory=list)
    "Track second and sentence, of a persona."
