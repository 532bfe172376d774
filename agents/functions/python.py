"""A Python function as one that a model may call: the signature becomes the schema, the docstring the description.

    async def book(day: date, guests: Annotated[int, Field(ge=1, le=12)], call: CallControl) -> str:
        '''Book a table.

        Args:
            day: the day of the visit.
            guests: how many come.
        '''

    functions = [function(book, filler=["Let me look that up."])]

Parameters need type hints that pydantic can check. What the model sees of a parameter is its type, its default and a
description: a string in `Annotated`, pydantic's `Field`, or the docstring's `Args:` (Google style). A parameter
annotated `CallControl` is handed the call and hidden from the model. Functions that are not coroutines run in a
thread, which nothing can stop: what takes long in them goes on after a timeout or a hang-up.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints, overload
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.fields import FieldInfo

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import CallControl, Function, FunctionFailed
from offhook.agents.services.base import FunctionSchema

DEFAULT_TIMEOUT: Final = 20.0
"""Seconds a function may take unless it says otherwise; a caller has hung up by then."""

MAX_FAULTS: Final = 5
"""Faults in the arguments that are told to the model at once; the rest shows when these are mended."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""Names that every vendor takes for a function."""

Then = Literal["reply", "listen", "end"]
C = TypeVar("C", bound=Callable[..., Any])
M = TypeVar("M", bound=BaseModel)

_MARK: Final = "__offhook_tool__"


@dataclass(frozen=True)
class ToolOptions:
    """What `@tool` was told; see `function`."""

    name: str | None = None
    description: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    background: bool = False
    keep: bool = False
    filler: str | Sequence[str] = ()
    then: Then = "reply"


@overload
def tool(callable: C, /) -> C: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    background: bool = False,
    keep: bool = False,
    filler: str | Sequence[str] = (),
    then: Then = "reply",
) -> Callable[[C], C]: ...
def tool(callable: Any = None, /, **options: Any) -> Any:
    """Mark a function or method as one that the model may call; it stays what it was. Options as for `function`."""

    def mark(callable: Any) -> Any:
        setattr(callable, _MARK, ToolOptions(**options))
        return callable

    return mark if callable is None else mark(callable)


def functions_of(owner: object) -> list[Function]:
    """Everything marked with `@tool` on an object (its methods) or in a module.

    Raises:
        TypeError: a signature that cannot be told to a model.
    """
    found = []
    for name, _ in inspect.getmembers_static(owner):
        value = None if name.startswith("__") else inspect.getattr_static(owner, name)
        if hasattr(getattr(value, "__func__", value), _MARK):
            found.append(function(getattr(owner, name)))
    return found


def function(
    callable: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    background: bool | None = None,
    keep: bool | None = None,
    filler: str | Sequence[str] | None = None,
    then: Then | None = None,
) -> Function:
    """Make a Function of a Python function or bound method. What is None comes from `@tool`, else the default.

    Args:
        callable: the function; its result is text or anything that JSON can carry, pydantic models included.
        name: as the model sees it; default: the function's own.
        description: when to call it; default: the docstring's first paragraph.
        timeout: seconds.
        background: the conversation goes on meanwhile; the result is told when it is there.
        keep: run to the end even when the caller has hung up.
        filler: said when the function is slow; empty: the assistant's own.
        then: what follows the result, as in `Function.then`.

    Raises:
        TypeError: a parameter without a type hint, or of a type without a JSON Schema; no description.
    """
    told = getattr(callable, _MARK, None) or ToolOptions()
    # A method is made a function of for every call; what its signature says is found out once.
    key = getattr(callable, "__func__", callable)
    name = name or told.name or str(getattr(callable, "__name__", ""))
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} is no name for a function; give `name` with letters, digits, _ and -")
    known = _signatures.setdefault(key, {}) if inspect.isfunction(key) else {}
    called = name, inspect.ismethod(callable)
    if called not in known:
        known[called] = _signature(name, callable)
    signature = known[called]
    model, names, control = signature.model, signature.names, signature.control
    description = description or told.description or signature.description
    if not description:
        raise TypeError(f"{name}: give it a docstring or `description`, or no model knows when to call it")
    filler = told.filler if filler is None else filler
    is_async = inspect.iscoroutinefunction(_written(callable))

    async def call(arguments: dict[str, Any], control_of_call: CallControl) -> Any:
        checked = validate(model, arguments, name)
        values = {names[field]: getattr(checked, field) for field in names if field in checked.model_fields_set}
        if control:
            values[control] = control_of_call
        if is_async:
            return await callable(**values)
        result = await asyncio.to_thread(callable, **values)
        return await result if inspect.isawaitable(result) else result

    return Function(
        schema=FunctionSchema(name, description, signature.schema),
        call=call,
        timeout=told.timeout if timeout is None else timeout,
        background=told.background if background is None else background,
        keep=told.keep if keep is None else keep,
        filler=(filler,) if isinstance(filler, str) else tuple(filler),
        then=then or told.then,
    )


# --- arguments --------------------------------------------------------------------------


