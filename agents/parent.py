"""For our child processes: not to outlive the process that started them."""

from __future__ import annotations

import ctypes
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): signal this process when its parent dies, or the parent's thread that started it."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, whatever it does then. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
