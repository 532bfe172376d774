"""Python functions as a model sees them, and what it is told when it calls them wrongly."""

from __future__ import annotations

import threading
from datetime import date
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from fakes.control import FakeControl
from pydantic import BaseModel, Field

from offhook.agents.functions.base import CallControl, FunctionFailed
from offhook.agents.functions.python import function, functions_of, parse_docstring, tool


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Guest(BaseModel):
    title: str
    age: int = 0


class Node(BaseModel):
    name: str
    children: list[Node] = []


async def book(
    day: date,
    guests: Annotated[int, Field(ge=1, le=12, description="how many come")],
    call: CallControl,
    area: Literal["inside", "outside"] = "inside",
    size: Size | None = None,
    note: Annotated[str, "a wish, in the caller's words"] = "",
) -> dict[str, Any]:
    """Book a table
    for tonight or later.

    More about it that no model needs.

    Args:
        day: the day of the visit,
            never in the past.
        guests: not this text, the one in Field.

    Returns:
        note: what was booked.
    """
    return {"day": day.isoformat(), "guests": guests, "area": area, "size": size, "note": note, "id": call.info.id}


def test_the_schema_says_what_the_signature_says() -> None:
    schema = function(book).schema
    assert (schema.name, schema.description) == ("book", "Book a table for tonight or later.")
    assert schema.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["day", "guests"],
        "properties": {
            "day": {"type": "string", "format": "date", "description": "the day of the visit, never in the past."},
            "guests": {"type": "integer", "minimum": 1, "maximum": 12, "description": "how many come"},
            "area": {"type": "string", "enum": ["inside", "outside"], "default": "inside"},
            "size": {"anyOf": [{"type": "string", "enum": ["small", "large"]}, {"type": "null"}], "default": None},
            "note": {"type": "string", "default": "", "description": "a wish, in the caller's words"},
        },
    }


async def test_arguments_arrive_as_the_types_that_were_asked_for() -> None:
    result = await function(book).call({"day": "2026-12-24", "guests": "4", "size": "large", "note": 5}, FakeControl())
    assert result == {
        "day": "2026-12-24",
        "guests": 4,
        "area": "inside",
        "size": Size.LARGE,
        "note": "5",
        "id": "call-1",
    }


async def test_wrong_arguments_are_told_so_that_they_can_be_mended() -> None:
    with pytest.raises(FunctionFailed) as failed:
        await function(book).call({"guests": 40, "area": "roof", "smoker": True}, FakeControl())
    assert str(failed.value) == (
        "Wrong arguments: day: is missing; guests: input should be less than or equal to 12; "
        "area: input should be 'inside' or 'outside'; smoker: is not known. "
        "Correct them and call book again."
    )


async def test_models_within_models_need_no_references() -> None:
    async def invite(guests: list[Guest], schema: str, copy: bool = False) -> str:
        """Invite them."""
        return f"{guests[0].title} {guests[0].age} {schema} {copy}"

    made = function(invite)
    guest = made.schema.parameters["properties"]["guests"]["items"]
    assert guest["properties"] == {"title": {"type": "string"}, "age": {"type": "integer", "default": 0}}
    assert await made.call({"guests": [{"title": "Ann"}], "schema": "x"}, FakeControl()) == "Ann 0 x False"
    with pytest.raises(FunctionFailed, match=r"guests\.0\.title: is missing"):
        await made.call({"guests": [{}], "schema": "x"}, FakeControl())


def test_a_type_that_contains_itself_ends_somewhere() -> None:
    def grow(tree: Node) -> None:
        """Grow."""

    tree = function(grow).schema.parameters["properties"]["tree"]
    assert tree["properties"]["children"]["items"] == {"type": "object"}


async def test_a_plain_function_runs_in_a_thread() -> None:
    def where() -> bool:
        """Tell."""
        return threading.current_thread() is threading.main_thread()

    assert await function(where).call({}, FakeControl()) is False


async def test_marked_methods_are_found_and_stay_what_they_are() -> None:
    class Desk:
        def __init__(self) -> None:
            self.open = True

        @tool
        async def is_open(self) -> bool:
            """Whether the desk is open."""
            return self.open

        @tool(name="shut", timeout=3, keep=True, filler="One moment.", then="listen")
        async def close(self) -> None:
            """Shut the desk."""
            self.open = False

        async def unmarked(self) -> None:
            """Nobody's business."""

    desk = Desk()
    shut, is_open = sorted(functions_of(desk), key=lambda one: one.schema.name, reverse=True)
    assert (shut.schema.name, shut.timeout, shut.keep, shut.filler, shut.then) == (
        "shut", 3, True, ("One moment.",), "listen",
    )  # fmt: skip
    await shut.call({}, FakeControl())
    assert await is_open.call({}, FakeControl()) is False
    assert await desk.is_open() is False
    assert function(desk.close, name="bar", timeout=1).timeout == 1


async def test_callables_that_are_no_functions() -> None:
    class Adder:
        async def __call__(self, a: int, call: CallControl | None = None) -> int:
            """Add one."""
            assert call is not None
            return a + 1

    assert await function(Adder(), name="add").call({"a": 1}, FakeControl()) == 2

    async def power(base: int, exponent: int) -> int:
        """Raise to a power."""
        return int(base**exponent)

    assert await function(partial(power, 2), name="power").call({"exponent": 5}, FakeControl()) == 32


def test_signatures_that_cannot_be_told_to_a_model() -> None:
    def bare(x) -> None:  # type: ignore[no-untyped-def]
        """Do."""

    def star(*x: int) -> None:
        """Do."""

    def undocumented(x: int) -> None: ...

    def odd(x: threading.Thread) -> None:
        """Do."""

    def default(x: int = Field(3)) -> None:
        """Do."""

    for wrong, said in (
        (bare, "bare: parameter x needs a type hint"),
        (star, r"star: a model cannot be told of \*x"),
        (undocumented, "undocumented: give it a docstring"),
        (odd, "odd: a parameter has a type that JSON cannot carry"),
        (default, "inside Annotated"),
    ):
        with pytest.raises(TypeError, match=said):
            function(wrong)
    with pytest.raises(TypeError, match="'a b' is no name for a function"):
        function(undocumented, name="a b")


def test_docstrings() -> None:
    assert parse_docstring("") == ("", {})
    assert parse_docstring("One.\n\nArgs:\n  a (int): first:\n    more\n\n  **b: second\nRaises:\n  c: no") == (
        "One.",
        {"a": "first: more", "b": "second"},
    )
