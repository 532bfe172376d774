"""The services that all calls of a host share: one object for each role and set of settings."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import Any, Literal, overload

import structlog

from offhook.agents.api import SettingsError
from offhook.agents.services.base import LanguageModel, Service, ServiceError, SpeechToText, TextToSpeech
from offhook.agents.services.registry import Role, make_service

Section = dict[str, Any] | list[dict[str, Any]]
"""Settings of one service, or of several in order of preference."""

log = structlog.get_logger("offhook.agents.services")

_services: dict[tuple[Role, str], Service] = {}
_warming: dict[Service, asyncio.Task[None]] = {}


def shared_service(role: Role, settings: dict[str, Any]) -> Service:
    """The host's service with these settings, made when they are seen first. Nothing is contacted.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    key = role, json.dumps(settings, sort_keys=True, default=str)
    if key not in _services:
        _services[key] = make_service(role, settings)
    return _services[key]


@overload
def services_of(role: Literal["stt"], section: Section) -> list[SpeechToText]: ...
@overload
def services_of(role: Literal["llm"], section: Section) -> list[LanguageModel]: ...
@overload
def services_of(role: Literal["tts"], section: Section) -> list[TextToSpeech]: ...
def services_of(role: Role, section: Section) -> Any:
    """The services of a section of the configuration: the preferred one, then those that stand in for it.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    entries = section if isinstance(section, list) else [section]
    if not entries:
        raise SettingsError(f"{role}: the list is empty; name at least one service")
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise SettingsError(f"{role}: {entry!r} is no service; write `service: NAME` and its settings")
        try:
            found.append(shared_service(role, entry))
        except SettingsError as error:
            raise SettingsError(f"{error} (number {number} of the list)" if len(entries) > 1 else str(error)) from error
    return found


def begin_warming(service: Service) -> asyncio.Task[None]:
    """Warm a service up, once a host: the task is the same for all calls. One that failed is tried again."""
    task = _warming.get(service)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = asyncio.get_running_loop().create_task(service.warm(), name=f"warm-{service.name}")
        task.add_done_callback(partial(_warmed, service.name))
        _warming[service] = task
    return task


def _warmed(name: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("service.not_warmed", service=name, reason=str(error) or type(error).__name__)


async def warm(service: Service) -> None:
    """Wait until a service is warm.

    Raises:
        ServiceError: it cannot be used at present.
        SettingsError: what its settings name does not work.
    """
    await asyncio.shield(begin_warming(service))


async def close_shared() -> None:
    """Close every shared service and forget it. The host is going down."""
    services, warming = list(_services.values()), list(_warming.values())
    _services.clear()
    _warming.clear()
    for task in warming:
        task.cancel()
    await asyncio.gather(*warming, return_exceptions=True)
    for service in services:
        with suppress(ServiceError, OSError):
            await service.close()
