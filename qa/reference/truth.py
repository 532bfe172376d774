"""The truth log: what the reference heard and did, a JSON object a line.

Every line has `call` (Call-ID of SIP, CallSid), `what`, `at` (seconds on the line's clock) and `wall` (Unix seconds of
that moment). What there is, beside:

* `call`: a call came; `way`, `from`, `to`. `answered`: `at` is 0; `after`, the time since the answer to
  the webhook. `refused`: `status`, `why`.
* `speaks`, when a sentence begins: `kind`, `text`. `spoke`, when it is over: `at`, its first sample; `end`; `kind`;
  `text`; `level`, dBov of its louder half; `cut`, why it was cut short, or empty; `after`, the line second of the last
  voiced sample or key that it answers; `interrupted_at`, the onset of what cut it.
* `caller-spoke`, when a turn is answered: `at`, `end`. `ignored`: a sound that was let pass; `end`.
* `key`: a key of the caller; `key`, `way`. `keys-sent`: `keys`, `way`.
* `hole`, `dead-air`: silence within a sentence; `end`. `held`, `resumed`. `codec`: the
  new one. `transfer`: `to`. `hang-up`: we hang up.
* `ended`: `by`; `late_ms`, by how much our worst frame left late.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final, TextIO

MAX_KEPT: Final = 10_000
"""Entries that are kept in memory; the file has all."""


class TruthLog:
    """Writes what is noted; without a path it is kept in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[dict[str, Any]] = []
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path is not None else None

    def note(self, call: str, what: str, at: float, wall: float, **more: Any) -> None:
        """Add an entry; `at` is the line's second, `wall` the same moment in Unix seconds."""
        times = {name: round(value, 6) if isinstance(value, float) else value for name, value in more.items()}
        entry = {"call": call, "what": what, "at": round(at, 6), "wall": round(wall, 6), **times}
        if len(self.entries) < MAX_KEPT:
            self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_truth(path: Path) -> list[dict[str, Any]]:
    """The entries of a log, as far as it is written; a last line that is not whole is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class CallTruth:
    """The truth of one call; it can be called as a brain's `note`."""

    def __init__(self, log: TruthLog, call: str) -> None:
        self._log, self._call = log, call
        self._zero = time.time()

    def answered(self, after: float = 0.0) -> None:
        """The line's clock begins now, so many seconds after the call was answered."""
        self._zero = time.time()
        self("answered", 0.0, after=after)

    def __call__(self, what: str, at: float, **more: Any) -> None:
        self._log.note(self._call, what, at, self._zero + at, **more)
