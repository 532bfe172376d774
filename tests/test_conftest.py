"""The checks that every test runs under do find what they are for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError

from offhook.agents import runtime

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()


@pytest.mark.virtual_time
async def test_virtual_time_passes_without_waiting() -> None:
    loop, wall = asyncio.get_running_loop(), time.monotonic()
    begun = loop.time()
    order = []

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((seconds, round(loop.time() - begun, 6)))

    await asyncio.gather(nap(3600), nap(1), nap(0.02))
    assert order == [(0.02, 0.02), (1, 1.0), (3600, 3600.0)]
    assert time.monotonic() - wall < 1


@pytest.mark.virtual_time
async def test_virtual_time_stands_still_while_a_thread_works() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: time.sleep(0.05) or "done") == "done"  # type: ignore[func-returns-value]
    assert loop.time() - begun < 1


async def test_blocking_calls_on_the_media_path_are_errors() -> None:
    # Code that seems to stand in a module of the media path; the modules are looked up as each test begins.
    namespace: dict[str, Any] = {}
    exec(compile("import time\ndef nap():\n    time.sleep(0.001)", runtime.__file__, "exec"), namespace)
    with pytest.raises(BlockingError):
        namespace["nap"]()
    await asyncio.to_thread(namespace["nap"])
    time.sleep(0.001)  # elsewhere, a test may


LEAKY = """
import asyncio, socket, subprocess, threading, time
keep = []

async def test_task():
    keep.append(asyncio.create_task(asyncio.sleep(60)))

def test_thread():
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()

def test_descriptor():
    keep.append(socket.socket())

def test_child():
    keep.append(subprocess.Popen(["sleep", "1"]))

async def test_tidy():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    await asyncio.to_thread(int)
    asyncio.create_task(asyncio.sleep(0))
"""


def test_what_a_test_leaves_behind_fails_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.replace("LEAK_GRACE = 2.0", "LEAK_GRACE = 0.05"))
    pytester.makepyfile(LEAKY)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-W", "ignore")
    result.assert_outcomes(passed=4, failed=1, errors=3)  # a task fails the test itself, the rest its teardown
    result.stdout.fnmatch_lines_random(
        [
            "*left tasks running*sleep*",
            "*left behind: thread *",
            "*left behind: file descriptor*socket:*",
            "*left behind: child process*",
        ]
    )
