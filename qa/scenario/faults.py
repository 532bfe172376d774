"""Pydantic's errors in the words of somebody who writes YAML, each at its line."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from offhook.agents.config_source import WRONG_SHAPE, Problem, Source, dotted, model_in, plain_message
from offhook.agents.config_source import Path as At

_SAME: Final = 0.8
"""Likeness from which a word is surely the other one, misspelt."""

MAX_CHOICES: Final = 24
"""Known keys that a message lists at most."""


def problems_of(error: ValidationError, model: type[BaseModel], tree: Any, source: Source) -> list[Problem]:
    """Every error at the place where it was written.

    Args:
        error: what `model` said of `tree`.
        source: where `tree` came from.
    """
    problems: dict[tuple[At, str], Problem] = {}
    for line in _likely(error.errors(include_url=False, include_context=True), tree):
        at = _written(line, tree)
        message = _message(line, model, at)
        problems.setdefault((at, message), Problem(source.origin(at), dotted(at), message))
    return list(problems.values())


def _likely(lines: list[ErrorDetails], tree: Any) -> Iterator[ErrorDetails]:
    """Of a value that could be one thing or another, the faults of the one that was probably meant."""
    branches: dict[At, dict[str | int, list[ErrorDetails]]] = {}
    for line in lines:
        depth = _depth(line["loc"], tree)
        if depth is None or (depth == len(line["loc"]) - 1 and line["type"] in ("missing", "extra_forbidden")):
            yield line
        else:
            branch = line["loc"][depth]
            branches.setdefault(line["loc"][:depth], {}).setdefault(branch, []).append(line)
    for choices in branches.values():
        yield from max(
            choices.values(),
            key=lambda found: (
                max(len(line["loc"]) for line in found),
                not any(line["type"] in WRONG_SHAPE for line in found),
            ),
        )


def _depth(loc: At, tree: Any) -> int | None:
    """Index of the first part of a location that stands in no file; None: all do."""
    here: Any = tree
    for depth, part in enumerate(loc):
        if not (part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)):
            return depth
        here = here[part]
    return None


def _written(line: ErrorDetails, tree: Any) -> At:
    """Where the error is in the file: the location without the names of types and shorthands."""
    here = tree
    at: list[str | int] = []
    for index, part in enumerate(line["loc"]):
        last = index == len(line["loc"]) - 1
        if isinstance(here, dict) and (part in here or (last and line["type"] == "missing")):
            at.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            at.append(part)
            here = here[part]
    return tuple(at)


def _message(line: ErrorDetails, model: type[BaseModel], at: At) -> str:
    """What is wrong and what to do."""
    match line["type"]:
        case "extra_forbidden":
            return f"unknown key; {_hint(str(at[-1]), _model_at(model, at[:-1]))}"
        case "bool_parsing" | "bool_type":
            return f"{line['input']!s} is neither true nor false"
        case "literal_error":
            return _choice(str(line["input"]), str(line.get("ctx", {}).get("expected", "")))
        case "string_pattern_mismatch" if at == ("name",):
            return "is a word of small letters, digits, `.`, `_` and `-`, such as greeting-after-hours"
    return plain_message(line["type"], line["msg"])


def _choice(said: str, expected: str) -> str:
    choices = [word.strip("'\" ") for word in expected.replace(" or ", ", ").split(",")]
    if len(choices) == 1:
        return f"must be {choices[0]}, not {said}"
    close = get_close_matches(said, choices, 1)
    known = ", ".join(choice or '""' for choice in choices)
    return f"{said!r} is none of {known}" + (f"; did you mean {close[0]}?" if close and close[0] else "")


def _hint(word: str, model: type[BaseModel] | None) -> str:
    if model is None:
        return "remove it"
    known = _keys(model)
    close = get_close_matches(word, known, 1)
    for key, field in known.items():
        inner = model_in(field)
        if inner is not None and word in _keys(inner) and get_close_matches(word, close, 1, _SAME) == []:
            return f"it belongs below `{key}:`"
    if close:
        return f"did you mean {close[0]!r}?"
    return "known are " + ", ".join(list(known)[:MAX_CHOICES])


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_at(model: type[BaseModel], at: At) -> type[BaseModel] | None:
    """The model of what stands at a path."""
    here: type[BaseModel] | None = model
    for part in at:
        if isinstance(part, int) or here is None:
            continue
        here = model_in(_keys(here).get(part))
    return here
