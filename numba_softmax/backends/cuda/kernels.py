"""From a kernel's body to PTX, and to a GPU's machine code; none of it needs a GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from numba import float32, types

from ... import kernel_code
from ...building import built
from .. import disk
from . import driver, installed
from .device import WARP
from .plan import Kernel

with installed.needed():
    import numba_cuda
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv import nvvm

kernel_code.register()

_OPTIONS = {
    "fastmath": False,
    "opt": 3,
    "fma": 0,  # products and sums are fused only where the code says so: the errors of sums depend on it
}


def target_of(capability: tuple[int, int]) -> tuple[int, int]:
    """The virtual architecture to compile for: one of two, the newer of which is for all newer machines too."""
    return (8, 0) if capability >= (8, 0) else (7, 5)


class Compiled(NamedTuple):
    """A kernel in PTX, and the name of its entry."""

    ptx: str
    entry: str


def compile_kernel(kernel: Kernel, target: tuple[int, int]) -> Compiled:
    """Compile a kernel for a virtual architecture; this needs no GPU."""
    try:
        return _compiled(kernel.function, kernel.signature, kernel.threads, target)
    except Exception as error:
        check_compiler(error)
        raise


def check_compiler(found: Exception | None = None) -> None:
    """Raise CudaError if not even an empty kernel can be compiled; an error `found` before gives the reason."""
    try:
        _compiled(lambda: None, (), 32, (7, 5))
    except Exception as error:
        raise installed.unusable(found or error) from error


def _compiled(function: Callable, signature: tuple, threads: int, target: tuple[int, int]) -> Compiled:
    compiled = compile_cuda(function, types.void, signature, nvvm_options=_OPTIONS, cc=target)
    library, name = compiled.library, compiled.fndesc.llvm_func_name
    entry = library.get_function(name)
    library._entry_name = name
    kernel_fixup(entry, False)
    nvvm.set_launch_bounds(entry, (threads,))
    (ptx,) = library.get_asm_strs(cc=target)
    return Compiled(ptx, name)


class Assembled(NamedTuple):
    """A kernel in a GPU's machine code, its entry, and the assembler's report on it."""

    cubin: bytes
    entry: str
    report: str


def assemble(kernel: Kernel, ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """A kernel's machine code from its PTX, and the assembler's report on it."""
    for blocks in _blocks_at_once(kernel, capability):
        cubin, report = driver.assemble(_with_blocks(ptx, blocks), capability)
        if not re.search(r"[1-9]\d* bytes (stack|spill)", report):
            break
    return cubin, report


def _blocks_at_once(kernel: Kernel, capability: tuple[int, int]) -> Iterator[int]:
    """The least number of blocks that a multiprocessor should hold, then what to try if that makes the kernel spill.

    By default, the assembler gives threads of float32 kernels registers to the point that a multiprocessor holds only 8
    or 16 warps: too few to hide the memory's latency. Before capability 9.0, with 24 warps most kernels spill.
    """
    if kernel.spec.number is float32:
        for warps in (24, 16) if capability >= (9, 0) else (16,):
            yield warps * WARP // kernel.threads
    yield 0


def _with_blocks(ptx: str, blocks: int) -> str:
    """The PTX of a kernel of which a multiprocessor is to hold at least `blocks` blocks, unless that is 0."""
    return re.sub(r"\.maxntid.*", rf"\g<0>\n.minnctapersm {blocks}", ptx) if blocks else ptx


@built
def assembled_kernel(kernel: Kernel, capability: tuple[int, int]) -> Assembled:
    """A kernel for a GPU of this capability, loaded from disk if it was stored there."""
    key = disk.key_of(kernel.name, __name__, capability, numba_cuda.__version__, driver.assembler_version())
    kept = disk.read(key)
    if kept is not None:
        head, _, cubin = kept.partition(b"\n")
        return Assembled(cubin, *json.loads(head))
    ptx, entry = compile_kernel(kernel, target_of(capability))
    cubin, report = assemble(kernel, ptx, capability)
    disk.write(key, json.dumps([entry, report]).encode() + b"\n" + cubin)
    return Assembled(cubin, entry, report)
