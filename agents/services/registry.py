"""Which class is meant by `service: deepgram` under `stt`, and the objects that calls of a host share."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points, metadata
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError

from offhook.agents.api import SettingsError
from offhook.agents.services.base import LanguageModel, Service, SpeechToText, TextToSpeech

Role = Literal["stt", "llm", "tts"]

GROUPS: Final[dict[Role, str]] = {"stt": "offhook.stt", "llm": "offhook.llm", "tts": "offhook.tts"}
CONTRACTS: Final[dict[Role, type[Service]]] = {"stt": SpeechToText, "llm": LanguageModel, "tts": TextToSpeech}

S = TypeVar("S", bound=Service)


def known_services(role: Role) -> list[str]:
    """The installed services of a role, by name."""
    return sorted({point.name for point in entry_points(group=GROUPS[role])})


def extra_of(role: Role, name: str) -> str | None:
    """The extra of offhook that brings what a service needs; None when it needs nothing, or is somebody else's."""
    for point in entry_points(group=GROUPS[role]):
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
            points = [point for point in entry_points(group=GROUPS[role]) if point.name == name]
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
        first = error.errors()[0]
        place = ".".join([role, *(str(part) for part in first["loc"])])
        known = ", ".join(sorted(found.Settings.model_fields))
        hint = f"; {name} has {known}" if first["type"] == "extra_forbidden" else ""
        raise SettingsError(f"{place}: {first['msg']}{hint}") from error
