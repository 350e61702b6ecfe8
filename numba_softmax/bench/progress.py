"""The progress bar of long measurements."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(doing: str, steps: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A bar on stderr, if that is a terminal: it appears after a second, and is removed at the end."""
    return tqdm(steps, desc=doing, delay=1, leave=False, disable=None, file=sys.stderr, **options)
