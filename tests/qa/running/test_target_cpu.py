"""CPU of a program and its children, from a made-up /proc and from the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from offhook.qa.running.target_cpu import TargetCpu

TICKS = os.sysconf("SC_CLK_TCK")


def _process(proc: Path, pid: int, parent: int, user: float, system: float) -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    fields = ["S", str(parent), *["0"] * 9, str(round(user * TICKS)), str(round(system * TICKS)), "0"]
    (folder / "stat").write_text(f"{pid} (a (strange) name) {' '.join(fields)}\n")


def test_children_count_with_their_parent_and_strangers_do_not(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        _process(tmp_path, pid, parent, 1.0, 1.0)
    cpu = TargetCpu(10, tmp_path)
    cpu.sample(0.0)
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        _process(tmp_path, pid, parent, 5.0, 2.0)
    cpu.sample(10.0)
    assert cpu.cores(0, 10) == pytest.approx(3 * 5 / 10)


def test_a_child_that_has_ended_takes_nothing_away(tmp_path: Path) -> None:
    _process(tmp_path, 10, 1, 1.0, 0.0)
    _process(tmp_path, 11, 10, 4.0, 0.0)
    cpu = TargetCpu(10, tmp_path)
    cpu.sample(0.0)
    (tmp_path / "11" / "stat").unlink()
    _process(tmp_path, 10, 1, 3.0, 0.0)
    cpu.sample(4.0)
    assert cpu.cores(0, 4) == pytest.approx(0.5)


def test_what_was_not_looked_at_is_not_known(tmp_path: Path) -> None:
    _process(tmp_path, 10, 1, 1.0, 0.0)
    cpu = TargetCpu(10, tmp_path)
    assert cpu.cores(0, 10) is None
    cpu.sample(0.0)
    assert cpu.cores(0, 10) is None


def test_a_process_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError, match="there is no process 77; give the target's by --target-pid"):
        TargetCpu(77, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_real_proc_knows_us() -> None:
    cpu = TargetCpu(os.getpid())
    cpu.sample(0.0)
    cpu.sample(1.0)
    assert (cpu.cores(0, 1) or 0.0) >= 0.0
