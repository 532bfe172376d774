"""What the commands of `offhook qa` share: exit codes, what options say, and how they end."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TextIO, TypeVar

import typer

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from offhook.qa.running.result import RunReport
    from offhook.qa.scenario.load import Loaded

OK, FAILED, USAGE, UNREACHABLE, INVALID, INTERRUPTED = 0, 1, 2, 3, 4, 130

CODES: Final = "Exit codes: 0 passed; 1 failed; 2 bad scenario or usage; 3 target unreachable; 4 invalid run."

PIPE_WIDTH: Final = 240
"""Columns when the output is no terminal."""

T = TypeVar("T")
P = ParamSpec("P")


def careful(command: Callable[P, T]) -> Callable[P, T]:
    """A crash of this very program says nothing about the target: exit with 4, and not with Python's 1, a failure's."""

    @functools.wraps(command)
    def carefully(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except Exception:  # the root of a command: it is told whole
            traceback.print_exc()
            fail("this is a mistake of offhook's own; it says nothing about the target", INVALID)

    return carefully


def values_of(sets: list[str] | None) -> dict[str, str]:
    """What `--set` gives."""
    values = dict(pair.split("=", 1) for pair in sets or () if "=" in pair)
    if len(values) != len(sets or ()):
        fail("--set: write NAME=VALUE, each name once", USAGE)
    return values


def credentials_of(
    auth_token: str, username: str, password: str, api_listen: str, ca_file: str, insecure: bool
) -> dict[str, str | bool]:
    """Keyword arguments of `open_phone`: what is not empty; for the rest a phone looks into the environment itself."""
    given: dict[str, str | bool] = {"auth_token": auth_token, "username": username, "password": password}
    given |= {"api_listen": api_listen, "ca_file": ca_file, "insecure": insecure}
    return {name: value for name, value in given.items() if value}


def say_problems(problems: Sequence[Any], *, as_json: bool = False) -> NoReturn:
    """Say all that is wrong with scenarios, and exit with 2."""
    if as_json:
        print_json({"ok": False, "problems": [str(problem) for problem in problems]})
    else:
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        sys.stderr.write(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in scenarios\n")
    raise typer.Exit(USAGE)


def load_scenarios(paths: list[str], sets: list[str] | None, *, as_json: bool = False) -> list[Loaded]:
    """Load scenarios, or say all that is wrong with them and exit with 2."""
    from offhook.qa.scenario.load import ScenarioError, expand, load

    values = values_of(sets)
    loaded: list[Loaded] = []
    problems: list[Any] = []
    try:
        files = expand(paths)
    except ScenarioError as error:
        files, problems = [], list(error.problems)
    for file in files:
        try:
            loaded.append(load(file, sets=values))
        except ScenarioError as error:
            problems += error.problems
    if problems:
        say_problems(problems, as_json=as_json)
    check_set(values, frozenset().union(*(one.variables for one in loaded)))
    return loaded


def check_set(values: Mapping[str, str], variables: frozenset[str]) -> None:
    """Exit with 2 where `--set` names a variable that there is not."""
    unknown = sorted(set(values) - variables)
    if unknown:
        has = f"there are {', '.join(sorted(variables))}" if variables else "there are none"
        fail(f"--set {unknown[0]}: no scenario has a variable of that name; {has}", USAGE)


def check_names(loaded: Sequence[Loaded]) -> None:
    """Exit with 2 where two scenarios have the same name: recordings and comparisons go by it."""
    seen: dict[str, Path] = {}
    for one in loaded:
        other = seen.setdefault(one.scenario.name, one.path)
        if other is not one.path:
            fail(f"{other} and {one.path} are both named {one.scenario.name}; give each a `name:` of its own", USAGE)


def earlier_run(given: Path, root: Path) -> tuple[Path, RunReport]:
    """A run that was, and its folder; exits with 2 where there is none."""
    from offhook.qa.running.folder import NoRun, find_run, read_run

    try:
        folder = find_run(given, root)
        return folder, read_run(folder)
    except NoRun as error:
        fail(str(error), USAGE)


def folder_for(root: Path) -> Path:
    """The folder of a new run; exits with 2 where it cannot be made."""
    from offhook.qa.running.folder import new_folder

    try:
        return new_folder(root)
    except OSError as error:
        fail(f"--out {root}: {error.strerror or error}", USAGE)


def keep(write: Callable[[], object], folder: Path) -> None:
    """Write a report. Where that cannot be done, what was found is shown nevertheless."""
    try:
        write()
    except OSError as error:
        sys.stderr.write(f"offhook: the report cannot be written to {folder}: {error.strerror or error}\n")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run it on uvloop where there is one; Ctrl-C ends the calls and exits with 130."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        sys.stderr.write("offhook: interrupted; the calls were ended\n")
        raise typer.Exit(INTERRUPTED) from None


async def until_interrupted(work: Callable[[asyncio.Event], Awaitable[T]]) -> tuple[T, bool]:
    """Do work that ends when its event is set: the first Ctrl-C does that; the second is as everywhere.

    Returns:
        What came of it, and whether it was interrupted.
    """
    loop, stop, before = asyncio.get_running_loop(), asyncio.Event(), signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, interrupted)
    try:
        return await work(stop), stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def console_on(file: TextIO | None = None) -> Console:
    """Where things are shown: without a file on whatever is `sys.stdout` then, for a prompt takes its place."""
    from rich.console import Console

    wide = not (file or sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(file=file, highlight=False, width=PIPE_WIDTH if wide else None)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"offhook: {message}\n")
    raise typer.Exit(code)
