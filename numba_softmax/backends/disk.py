"""Compiled kernels on disk: a file a kernel, and any fault is a miss.

A file's name is a hash of all that the machine code depends on; the file begins
with a hash of its name and of the rest; and it appears by renaming. So a file is
whole and right, or it is not used. Each write removes the least recently used
files beyond a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba

from .. import kernel_code

kernel_code.register()

_LIMIT_VARIABLE = "NUMBA_SOFTMAX_CACHE_BYTES"

_IRRELEVANT = (
    _LIMIT_VARIABLE,
    "NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY",
)  # fmt: skip

_SECONDS_UNTIL_NOTED_AGAIN = 24 * 3600
"""A file's time of modification is that of its last use, to within a day, so that most loads write nothing."""

_SECONDS_TO_WRITE = 3600
"""Older .part files were left by processes that ended while they wrote."""


def _limit() -> int:
    default = 1 << 28  # twice what `warmup` of everything leaves
    text = os.environ.get(_LIMIT_VARIABLE) or str(default)
    if text.isdecimal():
        return int(text)
    warnings.warn(
        f"{_LIMIT_VARIABLE} is {text!r}: it must be a whole number of bytes; {default} are used",
        RuntimeWarning,
        stacklevel=2,
    )
    return default


LIMIT = _limit()
"""Bytes of kernels that are kept, at most."""


def cache_folder() -> Path:
    """The folder of compiled kernels: in NUMBA_CACHE_DIR, or else the user's cache folder.

    A relative NUMBA_CACHE_DIR is taken as Numba takes it. The user's folder is to be
    the same wherever a process runs, and its specification says that a relative one
    is to be ignored.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR, "numba_softmax")
    base = Path(os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "numba_softmax"


def key_of(name: str, module: str, *versions: Any) -> str:
    """The key of a kernel that a module of a backend compiles.

    `versions` are what it depends on besides the package's code, Python, Numba and the environment.
    """
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_") and k not in _IRRELEVANT}
    code = kernel_code.digest(module)
    parts = (name, versions, environment, code, sys.version, numba.__version__, llvmlite.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read(key: str) -> bytes | None:
    """The kernel with this key; None unless it is present, whole, and from a trusted owner."""
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(key)
        with open(path, "rb", opener=_open_at_once) as file:
            facts = os.fstat(file.fileno())
            content = file.read() if _is_trusted(facts) else b""
        payload = content[32:]
        if _seal(key, payload) == content[:32]:
            if time.time() - facts.st_mtime > _SECONDS_UNTIL_NOTED_AGAIN:
                with contextlib.suppress(OSError):
                    os.utime(path)
            return payload
    return None


def write(key: str, payload: bytes) -> None:
    """Store a kernel, if that is possible."""
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_seal(key, payload) + payload)
            if not _is_trusted(os.stat(beside)):
                raise OSError(f"{beside}: the file system gives it another owner, so it would not be read")
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
        _prune()


class KeptFile(NamedTuple):
    """A file of the cache."""

    path: str
    bytes: int
    used: float  # the time of the last use, as of time.time()


def kept(suffix: str = ".kernel") -> list[KeptFile]:
    """The files of the cache, without those from owners that are not trusted."""
    found = []
    for entry in os.scandir(cache_folder()):
        if entry.name.endswith(suffix):
            with contextlib.suppress(OSError):  # other processes remove files too
                facts = entry.stat(follow_symlinks=False)
                if _is_trusted(facts):
                    found.append(KeptFile(entry.path, facts.st_size, facts.st_mtime))
    return found


def _prune() -> None:
    """Remove the least recently used kernels beyond the limit, and what writers left behind."""
    total, now = 0, time.time()
    for file in sorted(kept(), key=lambda file: file.used, reverse=True):
        total += file.bytes
        if total > LIMIT:
            _remove(file)
    for file in kept(".part"):
        if now - file.used > _SECONDS_TO_WRITE:
            _remove(file)


def _remove(file: KeptFile) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file.path)


def _path(key: str) -> Path:
    return cache_folder() / f"{key}.kernel"


def _seal(key: str, payload: bytes) -> bytes:
    """The hash that a file begins with. It covers the name, since files in a shared folder can be renamed by others."""
    return hashlib.sha256(key.encode() + payload).digest()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, should it be a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _is_trusted(facts: os.stat_result) -> bool:
    """True for files of this user or of the system. A file that others wrote could run anything when unpickled."""
    owners = {0, os.geteuid()} if hasattr(os, "geteuid") else {facts.st_uid}
    return stat.S_ISREG(facts.st_mode) and facts.st_uid in owners
