"""The caller: a deterministic machine that speaks, waits, interrupts and presses keys, a frame at a time."""
