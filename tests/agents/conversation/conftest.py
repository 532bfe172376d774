"""What the tests of conversations share."""

from fakes.phone import dial

__all__ = ["dial"]
