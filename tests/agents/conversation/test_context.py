"""The conversation keeps what was heard, is always fit for a model, and can be handed on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from offhook.agents.conversation.context import LOST, RUNNING, Context, Reply
from offhook.agents.services.base import FunctionCall


@dataclass
class Said:
    text_so_far: str
    settled: bool = False


def test_only_what_was_heard_stays() -> None:
    context = Context()
    context.caller("What are your hours?")
    first, second = Said("We open at nine."), Said("We close at five.")
    context.reply(Reply([first, second]))
    assert context.messages()[1] == {"role": "assistant", "content": "We open at nine. We close at five."}
    first.text_so_far, second.text_so_far = "We open", ""
    assert context.messages()[1] == {"role": "assistant", "content": "We open"}


def test_a_reply_nobody_heard_is_none_and_the_caller_goes_on_in_one_message() -> None:
    context = Context()
    context.caller("I would like")
    unheard = Said("What")
    context.reply(Reply([unheard]))
    unheard.text_so_far = ""
    context.caller("a table for two.")
    assert context.messages() == [{"role": "user", "content": "I would like a table for two."}]


def test_every_call_of_a_function_has_a_result() -> None:
    context = Context()
    context.caller("Book it")
    context.reply(Reply([], [FunctionCall("c1", "book", '{"day": "mon"}'), FunctionCall("c2", "mail", "{}")]))
    context.result("c2", "sent")
    assert context.messages()[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "book", "arguments": '{"day": "mon"}'}},
                {"id": "c2", "type": "function", "function": {"name": "mail", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": RUNNING},
        {"role": "tool", "tool_call_id": "c2", "content": "sent"},
    ]
    context.result("c1", "booked")
    assert context.messages()[2]["content"] == "booked"


def test_changes_tell_only_what_is_new() -> None:
    context = Context()
    context.caller("Hello")
    assert context.changes() == (0, [{"role": "user", "content": "Hello"}])
    assert context.changes() is None
    said = Said("Good morning to you.")
    context.reply(Reply([said]))
    assert context.changes() == (1, [{"role": "assistant", "content": "Good morning to you."}])
    said.text_so_far = "Good"
    assert context.changes() == (1, [{"role": "assistant", "content": "Good"}])
    said.text_so_far = ""
    assert context.changes() == (1, [])


def test_a_conversation_that_is_taken_over_is_the_same() -> None:
    context = Context()
    context.caller("Book it")
    context.reply(Reply([Said("One moment.")], [FunctionCall("c1", "book", "{}")]))
    context.result("c1", "booked")
    context.caller("Thanks")
    again = Context(context.messages())
    assert again.messages() == context.messages()
    assert again.changes() is None


def test_the_oldest_part_gives_way_to_a_summary() -> None:
    context = Context()
    for i in range(6):
        context.caller(f"question {i}")
        context.reply(Reply([Said(f"answer {i}", settled=True)]))
    count, messages = context.oldest(4)
    assert (count, len(messages)) == (8, 8)
    before = context.tokens()
    context.replace_oldest(count, "They talked.")
    assert [message["content"] for message in context.messages()] == [
        "Summary of the conversation so far: They talked.",
        "question 4",
        "answer 4",
        "question 5",
        "answer 5",
    ]
    assert context.tokens() < before


def test_what_is_still_open_is_not_summarised() -> None:
    context = Context()
    context.caller("Hello")
    context.reply(Reply([Said("Hello.", settled=True)], [FunctionCall("c1", "book", "{}")]))
    for i in range(4):
        context.caller(f"question {i}")
        context.reply(Reply([Said(f"answer {i}", settled=True)]))
    assert context.oldest(2)[0] == 1
    context.result("c1", "booked")
    assert context.oldest(2)[0] == 8


def test_calls_of_functions_that_share_an_id_get_their_own() -> None:
    context = Context()
    first = [context.own_id(FunctionCall("f", name, "{}")) for name in ("a", "b")]
    nameless = context.own_id(FunctionCall("", "c", "{}"))
    assert [call.id for call in (*first, nameless)] == ["f", "f_2", "call"]
    context.reply(Reply([], [*first, nameless]))
    again = Context(context.messages())
    assert again.own_id(FunctionCall("f", "a", "{}")).id == "f_3"


def test_a_function_that_ran_when_its_host_was_lost_is_not_waited_for() -> None:
    context = Context()
    context.caller("Book it")
    context.reply(Reply([], [FunctionCall("c1", "book", "{}"), FunctionCall("c2", "mail", "{}")]))
    context.result("c2", "sent")
    again = Context(context.messages())
    assert [message["content"] for message in again.messages() if message["role"] == "tool"] == [LOST, "sent"]


def test_what_the_caller_seems_to_say_is_one_message_with_what_he_said() -> None:
    context = Context()
    context.caller("I would like")
    assert context.messages(also="a table.") == [{"role": "user", "content": "I would like a table."}]
    assert context.messages() == [{"role": "user", "content": "I would like"}]


def test_a_long_conversation_costs_little() -> None:
    context = Context()
    for i in range(100):
        context.caller(f"This is the question number {i}, and it is about as long as questions are.")
        context.reply(Reply([Said(f"This is sentence {n} of the answer.", settled=True) for n in range(3)]))
    context.changes()
    began = time.perf_counter()
    for _ in range(20):
        assert context.changes() is None
    assert (time.perf_counter() - began) / 20 < 0.002, "it is asked for with every change of a call"
