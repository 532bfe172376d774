"""Functions side by side, in time, and never more of them than is good for a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import pytest
from fakes.control import FakeControl
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from offhook.agents.api import SettingsError
from offhook.agents.functions import runner as subject
from offhook.agents.functions.base import CallControl, Function, FunctionFailed, FunctionResult
from offhook.agents.functions.runner import SILENT, FunctionRunner
from offhook.agents.services.base import FunctionCall, FunctionSchema

pytestmark = pytest.mark.virtual_time

Body = Callable[[dict[str, Any], CallControl], Awaitable[Any]]


def make(name: str, body: Body, **options: Any) -> Function:
    return Function(FunctionSchema(name, "Do it.", {"type": "object"}), body, **options)


def waits(name: str, seconds: float, result: Any = "ready", **options: Any) -> Function:
    async def body(arguments: dict[str, Any], control: CallControl) -> Any:
        await asyncio.sleep(seconds)
        return result

    return make(name, body, **options)


def raises(name: str, error: Exception) -> Function:
    async def body(arguments: dict[str, Any], control: CallControl) -> Any:
        raise error

    return make(name, body)


def call(name: str, arguments: str = "{}", id: str = "1") -> FunctionCall:
    return FunctionCall(id, name, arguments)


class Told:
    """What the runner told the conversation."""

    def __init__(self) -> None:
        self.slow: list[str] = []
        self.background: list[FunctionResult] = []

    def runner(self, *functions: Function, **options: Any) -> FunctionRunner:
        return FunctionRunner(
            functions,
            FakeControl(),
            on_slow=lambda call: self.slow.append(call.name),
            on_background=self.background.append,
            **options,
        )


def notes(runner: FunctionRunner, name: str = "function") -> list[dict[str, Any]]:
    control = runner._control
    assert isinstance(control, FakeControl)
    return [data for noted, data in control.notes if noted == name]


@pytest.fixture
def told() -> Told:
    return Told()


def clock() -> float:
    return asyncio.get_running_loop().time()


async def test_calls_run_side_by_side_and_keep_their_order(told: Told) -> None:
    runner = told.runner(waits("slow", 1.0, {"a": 1}), waits("quick", 0.1, then="listen"))
    began = clock()
    results = await runner.run([call("slow", '{"x": 1}', "a"), call("quick", "", "b"), call("quick", id="c")])
    assert clock() - began == pytest.approx(1.0)
    assert [(r.id, r.name, r.content, r.ok, r.then) for r in results] == [
        ("a", "slow", '{"a":1}', True, "reply"),
        ("b", "quick", "ready", True, "listen"),
        ("c", "quick", "ready", True, "listen"),
    ]
    assert results[0].arguments == {"x": 1}
    assert results[0].seconds == pytest.approx(1.0)
    assert told.slow == []
    assert notes(runner)[-1] == {"function": "slow", "ok": True, "seconds": 1.0}
    assert not runner.busy


async def test_a_slow_function_is_told_once_a_run(told: Told) -> None:
    runner = told.runner(waits("one", 3.0), waits("two", 5.0), waits("quick", 0.5))
    await runner.run([call("quick"), call("one"), call("two")])
    assert told.slow == ["one"]
    await runner.run([call("two")])
    assert told.slow == ["one", "two"]


async def test_functions_that_want_silence_get_it(told: Told) -> None:
    runner = told.runner(waits("hold", 30.0, filler=SILENT, timeout=60), waits("look", 3.0))
    await runner.run([call("hold")])
    assert told.slow == []
    await runner.run([call("hold"), call("look")])
    assert told.slow == ["look"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (call("fly"), "There is no function 'fly'. There are: look."),
        (
            call("look", "{"),
            "The arguments are not valid JSON (EOF while parsing an object at line 1 column 1). Correct it",
        ),
        (call("look", "[1]"), "The arguments must be one JSON object. Correct it and call look again."),
        (call("look", "[" * 20_000), "The arguments are not valid JSON ("),
        (call("look", " " * 40_000), "The arguments have 40000 characters; the limit is 32000."),
    ],
)
async def test_what_the_model_did_wrong_it_is_told(told: Told, wanted: FunctionCall, said: str) -> None:
    [result] = await (runner := told.runner(waits("look", 1.0))).run([wanted])
    assert result.content.startswith(said)
    assert (result.ok, result.then) == (False, "reply")
    assert notes(runner)[0]["ok"] is False


async def test_what_went_wrong_inside(told: Told) -> None:
    runner = told.runner(
        raises("failed", FunctionFailed("Nobody answers there.")),
        raises("bug", ValueError("secret detail")),
        raises("own", TimeoutError("the library's own")),
        waits("late", 100.0, timeout=2.0, then="end"),
    )
    failed, bug, own, late = await runner.run([call("failed"), call("bug"), call("own"), call("late")])
    assert (failed.content, failed.ok) == ("Nobody answers there.", False)
    assert bug.content.startswith("The function failed because of a fault of its own.")
    assert own.content == bug.content
    assert "secret" not in bug.content
    assert late.content == "The function gave no result in time. It may or may not have done its work."
    assert (late.ok, late.then, late.seconds) == (False, "reply", pytest.approx(2.0))
    faults = notes(runner, "function.failed")
    assert [fault["error"] for fault in faults] == ["ValueError: secret detail", "TimeoutError: the library's own"]
    assert "in body" in faults[0]["traceback"]
    assert notes(runner)[-1]["error"] == "no result within 2 s"


async def test_results_of_every_kind_and_size(told: Told) -> None:
    class Colour(Enum):
        RED = "red"

    class Table(BaseModel):
        number: int

    circle: list[Any] = []
    circle.append(circle)
    values = [None, "", {"c": Colour.RED, "s": {1}}, Table(number=3), "x" * 9_000, object, circle]
    runner = told.runner(*[waits(f"f{index}", 0, value) for index, value in enumerate(values)])
    contents = [result.content for result in await runner.run([call(f"f{i}") for i in range(len(values))])]
    assert contents[:4] == ["Done.", "Done, without a result.", '{"c":"red","s":[1]}', '{"number":3}']
    assert contents[4] == "x" * 8_000 + "\n[cut: the first 8000 of 9000 characters]"
    assert "class 'object'" in contents[5]
    assert contents[6] == "[[...]]"


async def test_a_background_function_is_answered_at_once_and_told_later(told: Told) -> None:
    runner = told.runner(waits("search", 9.0, "found it", background=True))
    [started] = await runner.run([call("search", id="s")])
    assert (started.ok, started.content[:8], clock()) == (True, "Started.", 0.0)
    assert runner.busy
    await asyncio.sleep(10)
    assert [(r.id, r.content, r.ok) for r in told.background] == [("s", "found it", True)]
    assert told.slow == []
    assert not runner.busy


async def test_interrupting_cancels_all_but_what_is_kept(told: Told) -> None:
    runner = told.runner(waits("look", 5.0), waits("pay", 5.0, "paid", keep=True))
    task = asyncio.create_task(runner.run([call("look"), call("pay")]))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await asyncio.sleep(5)
    assert [(r.name, r.content) for r in told.background] == [("pay", "paid")]
    assert [(note["function"], note["ok"]) for note in notes(runner)] == [("look", False), ("pay", True)]


async def test_hanging_up_waits_for_what_is_kept_only(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    runner = told.runner(waits("look", 50.0), waits("pay", 3.0, keep=True, background=True))
    task = asyncio.create_task(runner.run([call("pay"), call("look")]))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    began = clock()
    await runner.close()
    assert clock() - began == pytest.approx(2.0)
    assert told.background == []  # nobody is left to hear it
    assert caplog.messages == ["function pay after the call: ok"]
    assert [(note["function"], note["ok"]) for note in notes(runner)] == [("look", False), ("pay", True)]
    [late] = await runner.run([call("look")])
    assert late.content == "The call is over."


async def test_hanging_up_does_not_wait_for_ever(told: Told) -> None:
    runner = told.runner(waits("pay", 60.0, keep=True, background=True, timeout=100))
    await runner.run([call("pay")])
    began = clock()
    await runner.close()
    assert clock() - began == pytest.approx(subject.KEEP_GRACE)
    assert notes(runner)[-1]["error"] == "cancelled"
    await runner.close()


async def test_closing_under_a_run_gives_it_results(told: Told) -> None:
    runner = told.runner(waits("look", 50.0))
    task = asyncio.create_task(runner.run([call("look")]))
    await asyncio.sleep(1)
    await runner.close()
    [result] = await task
    assert (result.ok, result.content) == (False, "It was cancelled.")


async def test_a_model_in_circles_is_stopped(told: Told) -> None:
    runner = told.runner(waits("look", 0.0), max_per_turn=3, max_per_call=5)
    first = await runner.run([call("look")] * 4)
    assert [result.ok for result in first] == [True, True, True, False]
    assert first[3].content == "Too many function calls in a row. Answer the caller with what you know now."
    runner.new_turn()
    second = await runner.run([call("look")] * 3)
    assert [result.ok for result in second] == [True, True, False]
    assert second[2].content.startswith("No more functions can be called on this call.")


async def test_functions_may_be_replaced(told: Told) -> None:
    runner = told.runner(waits("look", 1.0))
    task = asyncio.create_task(runner.run([call("look")]))
    await asyncio.sleep(0.5)
    runner.replace([waits("see", 1.0)])
    assert [schema.name for schema in runner.schemas] == ["see"]
    assert runner.get("see") is not None
    assert runner.get("look") is None
    assert (await task)[0].ok
    with pytest.raises(SettingsError, match="tools: two functions are called see; rename one"):
        runner.replace([waits("see", 1.0), waits("see", 2.0)])


async def test_halves_of_characters_do_not_get_through(told: Told) -> None:
    runner = told.runner(waits("half", 0.0, "a\ud800b"), waits("inside", 0.0, ["\ud800"]))
    results = await runner.run([call("half"), call("inside"), call("half", '{"x": "\\ud800"}')])
    assert results[0].content == "a?b"
    assert results[1].content == "['\\ud800']"
    assert results[2].content.startswith("The arguments are not valid JSON")


@given(st.text() | st.from_regex(r"[\[{\"\\\\ud80:,0-9.eE+\-truefalsnNaI\]} ]*", fullmatch=True))
def test_whatever_is_written_is_an_object_or_an_error(text: str) -> None:
    found: object = {}
    with suppress(ValueError):
        found = subject.parse_arguments(text)
    assert isinstance(found, dict)


async def test_nothing_to_call_is_nothing_to_do(told: Told) -> None:
    assert await told.runner().run([]) == []
