"""Read scenarios: one YAML file each, variables put in, checked as a whole.

    loaded = load("greeting.yaml", sets={"name": "Miller"})

* `${name}` is a variable: of `sets`, or else its default in the file's own `vars:`. `${name:-default}` may be missing,
  `${env:NAME}` is one of the environment, `$${` the signs themselves.
* Scalars stay text until the model asks for a number: `0412` is four keys, `+15550100` a number to call.
* Files that a scenario names are relative to it.

Every fault is reported, not just the first, each with file, line, column, path and remedy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from offhook.agents.config_source import (
    ConfigError,
    Origin,
    Plain,
    Problem,
    Source,
    Variables,
    dotted,
    read,
    typed,
    variable_pattern,
)
from offhook.agents.config_source import Path as At
from offhook.qa.scenario.checks import faults_in
from offhook.qa.scenario.faults import problems_of
from offhook.qa.scenario.model import Scenario

__all__ = [
    "ALL",
    "SUITE",
    "Loaded",
    "Origin",
    "Problem",
    "ScenarioError",
    "expand",
    "load",
    "load_suite",
    "parse",
    "read_model",
    "suite_paths",
]

MAX_FILE: Final = 1024 * 1024
"""Bytes of a scenario: far above a thousand steps."""

SUITE: Final = "suite:"
"""What the name of a built-in scenario begins with on the command line."""

ALL: Final = "all"

_NO_SCENARIO: Final = re.compile(r"^mix:", re.MULTILINE)
"""What a plan for load has, and a scenario has not."""

_HEAD: Final = 64 * 1024

Model = TypeVar("Model", bound=BaseModel)

_NAMES: Final = variable_pattern(r"(?:env:)?[A-Za-z_][A-Za-z0-9_]*")

_FREE: Final = frozenset({"stt", "llm"})
"""Settings of services, which no model of ours knows: plain scalars have the type there that YAML 1.2 gives them."""

_NOTHING_ALLOWED: Final = _FREE | {"vars"}

_LOOK_AT: Final = 400
"""Letters of a line that are looked at for mistakes of YAML."""

_COMMENT: Final = re.compile(r"[^#\n]*\s#")
_BARE_VARIABLE: Final = re.compile(r"[:,\[]\s*(\$\{[^}\n]*\})")
_KEYS_BEHIND: Final = re.compile(r"(?:dtmf|digits):[^#\n]*\s(#[0-9*#A-D]*)\s*[,}]?\s*$")


class ScenarioError(ConfigError):
    """A scenario cannot be used. `problems` holds every fault found, each with origin, path and message."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A scenario and where each part of it was written. It may be pickled."""

    scenario: Scenario
    path: Path
    "The file; other files that it names are looked for beside it."
    source: Source
    variables: frozenset[str]
    "Names of all variables that the file has defaults for or asks for; a `--set` of another name is a mistake."

    @property
    def folder(self) -> Path:
        """Where the files lie that the scenario names."""
        return self.path.parent

    def where(self, *path: str | int) -> str:
        """`file:line:column` of a part, such as `where("steps", 3, "expect", "within")`; of what is not written there,
        where the part around it is. Names of the model's fields will do, too (`assert_`)."""
        return str(self.source.origin(tuple(_written(part) for part in path)))


