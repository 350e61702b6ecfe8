"""Compiled kernels on disk: a file a kernel, and any fault is a miss.

Numba's own cache shares an index file among processes, looks at the kernel's
own source file alone, and lets some faults out as errors. Here a file's name is
a hash of all that the machine code depends on, every source file of the package
included; the file begins with a hash of the rest; and it appears by renaming.
So a file is whole and right, or it is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

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
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        sources.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return sources.hexdigest()


def _kernel_hash(name: str, signature: Any, codegen: Any) -> str:
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_") and k not in _IRRELEVANT}
    parts = (
        name, str(signature), codegen.magic_tuple(), environment, _sources_hash(),
        sys.version, numba.__version__, llvmlite.__version__,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _number_functions_apart() -> bool:
    """Make the symbols of this process differ from those of any other.

    Numba numbers functions from 1 in each process, and symbols are told apart
    by that number. Kernels from different processes would so have symbols in
    common, and the linker takes the first of a name: one kernel would run
    another's code. Counting from a random number keeps them apart.
    """
    if not hasattr(FunctionIdentity, "_unique_ids"):
        return False
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "big"))
    return True


_symbols_are_unique = _number_functions_apart()


class KernelCache(NullCache):
    """The disk cache of one kernel, in place of Numba's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel from disk, or None."""
        with contextlib.suppress(Exception):
            rtsys.initialize(target_context)  # kernels take memory from it; what the compiler needs is left alone
            content = self._path(sig, target_context.codegen()).read_bytes()
            digest, payload = content[:32], content[32:]
            if hashlib.sha256(payload).digest() == digest:
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Keep a compiled kernel, if that is possible."""
        if not _symbols_are_unique:
            return
        with contextlib.suppress(Exception):
            path = self._path(sig, cres.codegen)
            payload = pickle.dumps(cres._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(payload).digest() + payload)
                os.replace(beside, path)
            except BaseException:
                os.unlink(beside)
                raise

    def _path(self, sig: Any, codegen: Any) -> Path:
        return cache_folder() / f"{_kernel_hash(self._name, sig, codegen)}.kernel"
