"""A configuration file as a tree that remembers where each value stands.

Theory of operation
-------------------
`read` composes the YAML, keeps every plain scalar as text (`Plain`), puts in `${VAR}`, lays `OFFHOOK_…` variables
over the result and remembers an origin for every path. Scalars stay text on purpose: YAML would turn an unquoted
`+15550100` into the integer 15550100 and `10:30` into 630. The models know what they want and read `8080` as a
number themselves; where no model looks (the settings of an agent) `typed` gives plain scalars the meaning that
YAML 1.2 gives them.

What the models find wrong is told by `plain_message`, in the words of somebody who writes YAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel

PREFIX: Final = "OFFHOOK_"
NESTING: Final = "__"

MAX_DEPTH: Final = 32
"""Levels of nesting; a configuration needs six, and an alias bomb needs many."""
MAX_NODES: Final = 100_000
"""Values in one file, aliases counted at every use: ten thousand routes fit, an alias bomb does not."""

WRONG_SHAPE: Final = frozenset({"model_type", "model_attributes_type", "dict_type"})
"""Pydantic's errors of what should have been a mapping."""

Path = tuple[str | int, ...]

_SECRET_NAME = re.compile(r"token|secret|key|password|passphrase|credential", re.IGNORECASE)
_INT = re.compile(r"-?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Variables:
    """How the names of variables are written, and what is said of one that has no value."""

    pattern: re.Pattern[str]
    "From `variable_pattern`."
    missing: Callable[[str, bool], str]
    "Name, and whether it is there but empty → what to do about it; empty: nothing, it stands for no letters."


def variable_pattern(name: str) -> re.Pattern[str]:
    """What finds `${NAME}`, `${NAME:-default}`, `$${` and mistakes, for names of the form `name` (without groups)."""
    return re.compile(
        rf"\$(?:(?P<escape>\$)(?=\{{)|\{{(?P<name>{name})(?::-(?P<default>[^}}]*))?\}}|(?P<bad>\{{[^}}]*\}}?))"
    )


def _not_set(name: str, empty: bool) -> str:
    return (
        f"environment variable {name} {'is empty' if empty else 'is not set'}; set it (in the environment or in .env "
        f"beside this file) or write ${{{name}:-default}}"
    )


ENVIRONMENT: Final = Variables(variable_pattern(r"[A-Za-z_][A-Za-z0-9_]*"), _not_set)


class Plain(str):
    """A scalar written without quotes, whose type nobody has decided yet."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written."""

    name: str
    "File name as given, or `environment variable NAME`."
    line: int = 0
    "From 1; 0 when the origin is no file."
    column: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    origin: Origin
    path: str
    "Such as `routes[0].agent`; empty for the file as a whole."
    message: str
    "What is wrong and what to do about it."

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.path, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds every fault found, not just the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(slots=True)
class Source:
    """What `read` found."""

    tree: dict[str, Any]
    origins: dict[Path, Origin]
    secrets: set[str]
    "Values that came out of a variable, at a place or under a name that says they are secret."

    def origin(self, path: Path) -> Origin:
        """Where the value at `path` was written; for a missing value, where its nearest parent was."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]


def dotted(path: Path) -> str:
    """A path in the form people write: `routes[0].agent`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read(
    text: str,
    name: str,
    env: Mapping[str, str],
    known: frozenset[str],
    only: frozenset[str] = frozenset(),
    variables: Variables = ENVIRONMENT,
) -> Source:
    """Read a configuration text and lay the environment over it.

    Args:
        text: YAML.
        name: what to call the file in errors.
        env: the environment, for `${VAR}` and for overrides.
        known: the top-level keys. Variables that name none of them are somebody else's (Kubernetes sets
            OFFHOOK_PORT for a service of that name), unless they are nested or all but name one.
        only: when given, a missing variable matters below these top-level keys only.
        variables: how they are written, where `env` is not the environment.

    Raises:
        ConfigError: not YAML, not a mapping, a key twice, a variable that is not set, an override of nothing.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError([_yaml_problem(error, name)]) from error
    reader = _Reader(name, env, only, variables)
    tree: Any = {} if node is None else reader.build(node, ())
    source = Source(tree, reader.origins, reader.secrets)
    source.origins.setdefault((), Origin(name, 1, 1))
    if not isinstance(tree, dict):
        reader.problem((), "the file must be a mapping of sections such as `public_url:` and `routes:`")
    if reader.problems:
        raise ConfigError(reader.problems)
    for variable, path, value in _overrides(env, known):
        _override(source, variable, path, value)
    return source


def typed(value: Any) -> Any:
    """Give plain scalars the type YAML 1.2 gives them; quoted ones stay text."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in ("true", "True", "TRUE"):
        return True
    if value in ("false", "False", "FALSE"):
        return False
    if _INT.match(value):
        return int(value)
    if _FLOAT.match(value):
        return float(value)
    return str(value)


def plain_message(kind: str, text: str) -> str:
    """What is wrong and what to do, for one of pydantic's errors.

    Args:
        kind: pydantic's name for it.
        text: pydantic's message, for errors that need no plainer one.
    """
    if kind == "missing":
        return "is missing; add it"
    if kind in ("string_type", "string_sub_type"):
        return "must be text; put it in quotes"
    if kind in ("list_type", "tuple_type"):
        return "must be a list: `- …` lines, or [a, b]"
    if kind in WRONG_SHAPE:
        return "must be a mapping of keys and values"
    return text[:1].lower() + text[1:]


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `list[Route]` or `Closed | None`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for argument in get_args(annotation) if (found := model_in(argument)) is not None), None)


