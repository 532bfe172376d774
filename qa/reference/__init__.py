"""A bot of known behaviour, which measurements are held against; `brain` says what it does, `behaviour` its faults."""

from offhook.qa.reference.process import Reference, reference

__all__ = ["Reference", "reference"]
