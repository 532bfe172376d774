from __future__ import annotations

from fakes.anthropic import fault_in
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.services.anthropic.messages import system_of, tools_of, turns_of
from offhook.agents.services.base import FunctionSchema, Message
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT

CACHE = {"cache_control": {"type": "ephemeral"}}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def agent(text: str | None, *ids: str) -> Message:
    calls = [{"id": id, "type": "function", "function": {"name": "book", "arguments": '{"day": 1}'}} for id in ids]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def result(id: str, text: str = "done") -> Message:
    return {"role": "tool", "tool_call_id": id, "content": text}


def block(text: str) -> Message:
    return {"type": "text", "text": text}


def use(id: str) -> Message:
    return {"type": "tool_use", "id": id, "name": "book", "input": {"day": 1}}


def forgot(_: str) -> None:
    return None


def test_the_prompt_stands_apart_and_is_cached() -> None:
    talk = [system("Be brief."), system("Be kind."), user("Hi.")]
    assert system_of(talk, cache=True) == [block("Be brief."), {**block("Be kind."), **CACHE}]
    assert system_of(talk, cache=False) == [block("Be brief."), block("Be kind.")]
    assert turns_of(talk, forgot) == [{"role": "user", "content": [block("Hi.")]}]


def test_functions_are_cached_by_the_last() -> None:
    functions = [FunctionSchema(name, "Books.", {"type": "object"}) for name in "ab"]
    tools = tools_of(functions, cache=True)
    assert [tool["name"] for tool in tools] == ["a", "b"]
    assert "cache_control" not in tools[0]
    assert tools[1] == {"name": "b", "description": "Books.", "input_schema": {"type": "object"}, **CACHE}


def test_calls_and_results_take_their_places() -> None:
    talk = [user("Book it."), agent("One moment.", "a", "b"), result("a"), result("b", "full"), user("And?")]
    assert turns_of(talk, forgot) == [
        {"role": "user", "content": [block("Book it.")]},
        {"role": "assistant", "content": [block("One moment."), use("a"), use("b")]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "done"},
                {"type": "tool_result", "tool_use_id": "b", "content": "full"},
                block("And?"),
            ],
        },
    ]


def test_the_caller_has_the_first_and_the_last_word() -> None:
    assert turns_of([system("Greet."), agent("Hello.")], forgot) == [
        {"role": "user", "content": [block(CALLER_PRESENT)]},
        {"role": "assistant", "content": [block("Hello.")]},
        {"role": "user", "content": [block(CALLER_SILENT)]},
    ]
    assert turns_of([system("Greet.")], forgot) == [{"role": "user", "content": [block(CALLER_PRESENT)]}]


def test_an_instruction_in_the_midst_is_marked() -> None:
    talk = [user("Hi."), agent("Hello."), system("Say goodbye.")]
    assert turns_of(talk, forgot)[-1] == {"role": "user", "content": [block("<system>\nSay goodbye.\n</system>")]}


def test_ids_of_other_services_are_made_fit() -> None:
    turns = turns_of([user("Hi."), agent(None, "call:1/x"), result("call:1/x")], forgot)
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"] == "call_1_x"


def test_reasoning_goes_back_before_its_call() -> None:
    thoughts = {"a": [{"type": "thinking", "thinking": "hm", "signature": "s"}], "b": [{"type": "redacted_thinking"}]}
    turns = turns_of([user("Hi."), agent("Yes.", "a", "b"), result("a"), result("b")], thoughts.get)
    assert turns[1]["content"] == [thoughts["a"][0], block("Yes."), use("a"), thoughts["b"][0], use("b")]


MESSAGE = st.one_of(
    st.sampled_from([system("Be brief."), user("Hi."), user("  "), agent("Hello."), agent(""), agent(" \n")]),
    st.lists(st.sampled_from(["a", "b.1", "c"]), min_size=1, max_size=3, unique=True).map(lambda ids: agent("", *ids)),
    st.sampled_from(["a", "b.1", "c"]).map(result),
)


@given(st.lists(MESSAGE, max_size=12))
def test_whatever_comes_in_the_api_takes_what_comes_out(talk: list[Message]) -> None:
    assert fault_in(turns_of(talk, forgot)) == ""
