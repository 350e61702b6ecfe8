"""From a kernel's body to PTX."""

from __future__ import annotations

from typing import NamedTuple

from numba import float64, int64, types
from numba.cuda.compiler import compile_cuda, kernel_fixup
from numba.cuda.cudadrv import nvvm

from .plan import Kernel

_OPTIONS = {
    "fastmath": False,
    "opt": 3,
    "fma": 0,  # products and sums are fused where it is said, and nowhere else: the errors of sums depend on it
}


class Compiled(NamedTuple):
    """A kernel in PTX, and the name of its entry."""

    ptx: str
    entry: str


def compile_kernel(kernel: Kernel, target: tuple[int, int]) -> Compiled:
    """Compile a kernel for a virtual architecture; that takes no GPU."""
    g = kernel.geometry
    dims = types.UniTuple(int64, 4 * (g.row_dims + g.reduced_dims))
    signature = (int64, int64, int64, int64, float64, float64, int64, int64, int64, dims)
    compiled = compile_cuda(kernel.function, types.void, signature, nvvm_options=_OPTIONS, cc=target)
    library, name = compiled.library, compiled.fndesc.llvm_func_name
    entry = library.get_function(name)
    library._entry_name = name
    kernel_fixup(entry, False)
    nvvm.set_launch_bounds(entry, kernel.threads)
    (ptx,) = library.get_asm_strs(cc=target)
    return Compiled(ptx, name)
