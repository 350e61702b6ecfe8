"""Libraries that may be missing, and the error if nothing can be measured."""

from __future__ import annotations

import importlib
from types import ModuleType


class UnmeasurableError(Exception):
    """A measurement is impossible here; the text is one line with the reason and the remedy."""


def optional(name: str) -> ModuleType | None:
    """A module, or None where it is not installed or fails to load."""
    try:
        return importlib.import_module(name)
    except Exception:  # a broken installation can raise any exception
        return None
