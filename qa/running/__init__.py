"""Runs: scenarios side by side, calls at load, verdicts, comparisons."""
