from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.services.base import Message
from offhook.agents.services.messages import NO_RESULT, repaired


def calling(*ids: str, content: str | None = None, arguments: str = '{"day": "Monday"}') -> Message:
    calls = [{"id": id, "type": "function", "function": {"name": "book", "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(id: str, content: Any = "done") -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Book Monday."}


def test_a_sound_conversation_is_left_as_it_is() -> None:
    talk = [SYSTEM, ASKED, calling("a", "b"), result("a"), result("b"), {"role": "assistant", "content": "Done."}]
    assert repaired(talk) == talk


def test_a_call_without_result_gets_one() -> None:
    talk = [ASKED, calling("a", "b"), result("a"), {"role": "user", "content": "Wait!"}]
    assert repaired(talk) == [ASKED, calling("a", "b"), result("a"), result("b", NO_RESULT), talk[-1]]


def test_a_result_without_call_is_left_out() -> None:
    assert repaired([ASKED, result("gone")]) == [ASKED]


def test_a_second_result_is_left_out() -> None:
    assert repaired([calling("a"), result("a"), result("a", "again")]) == [calling("a"), result("a")]


def test_a_result_that_came_late_is_moved_to_its_call() -> None:
    said = {"role": "user", "content": "And Tuesday?"}
    assert repaired([ASKED, calling("a"), said, result("a")]) == [ASKED, calling("a"), result("a"), said]


def test_ids_that_come_again_in_every_turn_keep_their_own_results() -> None:
    talk = [calling("call_0"), result("call_0", "one"), ASKED, calling("call_0"), result("call_0", "two")]
    assert repaired(talk) == talk


def test_broken_arguments_become_an_empty_object() -> None:
    for broken in ('{"day": "Mo', "", "null", "[1]"):
        (message, _) = repaired([calling("a", arguments=broken)])
        assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_what_says_nothing_is_left_out() -> None:
    talk = [SYSTEM, {"role": "assistant", "content": ""}, {"role": "assistant", "content": None}, ASKED]
    assert repaired(talk) == [SYSTEM, ASKED]


def test_keys_of_our_own_stay_at_home() -> None:
    assert repaired([{**ASKED, "heard_ms": 700}]) == [ASKED]


def test_a_result_that_is_no_text_becomes_json() -> None:
    assert repaired([calling("a"), result("a", {"ok": True})])[1]["content"] == '{"ok": true}'


TALK = st.lists(
    st.one_of(
        st.just(SYSTEM),
        st.just(ASKED),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(lambda ids: calling(*ids)),
        st.sampled_from("abc").map(result),
        st.sampled_from([None, "", "Yes."]).map(lambda text: {"role": "assistant", "content": text}),
    ),
    max_size=12,
)


@given(TALK)
def test_whatever_comes_in_every_call_has_one_result_right_after_it(talk: list[Message]) -> None:
    before = copy.deepcopy(talk)
    given_out = repaired(talk)
    assert talk == before
    owed: list[str] = []
    for message in given_out:
        if message["role"] == "tool":
            assert message["tool_call_id"] == owed.pop(0)
            continue
        assert not owed
        owed = [call["id"] for call in message.get("tool_calls", ())]
        assert message.get("content") or owed
    assert not owed
    assert repaired(given_out) == given_out
    json.dumps(given_out)
