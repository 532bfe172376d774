"""What every test gets: nothing may block the media path, nothing may be left behind.

And for those that ask, a loop whose time is virtual.

Markers:
    virtual_time: run the test on a loop whose clock jumps to the next timer as soon as nothing is ready.
    own_tasks(reason): skip the check for tasks only; a fixture of the test's ends and checks them.
    leaves(reason): skip the leak check; the reason says what stays and who clears it up.
    timing: measures real time; `make test` runs these alone, after the others.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

settings.register_profile("steady", derandomize=True)
settings.load_profile("steady")  # the same examples every time; `make test-slow` looks for others

LEAK_GRACE = 2.0
"""Seconds that what a test closed may take to be gone: threads join, children are reaped, sockets linger."""

TASK_GRACE = 0.1
"""Seconds that cancelled tasks get to run their `finally` before they count as left behind."""


# --- virtual time -------------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]  # chosen by the platform
    """Never waits for a timer: when nothing is ready, the clock is moved to it instead."""

    now = 0.0
    outside = 0
    "Threads that work for the loop right now; time stands still until they are done."

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.outside:
            return super().select(timeout if timeout is None else min(timeout, 0.001))
        if timeout is None:
            return super().select(None)
        self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour of sleeping takes no time. Only for tests that touch no socket and no process."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        self._jumping.outside += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._came_back)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        self._jumping.outside += 1  # a thread joins the others, within a time that must not fly by
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._jumping.outside -= 1

    def _came_back(self, _: asyncio.Future[Any] | Future[Any]) -> None:
        self._jumping.outside -= 1


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give the virtual loop to the tests marked `virtual_time`, the platform's own to the others."""
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


# --- nothing blocks -----------------------------------------------------------------

MEDIA_PATH = (
    "offhook.gateway.app",
    "offhook.gateway.call",
    "offhook.gateway.hosts",
    "offhook.gateway.media_socket",
    "offhook.gateway.playout",
    "offhook.gateway.switchboard",
    "offhook.agents.api",
    "offhook.agents.remote",
    "offhook.agents.runtime",
    "offhook.agents.vad",
    "offhook.providers.rtp.clock",
    "offhook.providers.rtp.incoming",
    "offhook.providers.rtp.leg",
    "offhook.providers.rtp.outgoing",
    "offhook.providers.rtp.session",
)
"""What runs on the event loop between a caller and his agent: a file, a sleep or a lock in there is heard."""


def _nothing_blocks() -> AbstractContextManager[Any]:
    """Raise BlockingError where a module of the media path makes a call that blocks the loop."""
    loaded = [name for name in MEDIA_PATH if name in sys.modules]
    return blockbuster_ctx(scanned_modules=loaded) if loaded else nullcontext()


# --- nothing is left behind ---------------------------------------------------------


def _descriptors() -> dict[str, str]:
    """What every open descriptor leads to. Devices stay out: libraries open them once and keep them."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if not target.startswith(("/dev/", "/proc/")):
            found[number] = target
    return found


def _children() -> set[int]:
    """Process ids of our children, reaped or not; Python's own helper processes stay out."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                pids = file.read().split()
        except FileNotFoundError:
            continue
        for pid in pids:
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    command = file.read()
            except OSError:
                continue
            if "multiprocessing.resource_tracker" not in command and "multiprocessing.forkserver" not in command:
                found.add(int(pid))
    return found


class _Snapshot:
    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.descriptors = _descriptors()
        self.children = _children()

    def left_since(self) -> list[str]:
        """Everything there is now that was not there then."""
        threads = [thread for thread in threading.enumerate() if thread not in self.threads]
        descriptors = {n: to for n, to in _descriptors().items() if self.descriptors.get(n) != to}
        return [
            *(f"thread {thread.name}" for thread in threads),
            *(f"file descriptor {number} ({to})" for number, to in descriptors.items()),
            *(f"child process {pid}" for pid in _children() - self.children),
        ]


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a file descriptor or a child process behind."""
    before = _Snapshot()
    yield
    if request.node.get_closest_marker("leaves") is not None:
        return
    left = before.left_since()
    if left:
        gc.collect()
        deadline = time.monotonic() + LEAK_GRACE
        while (left := before.left_since()) and time.monotonic() < deadline:
            time.sleep(0.01)
    if left:
        pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


def _checked(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """The same test, failing when the media path blocks, or when a task that it started outlives it.

    Tasks of fixtures were there before.
    """

    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        with _nothing_blocks():
            await test(*args, **kwargs)
        left = asyncio.all_tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=TASK_GRACE)
        if left:
            names = ", ".join(f"{task.get_name()} ({task.get_coro()})" for task in left)
            pytest.fail(f"the test left tasks running: {names}", pytrace=False)

    return checked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Put the checks around every asynchronous test."""
    if (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.obj)
        and item.get_closest_marker("leaves") is None
        and item.get_closest_marker("own_tasks") is None
    ):
        item.obj = _checked(item.obj)
    return (yield)
