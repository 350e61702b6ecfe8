"""From a kernel's body to PTX."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba import float64, int64, types
from numba.cuda.compiler import compile_cuda, kernel_fixup
from numba.cuda.cudadrv import nvvm


class Compiled(NamedTuple):
    ptx: str
    entry: str


def compile_kernel(function: Callable, dims: int, threads: int, capability: tuple[int, int]) -> Compiled:
    signature = (*(int64,) * 4, float64, float64, *(int64,) * 3, types.UniTuple(int64, 4 * dims))
    options = {"fastmath": False, "opt": 3, "fma": 0}
    compiled = compile_cuda(function, types.void, signature, nvvm_options=options, cc=capability)
    library, name = compiled.library, compiled.fndesc.llvm_func_name
    kernel = library.get_function(name)
    library._entry_name = name
    kernel_fixup(kernel, False)
    nvvm.set_launch_bounds(kernel, threads)
    (ptx,) = library.get_asm_strs(cc=capability)
    return ptx
