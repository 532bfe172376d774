"""Test calls in pytest: the fixture `caller`, entry point `offhook` of the group `pytest11`.

    def test_greeting(caller):
        call = caller.dial("sip:agent@127.0.0.1:5060")
        call.expect_agent(within=1.5)
        call.wait_agent_done()
        call.say("What are your opening hours?")
        call.expect_agent(within=1.5, heard={"any": ["nine", "monday"]})
        call.hang_up()
        assert call.report.metrics["holes"] == 0

Whoever does not ask for the fixture pays for nothing: offhook itself is imported with the first call.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from offhook.qa.caller.desk import Desk

OPTION: Final = "offhook_target"
"""Of pytest's own configuration; `--offhook-target` goes before it."""

_LONGEST_NAME: Final = 120
"""Letters of a file's name that come from the test's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what can be said on pytest's command line."""
    group = parser.getgroup("offhook", "test calls to voice agents")
    group.addoption("--offhook-target", default="", metavar="TARGET", help="whom caller.dial() calls by default")
    group.addoption(
        "--offhook-artifacts", default="", metavar="FOLDER", help="keep the recordings of failed tests' calls there"
    )
    parser.addini(OPTION, "whom caller.dial() calls by default, such as sip:agent@127.0.0.1:5060", default="")


@pytest.fixture(scope="session")
def _offhook_desk(pytestconfig: pytest.Config) -> Iterator[Desk]:
    from offhook.qa.caller.desk import Desk

    target = pytestconfig.getoption("--offhook-target") or pytestconfig.getini(OPTION)
    with Desk(str(target)) as desk:
        yield desk


@pytest.fixture
def caller(_offhook_desk: Desk) -> Iterator[Desk]:
    """Makes test calls: `caller.dial(target)`; see `offhook.qa.caller.desk`. What is up at the end is hung up."""
    yield _offhook_desk
    _offhook_desk.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the recordings of a test that failed, and say where."""
    report = yield
    folder = item.config.getoption("--offhook-artifacts")
    desk: Desk | None = getattr(item, "funcargs", {}).get("caller") if folder and call.when == "call" else None
    if desk is not None and report.failed and hasattr(desk, "forget"):
        report.sections.append(("offhook", "\n".join(_kept(desk, Path(str(folder)), item.nodeid))))
    return report


def _kept(desk: Desk, folder: Path, test: str) -> Iterator[str]:
    """Write what each call of a test sounded like; gives a line about each."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", test)[-_LONGEST_NAME:].strip("-")
    for number, dialled in enumerate(desk.calls, 1):
        file = folder / f"{stem}-{number}.wav"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            dialled.write(file)
        except (OSError, AssertionError) as error:
            yield f"call {number} could not be kept: {error}"
        else:
            yield f"recording of call {number}: {file}"
