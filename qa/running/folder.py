"""Where a run is kept: `qa-runs/<run>/` with run.json, calls/*.wav, *.pcap, *.json, and the reports."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import TypeAdapter, ValidationError

from offhook.qa.running.result import RunReport

RUN_FILE: Final = "run.json"

CALLS: Final = "calls"
"""Folder of the calls' recordings and captures."""

SCHEMA: Final = 1
"""Of run.json, as this version writes and reads it."""

_REPORT: Final = TypeAdapter(RunReport)

_NAME: Final = re.compile(r"(\d{8}-\d{6})(?:-(\d{1,3}))?")
"""A folder's name as `new_folder` gives it."""


class NoRun(Exception):
    """There is no such run, or it cannot be read; the text says which and what to do."""


def new_folder(root: Path) -> Path:
    """Make the folder of a new run, named by the time. Raises OSError."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        (folder / CALLS).mkdir()
        return folder
    raise FileExistsError(f"{root} has a thousand runs of this very second")


def find_run(given: Path, root: Path) -> Path:
    """The folder of a run: as given, that of a run.json, a name below `root`, or the `last` one. Raises NoRun."""
    if str(given) == "last":
        runs = sorted((found.parent for found in root.glob(f"*/{RUN_FILE}")), key=_began)
        if not runs:
            raise NoRun(f"no run in {root} yet; `offhook qa run` makes one")
        return runs[-1]
    for folder in (given, given.parent if given.name == RUN_FILE else given, root / given):
        if (folder / RUN_FILE).is_file():
            return folder
    raise NoRun(f"{given}: no run there; name a folder with a {RUN_FILE}, or `last`")


def _began(folder: Path) -> tuple[str, int, str]:
    """For the order of runs. Folders that somebody named are copies, and come before all others."""
    found = _NAME.fullmatch(folder.name)
    return (found[1], int(found[2] or 1), "") if found else ("", 0, folder.name)


def read_run(folder: Path) -> RunReport:
    """Read a run back. Raises NoRun."""
    file = folder / RUN_FILE if folder.is_dir() else folder
    try:
        found = _REPORT.validate_json(file.read_bytes())
    except OSError as error:
        raise NoRun(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise NoRun(f"{file} is no run of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if found.schema != SCHEMA:
        raise NoRun(f"{file} has schema {found.schema}, and this version reads {SCHEMA}; use that which wrote it")
    return found


def write_run(report: RunReport, folder: Path) -> Path:
    """Write run.json, whole or not at all."""
    file = folder / RUN_FILE
    write_whole(file, msgspec.json.encode(plain(asdict(report))) + b"\n")
    return file


def write_whole(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_bytes(content)
    os.replace(fresh, file)


def plain(value: Any) -> Any:
    """For JSON: floats to a tenth of a microsecond, as nobody reads more; what is no number is null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
