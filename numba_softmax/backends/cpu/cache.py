"""Numba's compiled kernels on disk.

Numba's own cache shares an index file among processes, checks no source file
but the kernel's own, and raises some faults as errors.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
from typing import Any

from numba.core.bytecode import FunctionIdentity
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

from ... import kernel_code
from .. import disk

kernel_code.register()


def _number_functions_apart() -> bool:
    """Make the symbols of this process differ from those of any other.

    Numba numbers functions from 1 in each process, and symbols are told apart
    by that number. Kernels from different processes would then have symbols in
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
            rtsys.initialize(target_context)  # kernels allocate memory by it; the compiler's own part stays unready
            payload = disk.read(self._key(sig, target_context.codegen()))
            if payload is not None:
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Store a compiled kernel, if that is possible."""
        if not _symbols_are_unique:
            return
        with contextlib.suppress(Exception):
            payload = pickle.dumps(cres._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
            disk.write(self._key(sig, cres.codegen), payload)

    def _key(self, sig: Any, codegen: Any) -> str:
        return disk.key_of(self._name, __name__, str(sig), codegen.magic_tuple())
