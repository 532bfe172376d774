"""Who has the floor, as one table; what its states mean is told in taker.py."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Floor(StrEnum):
    """Who has it, as far as the caller's last sound goes."""

    QUIET = "quiet"
    TURN = "turn"
    DOUBT = "doubt"
    OVERLAP = "overlap"


class Step(StrEnum):
    """What can happen to it."""

    TAKE = "take"
    "The floor is the caller's."
    HOLD = "hold"
    TALK_OVER = "talk_over"
    DROP = "drop"
    "What was heard counts for nothing, or the agent goes on."
    END = "end"


_F, _S = Floor, Step
TRANSITIONS: Final[Mapping[Floor, Mapping[Step, Floor]]] = {
    _F.QUIET: {_S.TAKE: _F.TURN, _S.HOLD: _F.DOUBT, _S.TALK_OVER: _F.OVERLAP},
    _F.TURN: {_S.HOLD: _F.DOUBT, _S.TALK_OVER: _F.OVERLAP, _S.DROP: _F.QUIET, _S.END: _F.QUIET},
    _F.DOUBT: {_S.TAKE: _F.TURN, _S.DROP: _F.QUIET},
    _F.OVERLAP: {_S.TAKE: _F.TURN, _S.HOLD: _F.DOUBT, _S.DROP: _F.QUIET},
}
"""The one table. A step that is not in it is a bug of ours: it raises and changes nothing."""


class IllegalStepError(RuntimeError):
    """The floor was asked for a step its state does not have."""