class _Reader:
    """Turns YAML nodes into the tree."""

    def __init__(
        self,
        name: str,
        env: Mapping[str, str],
        only: frozenset[str] = frozenset(),
        variables: Variables = ENVIRONMENT,
    ) -> None:
        self.name, self.env, self.only, self.variables = name, env, only, variables
        self.origins: dict[Path, Origin] = {}
        self.secrets: set[str] = set()
        self.problems: list[Problem] = []
        self._nodes = 0

    def problem(self, path: Path, message: str, node: yaml.Node | None = None) -> None:
        origin = self.origins.get(path, Origin(self.name, 1, 1)) if node is None else self._mark(node)
        self.problems.append(Problem(origin, dotted(path), message))

    def _mark(self, node: yaml.Node) -> Origin:
        return Origin(self.name, node.start_mark.line + 1, node.start_mark.column + 1)

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.origins[path] = self._mark(node)
        self._nodes += 1
        if len(path) > MAX_DEPTH or self._nodes > MAX_NODES:
            limit = f"{MAX_DEPTH} levels deep" if len(path) > MAX_DEPTH else f"{MAX_NODES} values"
            raise ConfigError([Problem(self._mark(node), dotted(path), f"more than {limit}; are aliases nested?")])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(path, "a key must be a word, not a list or a mapping", key_node)
            elif key_node.value == "<<" and key_node.style is None:
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in reversed(parts):
                    if isinstance(part, yaml.MappingNode):
                        merged.update(self._mapping(part, path))
                    else:
                        self.problem(path, "`<<` merges a mapping, such as `<<: *defaults`", part)
            elif key_node.value in own:
                self.problem((*path, key_node.value), "this key is here twice; remove one", key_node)
            else:
                own[key_node.value] = self.build(value_node, (*path, key_node.value))
                self.origins[*path, key_node.value] = self._mark(key_node)  # an unknown key is what people look for
        return {**merged, **own}

    def _scalar(self, node: yaml.Node, path: Path) -> str | None:
        text, plain = str(node.value), getattr(node, "style", None) is None
        if plain and text in ("", "~", "null", "Null", "NULL"):
            return None
        filled = self._fill(text, path, node)
        # What a variable holds is text and is never looked into again.
        return Plain(filled) if plain and filled == text else filled

    def _fill(self, text: str, path: Path, node: yaml.Node) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match["escape"]:
                return "$"
            if match["bad"]:
                self.problem(path, f"`${match['bad']}` is no variable; write ${{NAME}}, or $${{ for the signs", node)
                return ""
            variable, default = match["name"], match["default"]
            value = self.env.get(variable, "")
            wanted = not value and default is None and (not self.only or not self.only.isdisjoint(path[:1]))
            if wanted and (message := self.variables.missing(variable, variable in self.env)):
                self.problem(path, message, node)
            value = value or default or ""
            if _SECRET_NAME.search(variable) or _SECRET_NAME.search(str(path[-1]) if path else ""):
                self.secrets.add(value)
            return value

        return self.variables.pattern.sub(value_of, text)


def _yaml_problem(error: yaml.YAMLError, name: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return Problem(Origin(name), "", f"this is not YAML: {error}")
    what = " ".join(str(part) for part in (getattr(error, "context", ""), getattr(error, "problem", "")) if part)
    hint = "; a tab cannot indent YAML, use spaces" if "'\\t'" in what else ""
    return Problem(Origin(name, mark.line + 1, mark.column + 1), "", f"this is not YAML: {what}{hint}")


def _overrides(env: Mapping[str, str], known: frozenset[str]) -> Iterator[tuple[str, list[str], str]]:
    for variable in sorted(env):
        if not variable.startswith(PREFIX):
            continue
        parts = variable[len(PREFIX) :].lower().split(NESTING)
        close = get_close_matches(parts[0], known, 1, 0.75)
        if parts[0] in known:
            yield variable, parts, env[variable]
        elif len(parts) > 1 or close:
            hint = f"did you mean {PREFIX}{NESTING.join([*close, *parts[1:]]).upper()}?" if close else "unset it"
            raise ConfigError([Problem(Origin(f"environment variable {variable}"), "", f"no such setting; {hint}")])


def _override(source: Source, variable: str, parts: list[str], text: str) -> None:
    """Set one path of the tree. Segments find existing keys with `-` for `_` and in any case."""
    origin = Origin(f"environment variable {variable}")
    here: Any = source.tree
    path: Path = ()
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                where = f"{dotted(path)} has {len(here)} entries, numbered from 0"
                raise ConfigError([Problem(origin, dotted(path), f"{part!r} is none of them: {where}")])
            key: str | int = int(part)
        else:
            key = next((name for name in here if name.lower().replace("-", "_") == part), part)
        path = (*path, key)
        if last:
            here[key] = _override_value(text, origin, path)
            for below in [known for known in source.origins if known[: len(path)] == path]:
                del source.origins[below]
            source.origins[path] = origin
            if _SECRET_NAME.search(str(key)):
                source.secrets.add(text)
        else:
            inner = here[key] if isinstance(key, int) else here.get(key)
            if not isinstance(inner, dict | list):
                inner = here[key] = {}
                source.origins[path] = origin
            here = inner


def _override_value(text: str, origin: Origin, path: Path) -> Any:
    """A scalar as it is; a list or a mapping where the text opens one."""
    if not text.startswith(("[", "{")):
        return Plain(text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(origin, dotted(path), f"not a list or mapping as JSON or YAML: {error}")]) from error
    reader = _Reader(origin.name, {})
    value = reader.build(node, path) if node is not None else None
    if reader.problems:
        raise ConfigError([Problem(origin, problem.path, problem.message) for problem in reader.problems])
    return value
