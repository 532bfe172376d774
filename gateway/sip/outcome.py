"""SIP statuses in the words of call records, and answers of the switchboard as SIP statuses (RFC 3398)."""

from __future__ import annotations

from typing import Final

from offhook.gateway.reasons import EndReason
from offhook.providers.base import Answer, DialAnswer, RejectAnswer, SayAnswer

NO_ANSWER: Final = 480

_REASONS: Final = {
    EndReason.CALLEE_BUSY: (486, 600),
    EndReason.CALLEE_NO_ANSWER: (480, 408, 487),
    EndReason.CALLEE_UNKNOWN: (404, 410, 484, 485, 604),
    EndReason.CALLEE_DECLINED: (403, 603, 607, 608),
    EndReason.NO_ANSWER_POSSIBLE: (415, 488, 606),
}

_CAUSES: Final = {
    41: (
        EndReason.AGENT_CRASHED,
        EndReason.AGENT_HUNG,
        EndReason.AGENT_OUT_OF_MEMORY,
        EndReason.AGENT_NOT_READY,
        EndReason.AGENT_REFUSED,
        EndReason.AGENT_PROTOCOL_ERROR,
        EndReason.OPERATOR_KILL,
        EndReason.DRAIN_DEADLINE,
    ),
    102: (EndReason.CARRIER_TIMEOUT, EndReason.MEDIA_NEVER_CAME),
    127: (EndReason.CARRIER_PROTOCOL_ERROR,),
}
"""Q.850 causes: temporary failure, recovery on timer expiry, interworking."""


def hang_up_cause(reason: EndReason | None) -> str:
    """The Reason header of our hang-up (RFC 3326): what to tell the other side of why its call ended."""
    cause = next((cause for cause, reasons in _CAUSES.items() if reason in reasons), 16)
    return f"Q.850;cause={cause}"


def end_reason(status: int) -> EndReason:
    """Why an outgoing call was not answered."""
    for reason, statuses in _REASONS.items():
        if status in statuses:
            return reason
    return EndReason.CALLEE_UNREACHABLE


def refusal(answer: Answer) -> tuple[int, str]:
    """The status and reason with which a call is refused that the switchboard does not take."""
    if isinstance(answer, RejectAnswer):
        return (486, "Busy Here") if answer.reason == "busy" else (404, "No such number here")
    if isinstance(answer, SayAnswer | DialAnswer):  # a fallback that there was no room to say
        return 503, "Service Unavailable"
    return 480, "Temporarily Unavailable"
