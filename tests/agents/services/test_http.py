from __future__ import annotations

import asyncio

import pytest

from offhook.agents.services.base import ServiceError, ServiceSettings
from offhook.agents.services.http import Patience, refused, warmed

SETTINGS = ServiceSettings(service="openai", timeout=3, stall=1)


@pytest.mark.virtual_time
async def test_the_first_result_has_one_deadline_however_much_else_comes() -> None:
    patience = Patience("openai", SETTINGS)
    started = asyncio.get_running_loop().time()
    await patience.wait(asyncio.sleep(2))
    with pytest.raises(ServiceError, match="openai: timeout: no first result within 3 s"):
        await patience.wait(asyncio.sleep(2))
    assert asyncio.get_running_loop().time() - started == pytest.approx(3)


@pytest.mark.virtual_time
async def test_later_results_have_each_their_own_time() -> None:
    patience = Patience("openai", SETTINGS)
    patience.begun()
    for _ in range(9):
        assert await patience.wait(asyncio.sleep(0.9, "piece")) == "piece"
    with pytest.raises(ServiceError, match="stalled for 1 s") as caught:
        await patience.wait(asyncio.Event().wait())
    assert caught.value.kind == "timeout"


def test_a_page_of_html_is_cut_short() -> None:
    error = refused("openai", 502, "<html>\n" + "x" * 9000)
    assert error.kind == "unavailable"
    assert len(error.detail) < 400


@pytest.mark.virtual_time
async def test_warming_neither_fails_nor_waits_for_long() -> None:
    async def broken() -> None:
        raise ServiceError("openai", "unavailable", "refused")

    await warmed("openai", broken())
    await warmed("openai", asyncio.sleep(3600))
    assert asyncio.get_running_loop().time() < 10
