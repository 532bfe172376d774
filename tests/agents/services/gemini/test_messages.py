from __future__ import annotations

from typing import Any

from fakes.gemini import fault_in
from hypothesis import given
from hypothesis import strategies as st

from offhook.agents.services.base import Message
from offhook.agents.services.gemini.messages import contents_of, instruction_of
from offhook.agents.services.messages import CALLER_PRESENT, CALLER_SILENT


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def agent(text: str | None, *ids: str) -> Message:
    calls = [{"id": id, "type": "function", "function": {"name": f"f_{id}", "arguments": '{"day": 1}'}} for id in ids]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def result(id: str, text: str = "done") -> Message:
    return {"role": "tool", "tool_call_id": id, "content": text}


def contents(*talk: Message) -> list[dict[str, Any]]:
    return contents_of(talk, lambda _: None, sign=False)


def test_the_prompt_stands_apart() -> None:
    talk = [system("Be brief."), system("Be kind."), user("Hi.")]
    assert instruction_of(talk) == "Be brief.\n\nBe kind."
    assert contents(*talk) == [{"role": "user", "parts": [{"text": "Hi."}]}]


def test_results_stand_apart_from_what_the_caller_says_next() -> None:
    assert contents(user("Book."), agent("One moment.", "a"), result("a"), user("And?")) == [
        {"role": "user", "parts": [{"text": "Book."}]},
        {
            "role": "model",
            "parts": [{"text": "One moment."}, {"functionCall": {"name": "f_a", "args": {"day": 1}}}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "f_a", "response": {"output": "done"}}}]},
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


def test_the_caller_has_the_first_and_the_last_word() -> None:
    assert contents(agent("Hello.")) == [
        {"role": "user", "parts": [{"text": CALLER_PRESENT}]},
        {"role": "model", "parts": [{"text": "Hello."}]},
        {"role": "user", "parts": [{"text": CALLER_SILENT}]},
    ]


def test_an_instruction_in_the_midst_is_marked() -> None:
    assert contents(user("Hi."), agent("Hello."), system("Say goodbye."))[-1] == {
        "role": "user",
        "parts": [{"text": "<system>\nSay goodbye.\n</system>"}],
    }


MESSAGE = st.one_of(
    st.sampled_from([system("Be brief."), user("Hi."), user(""), agent("Hello."), agent("")]),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(lambda ids: agent("", *ids)),
    st.sampled_from("abc").map(result),
)


@given(st.lists(MESSAGE, max_size=12))
def test_whatever_comes_in_the_api_takes_what_comes_out(talk: list[Message]) -> None:
    assert fault_in(contents(*talk)) == ""
