"""Orders to a carrier's API: what is repeated, what never is, and that they keep off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout, ReadTimeout
from urllib3.exceptions import MaxRetryError, NewConnectionError

from offhook.providers.base import CarrierRefused, CarrierUnavailable
from offhook.providers.orders import PAUSES, Failed, Orders


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    made = Orders("acme", pauses=(0.0, 0.0))
    yield made
    await made.close()


def failing(*errors: Exception) -> tuple[Callable[[], str], list[str]]:
    """An order that fails with one error after the other and then succeeds; and the threads it ran in."""
    left, ran = list(errors), list[str]()

    def order() -> str:
        ran.append(threading.current_thread().name)
        if left:
            raise left.pop(0)
        return "done"

    return order, ran


async def test_runs_in_threads_of_its_own(orders: Orders) -> None:
    order, ran = failing()
    assert await orders.run(order) == "done"
    assert ran == ["acme-orders_0"]


@pytest.mark.parametrize(
    "error",
    [
        Failed("slow down", status=429, taken=False),
        Failed("down", status=503),
        Failed("late", status=408),
        ConnectTimeout(),
        ReadTimeout(),
        RequestsConnectionError("reset"),
        ValueError("no JSON"),
    ],
)
async def test_passing_trouble_is_tried_again(orders: Orders, error: Exception) -> None:
    order, ran = failing(error, error)
    assert await orders.run(order) == "done"
    assert len(ran) == 3
    order, ran = failing(error, error, error)
    with pytest.raises(CarrierUnavailable, match="acme: "):
        await orders.run(order)
    assert len(ran) == 3


async def test_a_refusal_is_final(orders: Orders) -> None:
    order, ran = failing(Failed("no such number", status=400, code="21211"))
    with pytest.raises(CarrierRefused, match="acme: no such number") as caught:
        await orders.run(order)
    assert (caught.value.status, caught.value.code) == (400, "21211")
    assert len(ran) == 1


_NO_ROUTE = MaxRetryError(None, "/", NewConnectionError(None, "refused"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (Failed("slow down", status=429, taken=False), 3),
        (ConnectTimeout(), 3),
        (RequestsConnectionError(_NO_ROUTE), 3),
        (Failed("down", status=500), 1),
        (ReadTimeout(), 1),
        (RequestsConnectionError("reset"), 1),
        (ValueError("no JSON"), 1),
    ],
)
async def test_what_may_have_been_taken_is_not_repeated_when_that_does_harm(
    orders: Orders, error: Exception, tries: int
) -> None:
    order, ran = failing(error, error, error)
    with pytest.raises(CarrierUnavailable):
        await orders.run(order, repeatable=False)
    assert len(ran) == tries


async def test_mistakes_of_ours_are_not_hidden(orders: Orders) -> None:
    order, _ = failing(KeyError("sid"))
    with pytest.raises(KeyError):
        await orders.run(order)


@pytest.mark.virtual_time
async def test_waits_longer_each_time() -> None:
    orders = Orders("acme")
    order, _ = failing(ReadTimeout(), ReadTimeout())
    loop = asyncio.get_running_loop()
    before = loop.time()
    await orders.run(order)
    assert 0.75 * sum(PAUSES) <= loop.time() - before <= 1.25 * sum(PAUSES) + 0.05
    await orders.close()


async def test_close_waits_for_what_is_under_way() -> None:
    orders, go, done = Orders("acme"), threading.Event(), list[int]()

    def order() -> None:
        go.wait(1)
        done.append(1)

    running = asyncio.create_task(orders.run(order))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(go.set)
    await orders.close()
    assert done == [1]
    await running
