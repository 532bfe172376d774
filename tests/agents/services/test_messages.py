from __future__ import annotations

import copy
import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.services.base import Message
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT, NO_RESULT, alternating, repaired


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


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def agent(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_prompts_become_one_and_later_instructions_the_callers() -> None:
    talk = [SYSTEM, {"role": "system", "content": "Be kind."}, ASKED, agent("Yes."), SYSTEM]
    assert alternating(talk) == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        ASKED,
        agent("Yes."),
        user("<system>\nBe brief.\n</system>"),
    ]


def test_the_caller_has_the_first_and_the_last_word() -> None:
    assert alternating([SYSTEM, agent("Hello.")]) == [
        SYSTEM,
        user(CALLER_PRESENT),
        agent("Hello."),
        user(CALLER_SILENT),
    ]
    assert alternating([]) == [user(CALLER_PRESENT)]


def test_what_one_says_in_a_row_becomes_one_turn() -> None:
    assert alternating([user("A."), user("B."), agent("C."), calling("a"), result("a")]) == [
        user("A.\n\nB."),
        calling("a", content="C."),
        result("a"),
    ]
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    assert alternating([user("A."), {"role": "user", "content": [picture]}]) == [
        {"role": "user", "content": [{"type": "text", "text": "A."}, picture]}
    ]


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


@given(TALK)
def test_whatever_comes_in_turns_alternate(talk: list[Message]) -> None:
    turns = alternating(repaired(talk))
    roles = [message["role"] for message in turns]
    assert "system" not in roles[1:]
    spoken = [role for role in roles if role != "system"]
    assert spoken[0] == "user"
    assert spoken[-1] != "assistant"
    assert all(one != other for one, other in itertools.pairwise(spoken) if one != "tool")
    assert repaired(turns) == turns