def load(path: str | Path, *, sets: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a scenario.

    Args:
        path: the YAML file.
        sets: variables; they go before the defaults in the file.

    Raises:
        ScenarioError: with every fault that was found.
    """
    return _loaded(_text_of(Path(path)), Path(path), sets or {})


def parse(text: str, path: str | Path = "scenario.yaml", *, sets: Mapping[str, str] | None = None) -> Loaded:
    """The same for a text, as if it stood in the file `path`. Raises ScenarioError."""
    return _loaded(text, Path(path), sets or {})


def read_model(
    path: str | Path, model: type[Model], *, sets: Mapping[str, str] | None = None
) -> tuple[Model, Source, frozenset[str]]:
    """Read a file of another kind by the same rules, such as a plan for load.

    Returns:
        What the file says, where each part of it was written, and the names of the variables it asks for.

    Raises:
        ScenarioError: with every fault that was found.
    """
    return _validated(_text_of(Path(path)), str(path), model, sets or {})


def suite_paths() -> dict[str, Path]:
    """The built-in scenarios: name → file."""
    folder = Path(str(files("offhook.qa").joinpath("suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suite(name: str, *, sets: Mapping[str, str] | None = None) -> Loaded:
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


def _loaded(text: str, path: Path, sets: Mapping[str, str]) -> Loaded:
    scenario, source, asked = _validated(text, str(path), Scenario, sets)
    problems = []
    for at, message in faults_in(scenario, path.parent):
        while at not in source.origins:  # a shorthand, which is written in one
            at = at[:-1]
        problems.append(Problem(source.origins[at], dotted(at), message))
    if problems:
        raise ScenarioError(_in_order(problems))
    return Loaded(scenario, path, source, asked.union(scenario.vars))


def _text_of(path: Path) -> str:
    origin = Origin(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ScenarioError([Problem(origin, "", f"has more than {MAX_FILE} bytes; split it")])
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ScenarioError([Problem(origin, "", "there is no such file; `offhook qa init` writes one")]) from error
    except OSError as error:
        raise ScenarioError([Problem(origin, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        raise ScenarioError([Problem(origin, "", message)]) from error


class _Values(Mapping[str, str]):
    """What variables stand for. It remembers what it was asked for."""

    def __init__(self, *values: Mapping[str, str]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        if name.startswith("env:"):
            return os.environ[name.removeprefix("env:")]
        self.asked.add(name)
        for values in self._values:
            if name in values:
                return values[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())  # nothing in a scenario is laid over by variables

    def __len__(self) -> int:
        return 0


def _missing(name: str, empty: bool) -> str:
    if empty:
        return ""
    if name.startswith("env:"):
        bare = name.removeprefix("env:")
        return f"environment variable {bare} is not set; set it, or write ${{{name}:-default}}"
    return f"variable {name} has no value; give one by --set {name}=…, or a default under `vars:`"


def _validated(
    text: str, name: str, model: type[Model], sets: Mapping[str, str]
) -> tuple[Model, Source, frozenset[str]]:
    rules = Variables(_NAMES, _missing)
    given = _Values(sets)
    try:
        # Defaults first: they may ask for variables, too, but not for each other.
        first = read(text, name, given, frozenset(), frozenset({"vars"}), rules)
        section = first.tree.get("vars")
        defaults = (
            {key: value or "" for key, value in section.items() if isinstance(value, str | None)}
            if isinstance(section, dict)
            else {}
        )
        values = _Values(sets, defaults)
        source = read(text, name, values, frozenset(), frozenset(), rules)
    except ConfigError as error:
        raise ScenarioError([_with_hint(problem, text) for problem in error.problems]) from error
    problems = list(_traps(source, text.splitlines()))
    # A section whose every line is commented out is the section left out.
    tree = {key: _settled(value, key in _FREE) for key, value in source.tree.items() if value is not None}
    if isinstance(tree.get("vars"), dict):
        tree["vars"] = defaults
    try:
        value = model.model_validate(tree)
    except ValidationError as error:
        found = problems_of(error, model, tree, source)
        told = {problem.origin for problem in problems}
        problems += [problem for problem in found if problem.origin not in told]
        raise ScenarioError(_in_order(problems)) from error
    if problems:
        raise ScenarioError(_in_order(problems))
    return value, source, frozenset(values.asked | given.asked)


def _with_hint(problem: Problem, text: str) -> Problem:
    """What to do about a variable that YAML took for a mapping."""
    lines = text.splitlines()
    line = lines[problem.origin.line - 1][:_LOOK_AT] if 0 < problem.origin.line <= len(lines) else ""
    if "not YAML" in problem.message and (found := _BARE_VARIABLE.search(line)):
        return replace(problem, message=f'{problem.message}; within {{…}} and […] write "{found[1]}" in quotes')
    return problem


def _settled(value: object, free: bool) -> object:
    """The tree without undecided scalars: text, but in the settings of services what YAML 1.2 says."""
    if isinstance(value, dict):
        return {key: _settled(inner, free or key in _FREE) for key, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner, free) for inner in value]
    if isinstance(value, Plain):
        return typed(value) if free else str(value)
    return value


def _traps(source: Source, lines: list[str]) -> Iterator[Problem]:
    """Where YAML takes for a comment, or for nothing, what was surely meant."""
    for at, origin in source.origins.items():
        if not at or not 0 < origin.line <= len(lines):
            continue
        rest = lines[origin.line - 1][origin.column - 1 :][:_LOOK_AT]
        value = _at(source.tree, at)
        if value is None and len(at) > 1 and not _NOTHING_ALLOWED.intersection(map(str, at)):
            why = "`#` begins a comment: put the value in quotes" if _COMMENT.match(rest) else "give it a value"
            yield Problem(origin, dotted(at), f"is empty; {why}, or remove the line")
        elif at[-1] in ("dtmf", "digits") and isinstance(value, Plain) and (found := _KEYS_BEHIND.match(rest)):
            message = f'`{found[1]}` is a comment to YAML, as there is a space before it; write "{value}{found[1]}"'
            yield Problem(origin, dotted(at), message)


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.origin.line, problem.origin.column))


def _at(tree: Any, path: At) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _written(part: str | int) -> str | int:
    """How a field of the model is called in the file."""
    return "schema" if part == "version" else part.removesuffix("_") if isinstance(part, str) else part


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
