"""How much CPU a program and its children use, from Linux's /proc (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class TargetCpu:
    """CPU of a process and of all that it has started.

    Args:
        pid: Of the first one.
        proc: Where the system says it.

    Raises:
        ProcessLookupError: there is no such process, or no /proc.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._pid = pid
        self._proc = proc
        self._spent: dict[int, float] = {}
        if pid not in self._all():
            raise ProcessLookupError(f"there is no process {pid}; give the target's by --target-pid")
        self._samples: list[tuple[float, float]] = []

    def sample(self, now: float) -> None:
        """Look at it now; seconds of any clock."""
        for pid, seconds in self._tree().items():
            # A process that has ended keeps what it had when it was last seen.
            self._spent[pid] = max(seconds, self._spent.get(pid, 0.0))
        self._samples.append((now, sum(self._spent.values())))

    def cores(self, start: float, end: float) -> float | None:
        """Cores in use on average between the looks nearest to two times; None: they were not looked at."""
        if not self._samples:
            return None
        first = min(self._samples, key=lambda sample: abs(sample[0] - start))
        last = min(self._samples, key=lambda sample: abs(sample[0] - end))
        seconds = last[0] - first[0]
        return (last[1] - first[1]) / seconds if seconds > (end - start) / 2 else None

    def _tree(self) -> dict[int, float]:
        everybody = self._all()
        found: dict[int, float] = {}
        family = {self._pid}
        while family:
            found |= {pid: everybody[pid][1] for pid in family if pid in everybody}
            family = {pid for pid, (parent, _) in everybody.items() if parent in family} - set(found)
        return found

    def _all(self) -> dict[int, tuple[int, float]]:
        """Process id → its parent's, and CPU seconds."""
        found = {}
        for folder in self._proc.glob("[0-9]*"):
            try:
                # The second field, the name, stands in brackets and may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
            except (OSError, IndexError, ValueError):
                continue  # it has ended meanwhile
        return found
