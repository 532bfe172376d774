"""Orders to a carrier's API: in threads of our own, with a time limit, repeated when repeating is safe.

The vendors' SDKs block, so every order runs in a small pool, never on the event loop and never in the loop's
default pool, where a carrier that does not answer would hold up everybody else's work.

What may be repeated: an order that the carrier has certainly not taken (no connection, 429) always; one that
it may have taken (timeout, connection lost, 5xx) only when taking it twice does no harm. Dialling does harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from offhook.providers.base import CarrierRefused, CarrierUnavailable

T = TypeVar("T")

WORKERS: Final = 4
"""Orders to one carrier at the same time. A hang-up takes about 0.2 s, so this is twenty a second."""

PAUSES: Final = (0.25, 1.0)
"""Seconds before the second and the third try, give or take a quarter so that calls do not retry in step."""

CONNECT_TIMEOUT: Final = 3.05
"""Seconds to connect: one lost SYN is sent again after 3 s."""

CLOSE_PATIENCE: Final = 2.0
"""Seconds `close` waits for orders under way."""


class Failed(Exception):
    """An order that a carrier's API did not carry out. SDK errors are translated into it.

    Args:
        text: for the log; no secrets.
        status: the HTTP status, 0 without an answer.
        code: the carrier's own error code, if any.
        taken: whether the carrier may have carried the order out all the same.
    """

    def __init__(self, text: str, *, status: int = 0, code: str = "", taken: bool = True) -> None:
        super().__init__(text)
        self.status, self.code, self.taken = status, code, taken

    @property
    def passing(self) -> bool:
        """True when another try may go better."""
        return self.status in (0, 408, 429) or self.status >= 500


class Orders:
    """Runs the orders to one carrier."""

    def __init__(self, carrier: str, *, pauses: tuple[float, ...] = PAUSES) -> None:
        self._carrier = carrier
        self._pauses = pauses
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"{carrier}-orders")
        self._under_way: set[asyncio.Future[Any]] = set()

    async def run(self, order: Callable[[], T], *, repeatable: bool = True) -> T:
        """Carry out an order.

        Args:
            order: blocks; raises Failed, or what `requests` raises.
            repeatable: whether the carrier may be given the order twice.

        Raises:
            CarrierUnavailable: after the last try.
            CarrierRefused: the carrier answered 4xx.
        """
        loop = asyncio.get_running_loop()
        for pause in (*self._pauses, None):
            future = loop.run_in_executor(self._pool, _carry_out, order)
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
            try:
                return await future
            except Failed as error:
                if not error.passing:
                    raise CarrierRefused(f"{self._carrier}: {error}", status=error.status, code=error.code) from error
                safe = repeatable or not error.taken
                if pause is None or not safe:
                    raise CarrierUnavailable(f"{self._carrier}: {error}") from error
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311  # no secret
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        """Let the orders under way finish for a moment, then let go of the threads."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=CLOSE_PATIENCE)
        self._pool.shutdown(wait=not self._under_way, cancel_futures=True)


def _carry_out(order: Callable[[], T]) -> T:
    """Run in a thread: translate the errors of `requests`, which the SDKs let through."""
    # Imported long ago by the SDKs; not above, so that reading a configuration does not need it.
    from requests.exceptions import ConnectTimeout, RequestException
    from urllib3.exceptions import NewConnectionError

    try:
        return order()
    except RequestException as error:
        reason = getattr(error.args[0], "reason", None) if error.args else None
        unsent = isinstance(error, ConnectTimeout) or isinstance(reason, NewConnectionError)
        what = "no connection" if unsent else "no answer"
        # The texts of these errors hold URLs with account and call ids; the type says enough.
        raise Failed(f"{what} ({type(error).__name__})", taken=not unsent) from error
    except ValueError as error:
        raise Failed(f"an answer that is no JSON ({type(error).__name__})") from error
