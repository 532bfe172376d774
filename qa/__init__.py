"""Synthetic callers: carrier simulators and what they measure."""
