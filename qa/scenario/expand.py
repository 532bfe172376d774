"""Which files are meant: names on the command line → scenario files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Final

from offhook.agents.config_source import Origin, Problem
from offhook.qa.scenario.load import Loaded, ScenarioError, load

SUITE: Final = "suite:"
"""What the name of a built-in scenario begins with on the command line."""

ALL: Final = "all"

_NO_SCENARIO: Final = re.compile(r"^mix:", re.MULTILINE)
"""What a plan for load has, and a scenario has not."""

_HEAD: Final = 64 * 1024


def suite_paths() -> dict[str, Path]:
    """The built-in scenarios: name → file."""
    folder = Path(str(files("offhook.qa").joinpath("suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suite(name: str, *, sets: dict[str, str] | None = None) -> Loaded:
    """A built-in scenario. Raises ScenarioError, also when there is none of that name."""
    (path,) = _suite(name)
    return load(path, sets=sets)


def expand(names: Iterable[str | Path]) -> list[Path]:
    """The scenario files that are meant, each once, in order.

    Args:
        names: files; directories, with all scenarios below them (plans for load are left out); `suite:greeting` for a
            built-in scenario, `suite:all` for all of them.

    Raises:
        ScenarioError: with every name that stands for nothing.
    """
    found: dict[Path, Path] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            for path in _expand(name):
                found.setdefault(path.resolve(), path)
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return list(found.values())


def _expand(name: str | Path) -> Iterator[Path]:
    text, path = str(name), Path(name)
    if text.startswith(SUITE):
        yield from _suite(text.removeprefix(SUITE))
    elif path.is_dir():
        inside = [
            inner for inner in sorted(path.rglob("*")) if inner.suffix in (".yaml", ".yml") and _is_scenario(inner)
        ]
        if not inside:
            raise ScenarioError([Problem(Origin(text), "", "there is no scenario in this directory (*.yaml)")])
        yield from inside
    elif path.exists():
        yield path
    else:
        close = get_close_matches(text, suite_paths(), 1)
        hint = f"did you mean {SUITE}{close[0]}?" if close else "`offhook qa init` writes a first scenario"
        raise ScenarioError([Problem(Origin(text), "", f"there is no such file or directory; {hint}")])


def _suite(name: str) -> list[Path]:
    known = suite_paths()
    if name == ALL:
        return list(known.values())
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {SUITE}{close[0]}?" if close else f"there are {', '.join(known)}, and {SUITE}{ALL}"
        raise ScenarioError([Problem(Origin(SUITE + name), "", f"there is no such scenario; {hint}")])
    return [known[name]]


def _is_scenario(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not _NO_SCENARIO.search(file.read(_HEAD).decode("utf-8", "replace"))
