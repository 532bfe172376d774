"""How a call can end: the closed list that records, metrics and logs share."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

ORDERLY: Final = (1000, 1001)
"""Close codes of a carrier that ends the stream on purpose; Plivo says no more than that."""

FROZEN: Final = 5.0
"""Seconds of silence before a socket broke that tell a frozen carrier (its pings went unanswered) from a reset."""


class CallStatus(StrEnum):
    """The one-word outcome of a call record."""

    LIVE = "live"
    COMPLETED = "completed"
    UNANSWERED = "unanswered"
    FAILED = "failed"
    LOST = "lost"
    REFUSED = "refused"


class EndReason(StrEnum):
    """Why a call ended. Each belongs to one status, see STATUS_OF."""

    CALLER_HANGUP = "caller_hangup"
    CALLEE_HANGUP = "callee_hangup"
    AGENT_HANGUP = "agent_hangup"
    TRANSFERRED = "transferred"
    MAX_DURATION = "max_duration"
    OPERATOR_HANGUP = "operator_hangup"
    DRAIN_DEADLINE = "drain_deadline"

    AGENT_CRASHED = "agent_crashed"
    AGENT_HUNG = "agent_hung"
    AGENT_OUT_OF_MEMORY = "agent_out_of_memory"
    AGENT_NOT_READY = "agent_not_ready"
    AGENT_REFUSED = "agent_refused"
    AGENT_PROTOCOL_ERROR = "agent_protocol_error"
    NO_ANSWER_POSSIBLE = "no_answer_possible"
    MEDIA_NEVER_CAME = "media_never_came"
    CARRIER_PROTOCOL_ERROR = "carrier_protocol_error"
    OPERATOR_KILL = "operator_kill"

    CALLEE_BUSY = "callee_busy"
    CALLEE_NO_ANSWER = "callee_no_answer"
    CALLEE_DECLINED = "callee_declined"
    CALLEE_UNKNOWN = "callee_unknown"
    CALLEE_UNREACHABLE = "callee_unreachable"

    CARRIER_RESET = "carrier_reset"
    CARRIER_TIMEOUT = "carrier_timeout"
    GATEWAY_DIED = "gateway_died"

    NO_CAPACITY = "no_capacity"
    DRAINING = "draining"
    NO_ROUTE = "no_route"
    CLOSED_HOURS = "closed_hours"


_S, _R = CallStatus, EndReason
STATUS_OF: dict[EndReason, CallStatus] = {
    **dict.fromkeys(
        [
            _R.CALLER_HANGUP,
            _R.CALLEE_HANGUP,
            _R.AGENT_HANGUP,
            _R.TRANSFERRED,
            _R.MAX_DURATION,
            _R.OPERATOR_HANGUP,
            _R.DRAIN_DEADLINE,
        ],
        _S.COMPLETED,
    ),
    **dict.fromkeys(
        [
            _R.AGENT_CRASHED,
            _R.AGENT_HUNG,
            _R.AGENT_OUT_OF_MEMORY,
            _R.AGENT_NOT_READY,
            _R.AGENT_REFUSED,
            _R.AGENT_PROTOCOL_ERROR,
            _R.NO_ANSWER_POSSIBLE,
            _R.MEDIA_NEVER_CAME,
            _R.CARRIER_PROTOCOL_ERROR,
            _R.OPERATOR_KILL,
        ],
        _S.FAILED,
    ),
    **dict.fromkeys(
        [_R.CALLEE_BUSY, _R.CALLEE_NO_ANSWER, _R.CALLEE_DECLINED, _R.CALLEE_UNKNOWN, _R.CALLEE_UNREACHABLE],
        _S.UNANSWERED,
    ),
    **dict.fromkeys([_R.CARRIER_RESET, _R.CARRIER_TIMEOUT, _R.GATEWAY_DIED], _S.LOST),
    **dict.fromkeys([_R.NO_CAPACITY, _R.DRAINING, _R.NO_ROUTE, _R.CLOSED_HOURS], _S.REFUSED),
}


class EndedBy(StrEnum):
    """Who ended the call."""

    CALLER = "caller"
    CALLEE = "callee"
    AGENT = "agent"
    GATEWAY = "gateway"
    CARRIER = "carrier"
    OPERATOR = "operator"


def of_parties(reason: EndReason, by: EndedBy, direction: str) -> tuple[EndReason, EndedBy]:
    """The person at the other end is the caller of a call that came, and the callee of one that we placed."""
    if direction != "outbound":
        return reason, by
    person = EndedBy.CALLEE if by is EndedBy.CALLER else by
    return (EndReason.CALLEE_HANGUP if reason is EndReason.CALLER_HANGUP else reason), person


def end_of_stream(said: str, close_code: int, silent: float) -> tuple[EndReason, EndedBy, str]:
    """How a call ended whose stream the carrier ended: reason, by whom, detail.

    Args:
        said: of the stream's end: `stop`, `protocol-error`, or that the socket closed.
        close_code: of the media socket.
        silent: seconds since it said anything.
    """
    if said == "protocol-error":
        return EndReason.CARRIER_PROTOCOL_ERROR, EndedBy.CARRIER, ""
    if said == "stop" or close_code in ORDERLY:
        return EndReason.CALLER_HANGUP, EndedBy.CALLER, ""
    if silent > FROZEN:
        return EndReason.CARRIER_TIMEOUT, EndedBy.CARRIER, f"the media socket was silent for {silent:.0f} s"
    return EndReason.CARRIER_RESET, EndedBy.CARRIER, "the media socket broke without a stop"
