"""The walls of the house: which room may import which, what the sans-I/O core may not know, what stands where."""

from __future__ import annotations

import ast
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "codecs": {"codecs"},
    "providers": {"codecs", "providers"},
    "agents": {"codecs", "agents"},
    "qa": {"codecs", "providers", "agents", "qa"},
    "gateway": {"codecs", "providers", "agents", "qa", "gateway"},
}

NOT_IN_THE_CORE = {
    "asyncio",
    "socket",
    "ssl",
    "select",
    "selectors",
    "time",
    "random",
    "threading",
    "starlette",
    "uvicorn",
}
"""What protocol and signal code does without: it takes bytes and `now`, and gives events and bytes."""

MAX_LINES = 600
"""A longer file holds more than one thing."""

TOP_LEVEL = {
    *MAY_IMPORT,
    *("tests", "docs", "deploy", "bench", ".ci"),
    *("pyproject.toml", "Makefile", "config.example.yaml", "docker-compose.yml", ".gitignore"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
}

REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pypi", "python"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("proxy", "golang"),
        ("registry-1", "docker"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("deb", "debian"),
    ]
]
"""Joined here so that this file names none of them: where packages come from is each machine's own affair."""


def _ignored(name: str) -> bool:
    patterns = (ROOT / ".gitignore").read_text().split()
    return name == ".git" or any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns)


def _files() -> Iterator[Path]:
    """Every file of the project that git would keep."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not _ignored(name))
        yield from (Path(folder, name) for name in sorted(names) if not _ignored(name))


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MODULES = [path for path in _files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in MAY_IMPORT]
SHELLS = {
    *("providers/sip/endpoint.py", "providers/sip/resolver.py", "providers/sip/sockets.py"),
    "providers/sip/transport.py",
    *("providers/rtp/clock.py", "providers/rtp/leg.py", "providers/rtp/sockets.py"),
}
"""What of SIP and RTP has sockets and clocks; all the rest is core."""


def _is_core(path: Path) -> bool:
    room, *inner = path.relative_to(ROOT).parts
    if room == "providers" and inner[0] in ("sip", "rtp"):
        return _relative(path) not in SHELLS
    return room == "codecs" or (room == "providers" and path.name in {"wire.py", "auth.py", "answer.py", "base.py"})


CORE = [path for path in MODULES if _is_core(path)]


def _imported(source: str, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module of `package` imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from offhook import gateway` imports a room by its last name
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    return _imported(path.read_text(), ["offhook", *path.relative_to(ROOT).parent.parts])


def test_imports_are_found_wherever_they_hide() -> None:
    source = "def f():\n    from ..gateway import call\n    import asyncio.events\nfrom offhook import qa\n"
    assert sorted(_imported(source, ["offhook", "codecs"])) == [
        (2, "offhook.gateway.call"),
        (3, "asyncio.events"),
        (4, "offhook.qa"),
    ]


@pytest.mark.parametrize("path", MODULES, ids=_relative)
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    broken = [
        f"{_relative(path)}:{line} imports {name}"
        for line, name in _imports(path)
        if name.startswith("offhook.") and name.split(".")[1] not in MAY_IMPORT[room]
    ]
    assert not broken
    bare = [
        f"{_relative(path)}:{line} imports {name}; write offhook.{name}"
        for line, name in _imports(path)
        if name.split(".")[0] in MAY_IMPORT and name.split(".")[0] != "codecs"
    ]
    assert not bare


@pytest.mark.parametrize("path", CORE, ids=_relative)
def test_the_core_knows_no_socket_no_clock_and_no_chance(path: Path) -> None:
    # A SIP user agent takes its source of chance as an argument, for which `random` has the type and the default.
    forbidden = NOT_IN_THE_CORE - ({"random"} if path.parent.name == "sip" else set())
    broken = [
        f"{_relative(path)}:{line} imports {name}" for line, name in _imports(path) if name.split(".")[0] in forbidden
    ]
    assert not broken


@pytest.mark.parametrize("path", MODULES, ids=_relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{_relative(path)} has no docstring"


def test_no_file_is_too_long() -> None:
    long = {_relative(path): count for path in MODULES if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_no_file_names_a_package_registry() -> None:
    found = []
    for path in _files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{_relative(path)}: {host}" for host in REGISTRY_HOSTS if host in text]
    assert not found


def test_the_top_level_holds_only_what_belongs_there() -> None:
    assert {path.name for path in ROOT.iterdir() if not _ignored(path.name)} <= TOP_LEVEL
