"""The functions that act on the call, as the model sees them and as the call does."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.control import FakeControl

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import Function, FunctionFailed
from offhook.agents.functions.call_tools import call_tools
from offhook.agents.functions.runner import SILENT

EVERY = ["hang_up", "send_dtmf", "collect_dtmf", "leave_voicemail", "hold"]


def one(name: str, **options: Any) -> Function:
    [found] = [tool for tool in call_tools([name], **options) if tool.schema.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "arguments", "order", "then"),
    [
        ("hang_up", {"reason": "done"}, ("hang_up", "done"), "end"),
        ("hang_up", {}, ("hang_up", ""), "end"),
        ("send_dtmf", {"keys": "1ww#"}, ("send_dtmf", "1ww#"), "listen"),
        ("collect_dtmf", {}, ("collect_dtmf", (32, "#", 10.0, 4.0)), "reply"),
        (
            "collect_dtmf",
            {"max_digits": 4, "terminator": "", "seconds": 5},
            ("collect_dtmf", (4, "", 5.0, 4.0)),
            "reply",
        ),
        ("leave_voicemail", {"message": "Call back."}, ("leave_message", "Call back."), "end"),
        ("hold", {"seconds": 60}, ("hold", 60.0), "reply"),
    ],
)
async def test_a_tool_orders_what_it_says(name: str, arguments: dict[str, Any], order: Any, then: str) -> None:
    tool, control = one(name), FakeControl()
    await tool.call(arguments, control)
    assert control.orders == [order]
    assert (tool.then, tool.filler) == (then, SILENT)


def test_the_model_is_told_when_to_use_them() -> None:
    for tool in call_tools(EVERY, transfer_to="any"):
        assert 60 < len(tool.schema.description) < 400
        assert "call" not in tool.schema.parameters["properties"]
        assert tool.timeout > 60


async def test_typed_keys_come_back() -> None:
    control = FakeControl()
    tool = one("collect_dtmf")
    assert (await tool.call({}, control))["note"].startswith("Nothing was typed")
    control.keys = "0042"
    assert await tool.call({}, control) == {"digits": "0042"}


async def test_the_model_names_a_destination_and_no_number() -> None:
    tool = one("transfer", transfer_to={"sales": "+1 555 0123", "help": {"number": "sip:h@x", "when": "it is broken"}})
    assert tool.schema.parameters["properties"] == {"to": {"type": "string", "enum": ["sales", "help"]}}
    assert tool.schema.description.startswith("Connect the caller to one of: sales; help (it is broken); and leave")
    assert "555" not in str(tool.schema)
    control = FakeControl()
    await tool.call({"to": "sales"}, control)
    await tool.call({"to": " help "}, control)
    assert control.orders == [("transfer", "+15550123"), ("transfer", "sip:h@x")]
    for wrong in ({"to": "+15550199"}, {}, {"number": "+15550199"}):
        with pytest.raises(FunctionFailed, match="must be one of sales, help"):
            await tool.call(wrong, control)
    assert len(control.orders) == 2


async def test_one_number_or_any() -> None:
    control = FakeControl()
    single = one("transfer", transfer_to="+15550123")
    assert single.schema.parameters["properties"] == {}
    await single.call({"to": "+1900"}, control)
    anywhere = one("transfer", transfer_to="any")
    await anywhere.call({"number": "+1 555-0199"}, control)
    assert control.orders == [("transfer", "+15550123"), ("transfer", "+15550199")]
    with pytest.raises(FunctionFailed, match="is no telephone number"):
        await anywhere.call({"number": "the boss"}, control)


async def test_a_transfer_that_fails_says_why() -> None:
    control = FakeControl()
    control.refuses = "the route does not allow this number"
    with pytest.raises(FunctionFailed, match="the route does not allow"):
        await one("transfer", transfer_to="+15550123").call({}, control)


@pytest.mark.parametrize("keys", ["", "12e", "1 2", "1" * 33])
async def test_keys_that_are_none(keys: str) -> None:
    control = FakeControl()
    with pytest.raises(FunctionFailed, match="Wrong arguments: keys"):
        await one("send_dtmf").call({"keys": keys}, control)
    assert control.orders == []


def test_which_there_are() -> None:
    assert [tool.schema.name for tool in call_tools()] == ["hang_up"]
    assert [tool.schema.name for tool in call_tools([], transfer_to={"a": "1"})] == ["transfer"]
    assert [tool.schema.name for tool in call_tools(["hold", "transfer", "hold"], transfer_to="+1")] == [
        "hold", "transfer",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "transfer_to", "said"),
    [
        (["fly"], "", "call_tools: 'fly' is none of collect_dtmf, hang_up, hold, leave_voicemail, send_dtmf, transfer"),
        (["transfer"], "", "call_tools: transfer needs `transfer_to`"),
        ([], {"a": 15550123}, "transfer_to.a: write the number in quotes"),
        ([], {"a": "sales"}, "transfer_to.a: 'sales' is no phone number"),
        ([], {"a": {"numbr": "+1"}}, "transfer_to.a.numbr: is not known; there are number, when"),
        ([], {"a": {"when": "x"}}, "transfer_to.a: write the number in quotes"),
        ([], "nowhere", "transfer_to: 'nowhere' is no phone number"),
    ],
)
def test_settings_that_cannot_work(names: list[str], transfer_to: Any, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        call_tools(names, transfer_to=transfer_to)
    assert str(error.value).startswith(said)
