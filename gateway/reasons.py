"""How a call can end: the closed list that records, metrics and logs share."""

from __future__ import annotations

from enum import StrEnum


class CallStatus(StrEnum):
    """The one-word outcome of a call record."""

    LIVE = "live"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    REFUSED = "refused"


class EndReason(StrEnum):
    """Why a call ended. Each belongs to one status, see STATUS_OF."""

    CALLER_HANGUP = "caller_hangup"
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
    **dict.fromkeys([_R.CARRIER_RESET, _R.CARRIER_TIMEOUT, _R.GATEWAY_DIED], _S.LOST),
    **dict.fromkeys([_R.NO_CAPACITY, _R.DRAINING, _R.NO_ROUTE, _R.CLOSED_HOURS], _S.REFUSED),
}


class EndedBy(StrEnum):
    """Who ended the call."""

    CALLER = "caller"
    AGENT = "agent"
    GATEWAY = "gateway"
    CARRIER = "carrier"
    OPERATOR = "operator"
