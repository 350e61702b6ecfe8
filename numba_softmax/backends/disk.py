"""Compiled kernels on disk: a file a kernel, and any fault is a miss.

A file's name is a hash of all that the machine code depends on, every source
file of the package included; the file begins with a hash of the rest; and it
appears by renaming. So a file is whole and right, or it is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite
import numba

_IRRELEVANT = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY")


def cache_folder() -> Path:
    """Where kernels are kept: in NUMBA_CACHE_DIR, or else the user's cache folder."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR) / "numba_softmax"
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "numba_softmax"


@functools.cache
def _sources_hash() -> str:
    """A hash of all source files of the package."""
    sources = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        sources.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return sources.hexdigest()


def path_of(name: str, *versions: Any) -> Path:
    """The file of a kernel; `versions` are what it depends on besides the sources, Numba and the environment."""
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_") and k not in _IRRELEVANT}
    parts = (name, versions, environment, _sources_hash(), sys.version, numba.__version__, llvmlite.__version__)
    return cache_folder() / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.kernel"


def read(path: Path) -> bytes | None:
    """What was written there, if it is whole."""
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() == digest:
            return payload
    return None


def write(path: Path, payload: bytes) -> None:
    """Keep something, if that is possible."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
