"""Which class is meant by `service: deepgram` under `stt`, and the objects that calls of a host share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, metadata
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError

from offhook.agents.api import SettingsError
from offhook.agents.services.base import LanguageModel, Service, ServiceSettings, SpeechToText, TextToSpeech

Role = Literal["stt", "llm", "tts"]

GROUPS: Final[dict[Role, str]] = {"stt": "offhook.stt", "llm": "offhook.llm", "tts": "offhook.tts"}
CONTRACTS: Final[dict[Role, type[Service]]] = {"stt": SpeechToText, "llm": LanguageModel, "tts": TextToSpeech}

SUBJECT: Final = re.compile(r"^(Input|String|List|Tuple|Dictionary|Value) should")

SHAPES: Final = {
    "string_type": "must be text; put it in quotes",
    "string_sub_type": "must be text; put it in quotes",
    "list_type": "must be a list: [a, b]",
    "tuple_type": "must be a list: [a, b]",
    "dict_type": "must be a mapping of names and values",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}
"""What each of pydantic's errors of type is in plain words."""

MAX_PROBLEMS: Final = 5
"""Told at once."""

S = TypeVar("S", bound=Service)


@cache
def _points(role: Role) -> tuple[EntryPoint, ...]:
    """What is installed, read from the disk once a host: that takes 10 ms."""
    return tuple(entry_points(group=GROUPS[role]))


def known_services(role: Role) -> list[str]:
    """The installed services of a role, by name."""
    return sorted({point.name for point in _points(role)})


def extra_of(role: Role, name: str) -> str | None:
    """The extra of offhook that brings what a service needs; None when it needs nothing, or is somebody else's."""
    for point in _points(role):
        if point.name == name and point.module.startswith(f"{__package__}."):
            folder = point.module.removeprefix(f"{__package__}.").split(".")[0]
            return folder if folder in (metadata("offhook").get_all("Provides-Extra") or ()) else None
    return None


def service_class(role: Role, name: str) -> type[Service]:
    """Import the class of a service.

    Raises:
        SettingsError: no such service, its SDK is not installed, or the class keeps no contract.
    """
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            found = getattr(import_module(module), attribute)
        else:
            points = [point for point in _points(role) if point.name == name]
            if not points:
                known = ", ".join(known_services(role))
                raise SettingsError(
                    f"{role}: no service {name!r} is installed; there are {known}; "
                    "a class of your own is written module:Class"
                )
            found = points[0].load()
    except AttributeError as error:
        raise SettingsError(f"{role}: {name} cannot be imported: {error}") from error
    except ImportError as error:
        raise SettingsError(
            f"{role}: {name} needs a package that is missing ({error})"
            + (f": pip install 'offhook[{extra}]'" if (extra := extra_of(role, name)) else "")
        ) from error
    contract = CONTRACTS[role]
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise SettingsError(f"{role}: {name!r} is {found!r}, which is no {contract.__name__}")
    return found


def make_service(role: Role, settings: dict[str, Any]) -> Service:
    """Make a service from its section of the configuration; nothing is contacted.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    name = settings.get("service")
    if not isinstance(name, str):
        raise SettingsError(f"{role}.service: missing; there are {', '.join(known_services(role))}")
    found = service_class(role, name)
    try:
        return found(found.Settings.model_validate(settings))
    except ValidationError as error:
        raise SettingsError("; ".join(_explained(role, name, found.Settings, error))) from error


def _explained(role: Role, service: str, settings: type[ServiceSettings], error: ValidationError) -> Iterator[str]:
    """What is wrong with each setting, and the remedy; never what was given, which may be a key."""
    wrong: dict[str, list[str]] = {}
    for problem in error.errors(include_input=False, include_url=False, include_context=False)[:MAX_PROBLEMS]:
        # What follows the name are places in a list, which help, and the names of pydantic's types, which do not.
        name, *inner = problem["loc"] or ("",)
        parts = [role, name, *(part for part in inner if isinstance(part, int))]
        place = ".".join(str(part) for part in parts if part != "")
        wrong.setdefault(place, []).append(_plain(service, str(name), problem["type"], problem["msg"], settings))
    for place, texts in wrong.items():
        yield f"{place}: {', or '.join(dict.fromkeys(texts))}"


def _plain(service: str, name: str, kind: str, text: str, settings: type[ServiceSettings]) -> str:
    fields = settings.model_fields
    if kind == "extra_forbidden":
        known = sorted(fields)
        near = get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"no such setting; {meant}{service} has {', '.join(known)}"
    if kind == "missing":
        return f"missing: {fields[name].description}"
    if kind == "string_pattern_mismatch" and name in fields:
        return f"not of the right form: {fields[name].description}"
    return plain(kind, text)


def plain(kind: str, text: str) -> str:
    """One of pydantic's errors, by its type and message, in words that need no pydantic."""
    if kind == "extra_forbidden":
        return "no such setting"
    if kind in SHAPES:
        return SHAPES[kind]
    text = SUBJECT.sub("must", text.removeprefix("Value error, ")).partition(" after validation")[0]
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
