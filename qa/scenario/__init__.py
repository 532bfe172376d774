"""Scenarios: what a test caller does in a call, and what must come of it."""
