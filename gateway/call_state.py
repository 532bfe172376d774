"""The states of a call, in one table.

Theory of operation
-------------------
A call is made when the carrier says that it rings (`RINGING`). When its agent is ready the carrier is told to
connect audio (`ANSWERED`), and from the carrier's `start` on the call is `LIVE`.

It leaves `LIVE` in one of three ways. The carrier says that it is over: `ENDED`. The agent or the gateway wants
it to end: `LEAVING`, which lets the last word be heard and then hangs up or transfers. The agent is lost:
`LEAVING` too, after the apology, with the route's fallback as the plan. A transfer the carrier refuses brings a
call whose agent still lives back to `LIVE`; one without an agent hangs up.

A lost agent that left the conversation behind is replaced first, where the limits allow it: the call is `RESUMING`
while it is offered to another, `LIVE` again when that one is ready, and `LEAVING` with the apology when none is.

`ENDED` is final, and is entered once, with one reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class CallState(StrEnum):
    """Where a call is in its life."""

    RINGING = "ringing"
    ANSWERED = "answered"
    LIVE = "live"
    RESUMING = "resuming"
    LEAVING = "leaving"
    ENDED = "ended"


class Step(StrEnum):
    """What can happen to the state of a call."""

    AGENT_READY = "agent_ready"
    AGENT_LOST = "agent_lost"
    AGENT_REPLACED = "agent_replaced"
    STREAM_STARTED = "stream_started"
    LEAVE = "leave"
    TRANSFER_FAILED = "transfer_failed"
    END = "end"


_S, _E = CallState, Step
TRANSITIONS: Final[Mapping[CallState, Mapping[Step, CallState]]] = {
    _S.RINGING: {_E.AGENT_READY: _S.ANSWERED, _E.END: _S.ENDED},
    _S.ANSWERED: {_E.STREAM_STARTED: _S.LIVE, _E.AGENT_LOST: _S.ANSWERED, _E.END: _S.ENDED},
    _S.LIVE: {
        _E.LEAVE: _S.LEAVING,
        _E.AGENT_LOST: _S.LEAVING,
        _E.AGENT_REPLACED: _S.RESUMING,
        _E.END: _S.ENDED,
    },
    _S.RESUMING: {
        _E.AGENT_READY: _S.LIVE,
        _E.AGENT_LOST: _S.LEAVING,
        _E.LEAVE: _S.LEAVING,
        _E.END: _S.ENDED,
    },
    _S.LEAVING: {
        _E.LEAVE: _S.LEAVING,
        _E.AGENT_LOST: _S.LEAVING,
        _E.TRANSFER_FAILED: _S.LIVE,
        _E.END: _S.ENDED,
    },
    _S.ENDED: {},
}
"""The one table. A step that is not in it is a bug of ours: it raises and changes nothing."""


LIVE: Final = (CallState.LIVE, CallState.RESUMING, CallState.LEAVING)
"""The states in which audio flows."""


class IllegalStepError(RuntimeError):
    """A call was asked for a step its state does not have."""
