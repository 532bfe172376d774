"""What is remembered of a conversation, and when another agent may go on with it."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.gateway.reasons import EndReason
from offhook.gateway.takeover import MAX_HISTORY, SETTLED, SURVIVED, Memory, Takeovers


def said(role: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def test_messages_before_the_start_stay_and_later_ones_are_replaced() -> None:
    memory = Memory()
    memory.put(0, [said("system", "be kind"), said("user", "a"), said("assistant", "b")])
    memory.put(2, [said("assistant", "b, as heard"), said("user", "c")])
    assert [message["content"] for message in memory.history] == ["be kind", "a", "b, as heard", "c"]
    memory.put(4, [])
    assert len(memory.history) == 4
    memory.put(9, [said("user", "a gap is none of our business")])
    assert len(memory.history) == 5
    memory.put(-3, [said("user", "from the start")])
    assert len(memory.history) == 1


def test_the_oldest_are_forgotten_and_the_system_is_not() -> None:
    memory = Memory()
    memory.put(0, [said("system", "be kind"), *(said("user", f"{n} " + "x" * 1000) for n in range(1000))])
    kept = memory.history
    assert kept[0]["content"] == "be kind"
    assert kept[-1]["content"].startswith("999 ")
    assert 200 < len(kept) < 260
    memory.put(1001, [said("user", "the agent's own count goes on")])
    memory.put(1000, [said("user", "999, as heard")])
    assert [message["content"] for message in memory.history[-2:]] == [f"998 {'x' * 1000}", "999, as heard"]


def test_the_result_of_a_forgotten_function_call_is_forgotten() -> None:
    memory = Memory()
    call = said("assistant", "y" * (MAX_HISTORY - 1000), tool_calls=[{"id": "1"}])
    memory.put(0, [said("system"), call, said("tool", "20°", tool_call_id="1"), said("user", "z" * 2000)])
    assert [message["role"] for message in memory.history] == ["system", "user"]


def test_no_message_is_too_big_to_be_forgotten() -> None:
    memory = Memory([said("system", "s" * 2 * MAX_HISTORY), said("user", "hello")])
    assert memory.history == []
    memory.put(2, [said("user", "again")])
    assert memory.history == [said("user", "again")]


def test_the_next_agent_counts_from_nought() -> None:
    memory = Memory(said("user", f"{n} " + "x" * 1000) for n in range(1000))
    kept = len(memory.history)
    handed = memory.hand_over()
    handed.put(kept, [said("assistant", "Sorry, where were we?")])
    assert len(handed.history) <= kept + 1
    assert handed.history[-2:] == [memory.history[-1], said("assistant", "Sorry, where were we?")]
    assert len(memory.history) == kept


def test_a_call_goes_on_so_many_times_and_never_twice_in_a_row() -> None:
    takeovers = Takeovers(3)
    assert takeovers.begin(EndReason.AGENT_CRASHED, "signal SIGKILL", 100.0)
    assert takeovers.resumed(100.8) == {"reason": "agent_crashed", "detail": "signal SIGKILL", "pause_ms": 800}
    assert not takeovers.begin(EndReason.AGENT_CRASHED, "again", 100.0 + SETTLED - 0.1)
    assert takeovers.begin(EndReason.AGENT_HUNG, "no beat", 100.0 + SETTLED)
    assert takeovers.begin(EndReason.AGENT_OUT_OF_MEMORY, "9 GB", 200.0)
    assert not takeovers.begin(EndReason.AGENT_CRASHED, "once more", 300.0)
    assert not Takeovers(0).begin(EndReason.AGENT_CRASHED, "", 0.0)


@pytest.mark.parametrize("reason", sorted(set(EndReason) - SURVIVED))
def test_other_ends_are_none_of_an_agents(reason: EndReason) -> None:
    assert not Takeovers(1).begin(reason, "", 0.0)


def test_a_take_over_that_fails_is_put_down_to_the_loss() -> None:
    takeovers = Takeovers(1)
    takeovers.begin(EndReason.AGENT_HUNG, "no beat", 1.0)
    assert takeovers.failed(EndReason.AGENT_NOT_READY, "too slow") == (
        EndReason.AGENT_HUNG,
        "no beat; nobody took over: too slow",
    )
    assert takeovers.failed(EndReason.OPERATOR_KILL, "") == (EndReason.OPERATOR_KILL, "")
