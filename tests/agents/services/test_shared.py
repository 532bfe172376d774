from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.services import shared
from offhook.agents.services.base import Service, ServiceError, ServiceSettings


class Fake(Service):
    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self.warmed = 0
        self.closed = 0
        self.down = False

    async def warm(self) -> None:
        self.warmed += 1
        await asyncio.sleep(0.1)
        if self.down:
            raise ServiceError(self.name, "unavailable", "down")

    async def close(self) -> None:
        self.closed += 1
        raise OSError("was gone already")


@pytest.fixture
async def _fakes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    def make(role: str, settings: dict[str, Any]) -> Service:
        if settings["service"] == "unknown":
            raise SettingsError(f"{role}: no service 'unknown' is installed")
        return Fake(ServiceSettings(service=settings["service"]))

    monkeypatch.setattr(shared, "make_service", make)
    yield
    await shared.close_shared()


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
async def test_equal_settings_give_the_same_object() -> None:
    one = shared.shared_service("llm", {"service": "a", "model": "m"})
    assert shared.shared_service("llm", {"model": "m", "service": "a"}) is one
    assert shared.shared_service("llm", {"service": "a", "model": "n"}) is not one
    assert shared.shared_service("tts", {"service": "a", "model": "m"}) is not one


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
async def test_a_section_is_one_service_or_a_list() -> None:
    one = shared.services_of("stt", {"service": "a"})
    both = shared.services_of("stt", [{"service": "a"}, {"service": "b"}])
    assert [service.name for service in both] == ["a", "b"]
    assert one == both[:1]


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([], "tts: the list is empty; name at least one service"),
        ("a", "tts: 'a' is no service; write `service: NAME` and its settings"),
        (
            [{"service": "a"}, {"service": "unknown"}],
            r"tts: no service 'unknown' is installed \(number 2 of the list\)",
        ),
        ({"service": "unknown"}, "tts: no service 'unknown' is installed$"),
    ],
)
async def test_a_section_that_cannot_work_says_why(section: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        shared.services_of("tts", section if not isinstance(section, str) else [section])


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
async def test_a_service_is_warmed_once_even_when_a_call_gives_up() -> None:
    service = shared.shared_service("llm", {"service": "a"})
    assert isinstance(service, Fake)
    impatient = asyncio.create_task(shared.warm(service))
    await asyncio.sleep(0.05)
    impatient.cancel()
    await asyncio.gather(shared.warm(service), shared.warm(service))
    await shared.warm(service)
    assert service.warmed == 1


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
async def test_warming_that_failed_is_tried_again() -> None:
    service = shared.shared_service("llm", {"service": "a"})
    assert isinstance(service, Fake)
    service.down = True
    with pytest.raises(ServiceError):
        await shared.warm(service)
    service.down = False
    await shared.warm(service)
    assert service.warmed == 2


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_fakes")
async def test_closing_closes_all_and_forgets_them() -> None:
    service = shared.shared_service("llm", {"service": "a"})
    other = shared.shared_service("tts", {"service": "a"})
    assert isinstance(service, Fake)
    assert isinstance(other, Fake)
    warming = asyncio.create_task(shared.warm(service))
    await asyncio.sleep(0.05)
    await shared.close_shared()
    with pytest.raises(asyncio.CancelledError):
        await warming
    assert (service.closed, other.closed) == (1, 1)
    assert shared.shared_service("llm", {"service": "a"}) is not service
