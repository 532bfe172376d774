from __future__ import annotations

from multiprocessing import resource_tracker

# Started by the first process of a pool and never ended, by design of the standard library: no test's leak.
resource_tracker.ensure_running()
