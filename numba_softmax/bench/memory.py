"""The memory of processes, as Linux reports it; None on other systems."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

PROC = Path("/proc")


def anonymous(process: int) -> int | None:
    """The bytes in memory that are not pages of a file."""
    return _bytes(str(process), "RssAnon")


def peak() -> int | None:
    """The most bytes that this process had in memory since `forget_peak`."""
    return _bytes("self", "VmHWM")


def forget_peak() -> None:
    """Start a new peak."""
    with contextlib.suppress(OSError):
        (PROC / "self" / "clear_refs").write_text("5")


def _bytes(process: str, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", (PROC / process / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