def validate(model: type[BaseModel], arguments: dict[str, Any], name: str) -> BaseModel:
    """Check a model's arguments.

    Raises:
        FunctionFailed: with every fault, in words that the model can act on.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        lines = [f"{_place(fault['loc'])}: {_said(fault['type'], fault['msg'])}" for fault in faults[:MAX_FAULTS]]
        raise FunctionFailed(f"Wrong arguments: {'; '.join(lines)}. Correct them and call {name} again.") from error


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "arguments"


def _said(kind: str, message: str) -> str:
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not known"
    message = message.removeprefix("Value error, ").rstrip(".")
    return message if message[1:2].isupper() else message[:1].lower() + message[1:]


def checked_settings(model: type[M], settings: Mapping[str, Any], place: str) -> M:
    """A section of the configuration as its model.

    Raises:
        SettingsError: naming the setting below `place` and the remedy.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([place, *(str(part) for part in first["loc"])])
        hint = f"; there are {', '.join(sorted(model.model_fields))}" if first["type"] == "extra_forbidden" else ""
        raise SettingsError(f"{where}: {_said(first['type'], first['msg'])}{hint}") from error


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON Schema without titles and references: small models read neither well."""
    schema = model.model_json_schema()
    schema.pop("description", None)
    definitions = schema.pop("$defs", {})

    def plain(node: Any, above: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [plain(item, above) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            target = reference.removeprefix("#/$defs/")
            if target in above:
                return {"type": "object"}  # a tree within itself: the validation knows how deep it goes
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return plain(definitions[target] | rest, (*above, target))
        # Below `properties` stand names, not keywords: a parameter may well be called "title".
        return {
            key: {name: plain(inner, above) for name, inner in value.items()}
            if key == "properties"
            else plain(value, above)
            for key, value in node.items()
            if key != "title"
        }

    found: dict[str, Any] = plain(schema, ())
    found.setdefault("properties", {})
    return found


@dataclass(frozen=True)
class _Signature:
    """What a function's signature and docstring say."""

    model: type[BaseModel]
    names: dict[str, str]
    "Field of the model → parameter."
    control: str
    "The parameter that is handed the call; empty: none."
    description: str
    schema: dict[str, Any]


_signatures: WeakKeyDictionary[Callable[..., Any], dict[tuple[str, bool], _Signature]] = WeakKeyDictionary()


def _signature(name: str, callable: Callable[..., Any]) -> _Signature:
    """Read a signature. Raises TypeError where a model could not be told of it."""
    description, described = parse_docstring(inspect.getdoc(_written(callable)) or "")
    try:
        hints = get_type_hints(_written(callable), include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: a type hint cannot be resolved: {error}") from error
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    control = ""
    for parameter in inspect.signature(callable).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{name}: a model cannot be told of {parameter}; write parameters one by one")
        if parameter.name not in hints:
            raise TypeError(f"{name}: parameter {parameter.name} needs a type hint")
        hint = hints[parameter.name]
        if _is_control(hint):
            control = parameter.name
            continue
        # An alias, because names such as `schema` and `copy` are the model's own.
        field = f"p{len(fields)}"
        names[field] = parameter.name
        fields[field] = (hint, _field(parameter, hint, described.get(parameter.name, "")))
    settings = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    try:
        model: type[BaseModel] = create_model(name, __config__=settings, **fields)
        schema = json_schema(model)
    except PydanticUserError as error:
        raise TypeError(f"{name}: a parameter has a type that JSON cannot carry: {error.message}") from error
    return _Signature(model, names, control, description, schema)


def _written(callable: Callable[..., Any]) -> Any:
    """Where the type hints of a callable stand."""
    if isinstance(callable, partial):
        return _written(callable.func)
    return callable if inspect.isroutine(callable) else type(callable).__call__


def _is_control(hint: Any) -> bool:
    return any(isinstance(part, type) and issubclass(part, CallControl) for part in (hint, *_parts(hint)))


def _parts(hint: Any) -> Iterator[Any]:
    """What an annotation such as `CallControl | None` is made of."""
    if get_origin(hint) is Annotated:
        yield get_args(hint)[0]
    elif get_origin(hint) is not Literal:
        yield from get_args(hint)


def _field(parameter: inspect.Parameter, hint: Any, described: str) -> Any:
    default: Any = ... if parameter.default is parameter.empty else parameter.default
    if isinstance(default, FieldInfo):
        raise TypeError(f"parameter {parameter.name}: write Field(…) inside Annotated[…], not as the default")
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    given = next((mark.description for mark in marks if isinstance(mark, FieldInfo) and mark.description), None)
    text = given or next((mark for mark in marks if isinstance(mark, str)), None) or described or None
    return Field(default, alias=parameter.name, description=text)


# --- docstrings -------------------------------------------------------------------------

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):\s*")
_ENTRY = re.compile(r"(\s*)\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring on one line, and what its `Args:` section (Google style) says."""
    lines = text.splitlines()
    first: list[str] = []
    for line in lines:
        if not line.strip() or _SECTION.fullmatch(line.strip()):
            break
        first.append(line.strip())
    described: dict[str, str] = {}
    section, indent, current = "", -1, ""
    for line in lines:
        if (found := _SECTION.fullmatch(line)) is not None:
            section, indent, current = found[1], -1, ""
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            entry = _ENTRY.fullmatch(line)
            if entry is not None and (indent < 0 or len(entry[1]) == indent):
                indent, current = len(entry[1]), entry[2]
                described[current] = entry[3].strip()
            elif current:
                described[current] = f"{described[current]} {line.strip()}".strip()
    return " ".join(first), described
