"""The conversation keeps what was heard, is always fit for a model, and can be handed on."""

from __future__ import annotations

from dataclasses import dataclass

from offhook.agents.conversation.context import RUNNING, Context, Reply
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
