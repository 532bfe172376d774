"""Statuses in the words of records, and answers as statuses."""

from __future__ import annotations

import pytest

from offhook.gateway.reasons import STATUS_OF, CallStatus, EndReason
from offhook.gateway.sip.outcome import end_reason, hang_up_cause, refusal
from offhook.providers.base import Answer, DialAnswer, HangUpAnswer, RejectAnswer, SayAnswer


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (486, EndReason.CALLEE_BUSY),
        (600, EndReason.CALLEE_BUSY),
        (480, EndReason.CALLEE_NO_ANSWER),
        (487, EndReason.CALLEE_NO_ANSWER),
        (404, EndReason.CALLEE_UNKNOWN),
        (603, EndReason.CALLEE_DECLINED),
        (488, EndReason.NO_ANSWER_POSSIBLE),
        (503, EndReason.CALLEE_UNREACHABLE),
        (302, EndReason.CALLEE_UNREACHABLE),
    ],
)
def test_why_nobody_answered(status: int, reason: EndReason) -> None:
    assert end_reason(status) == reason


def test_an_unanswered_call_is_no_failure_of_ours() -> None:
    assert STATUS_OF[end_reason(486)] == CallStatus.UNANSWERED


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (RejectAnswer("busy"), 486),
        (RejectAnswer("rejected"), 404),
        (HangUpAnswer(), 480),
        (SayAnswer("full"), 503),
        (DialAnswer("+15550199"), 503),
    ],
)
def test_how_a_call_is_refused(answer: Answer, status: int) -> None:
    assert refusal(answer)[0] == status


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (None, "Q.850;cause=16"),
        (EndReason.AGENT_HANGUP, "Q.850;cause=16"),
        (EndReason.MAX_DURATION, "Q.850;cause=16"),
        (EndReason.AGENT_CRASHED, "Q.850;cause=41"),
        (EndReason.CARRIER_TIMEOUT, "Q.850;cause=102"),
        (EndReason.CARRIER_PROTOCOL_ERROR, "Q.850;cause=127"),
    ],
)
def test_what_the_other_side_is_told_of_a_hang_up(reason: EndReason | None, cause: str) -> None:
    assert hang_up_cause(reason) == cause
