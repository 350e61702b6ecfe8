"""``numba-softmax kernels``: registers, memory and occupancy of the CUDA kernels. It needs numba-cuda, but no GPU."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from ..backends.cuda import driver
from ..ops import OPS, STATE_OPS
from .common import DTYPES, NAME, UserError
from .occupancy import LIMITS, Residency, residency

if TYPE_CHECKING:
    from ..backends.cuda.plan import Kernel

DEFAULT = (9, 0)
"""The compute capability to compile for without a GPU."""


class Used(NamedTuple):
    """A kernel's resources as the assembler reports them: registers of a thread, and bytes of memory."""

    registers: int
    static: int  # of shared memory, for each block
    stack: int
    spilled: int  # written and read again
    local: int

    @property
    def clean(self) -> bool:
        """True if all of a thread's values are in registers."""
        return not (self.stack or self.spilled or self.local)


class Line(NamedTuple):
    """A kernel of the table."""

    dtype: str  # of the elements; of a kernel on states, the elements that they belong to
    kernel: Kernel
    capability: tuple[int, int]
    used: Used
    dynamic: int  # bytes of dynamic shared memory, for the longest row
    residency: Residency  # with these resources

    @property
    def label(self) -> str:
        """The kernel in words."""
        kernel = self.kernel
        formats = self.dtype if self.dtype == self.results else f"{self.dtype} to {self.results}"
        return " ".join([kernel.regime, kernel.spec.op.name, formats, *_flags(kernel), geometry(kernel)])

    @property
    def results(self) -> str:
        """The format of the results."""
        return next(o.format for o in self.kernel.spec.operands if o.written)


def command(arguments: argparse.Namespace) -> int:
    """Compile, print, and report the kernels that spill registers."""
    try:
        lines = list(measured(arguments))
    except driver.CudaError as error:
        raise UserError(str(error)) from None
    if arguments.json:
        print(json.dumps([record(line) for line in lines], indent=2))
    else:
        print("\n".join(table(lines)))
    dirty = [line for line in lines if not line.used.clean]
    for line in dirty:
        used = line.used
        memory = f"{used.stack} bytes of stack, {used.spilled} spilled, {used.local} of local memory"
        print(f"{NAME}: {line.label} for capability {_shown(line.capability)}: {memory}", file=sys.stderr)
    return 1 if dirty else 0


# ---------------------------------------------------------------- what is measured


def measured(arguments: argparse.Namespace) -> Iterator[Line]:
    """A line for each kernel that the options name."""
    from ..backends.cuda.kernels import assembled_kernel

    named = [capability_of(text) for text in arguments.capability or ()]
    wanted = [(c, *kind) for c in named or [_of_this_machine()] for kind in _kernels(arguments, c)]
    if not wanted:
        raise UserError("no kernel has these options: a scale changes nothing for these operations")
    with tqdm(wanted, desc="compiling", delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        for capability, dtype, kernel in bar:
            report = assembled_kernel(kernel, capability).report
            yield line_of(dtype, kernel, capability, read_report(report))


def capability_of(text: str) -> tuple[int, int]:
    """A compute capability as users write it."""
    major, minor = text.split(".")
    return int(major), int(minor)


def _of_this_machine() -> tuple[int, int]:
    """The capability of the GPU, or `DEFAULT` without one; one that the table of limits lacks is refused."""
    try:
        capability = driver.device(driver.current_ordinal()).capability
    except driver.CudaError:
        return DEFAULT
    if capability not in LIMITS:
        known = ", ".join(map(_shown, LIMITS))
        raise UserError(f"this GPU has capability {_shown(capability)}: choose --capability among {known}")
    return capability


def _kernels(arguments: argparse.Namespace, capability: tuple[int, int]) -> Iterator[tuple[str, Kernel]]:
    """The kernels that the options name, each with the dtype that it is for."""
    from ..backends.cuda.plan import Machine, kernels_for, state_kernels_for

    machine = Machine(capability, LIMITS[capability].of_a_block)
    kinds = [(arguments.where, arguments.scale)]
    if arguments.all:
        kinds = [(where, scale) for where in (False, True) for scale in (False, True)]
    ops = OPS | STATE_OPS
    for op in arguments.op or ops:
        for dtype in arguments.dtype or DTYPES:
            for where, scale in kinds:
                of_calls = kernels_for(OPS[op], dtype, dtype, where, scale, machine) if op in OPS else []
                for kernel in (*of_calls, *state_kernels_for(ops[op], dtype, where, scale, machine)):
                    yield dtype, kernel


def line_of(dtype: str, kernel: Kernel, capability: tuple[int, int], used: Used) -> Line:
    """The line of a kernel that uses `used`."""
    limits = LIMITS[capability]
    dynamic = _most_dynamic(kernel, limits.of_a_block - used.static)
    there = residency(limits, kernel.threads, used.registers, used.static + dynamic)
    return Line(dtype, kernel, capability, used, dynamic, there)


def _most_dynamic(kernel: Kernel, left: int) -> int:
    """The bytes of dynamic shared memory that the longest row takes, of the `left` bytes available."""
    if kernel.regime != "staged_rows" or kernel.spec.op.reduces:
        return 0
    from ..backends.cuda.regimes.rows import Stage

    of_a_tile = Stage(kernel.spec, kernel.geometry).room(kernel.geometry.tile)
    return left // of_a_tile * of_a_tile


def read_report(report: str) -> Used:
    """The numbers in nvJitLink's report, from the assembler's lines: the linker's also counts the system's memory."""
    frame = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assembled = re.findall(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?", report)
    local = re.findall(r"(\d+) bytes lmem", report)
    if not len(frame) == len(assembled) == len(local) == 1:
        raise UserError(f"the assembler's report on a kernel is of an unknown form: {report}")
    registers, static = assembled[0]
    stack, stores, loads = map(int, frame[0])
    return Used(int(registers), int(static or 0), stack, stores + loads, int(local[0]))


# ----------------------------------------------------------------------- printing


def _shown(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _flags(kernel: Kernel) -> list[str]:
    """The differences of a kernel from the one for aligned rows in which every element counts."""
    spec, g = kernel.spec, kernel.geometry
    strided = g.reduced_dims > 0 and g.across == 1
    flags = {"where": spec.masked, "scale": spec.scaled, "strided": strided, "ragged": g.ragged}
    return [name for name, has in flags.items() if has]


def geometry(kernel: Kernel) -> str:
    """The threads of a row, vectors of a thread and elements of a vector; threads across rows."""
    g = kernel.geometry
    return f"{g.threads}x{g.vectors}x{g.elements}" + (f" across {g.across}" if g.across > 1 else "")


def of_three(kernel: Kernel, of_operands: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The values of the first operand that is read, of the first result, and of the mask, 0 without one."""
    spec = kernel.spec
    of_results = (of_one for o, of_one in zip(spec.operands, of_operands, strict=True) if o.written)
    return of_operands[0], next(of_results), 0 if spec.mask is None else of_operands[spec.mask]


HEADER = (
    "regime", "op", "dtype", "kind", "geometry", "block", "access", "regs", "static", "dynamic", "stack", "spill",
    "blocks", "warps", "occ", "limited by",
)  # fmt: skip
NUMBERS = set(HEADER[7:15]) | {"block"}
LEGEND = (
    "geometry: threads of a row x vectors of a thread x elements of a vector, threads across rows; block: its threads;",
    "access: bytes at once of elements, results and mask; static, dynamic, stack, spill: bytes; dynamic: for the",
    "longest row that is staged, with which blocks, warps and occ of a multiprocessor are computed",
)


def table(lines: list[Line]) -> Iterator[str]:
    """The lines to print, for each capability under a header."""
    for capability in dict.fromkeys(line.capability for line in lines):
        cells = [HEADER, *(_cells(line) for line in lines if line.capability == capability)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        yield f"capability {_shown(capability)}: {len(cells) - 1} kernels"
        for row in cells:
            shown = (
                cell.rjust(width) if name in NUMBERS else cell.ljust(width)
                for name, cell, width in zip(HEADER, row, widths, strict=True)
            )
            yield "  ".join(shown).rstrip()
        yield ""
    yield from LEGEND


def _cells(line: Line) -> tuple[str, ...]:
    kernel, used, there = line.kernel, line.used, line.residency
    numbers = (
        used.registers, used.static, line.dynamic, max(used.stack, used.local), used.spilled, there.blocks, there.warps,
    )  # fmt: skip
    return (
        kernel.regime,
        kernel.spec.op.name,
        line.dtype,
        " ".join(_flags(kernel)),
        geometry(kernel),
        str(kernel.threads),
        "/".join(map(str, of_three(kernel, kernel.geometry.widths))),
        *map(str, numbers),
        f"{there.occupancy:.1%}",
        ", ".join(there.limited_by),
    )


def record(line: Line) -> dict[str, Any]:
    """A line in a form that JSON can hold."""
    kernel, spec, g = line.kernel, line.kernel.spec, line.kernel.geometry
    accesses = {"widths": of_three(kernel, g.widths), "shifted": of_three(kernel, g.shifted)[:2]}
    return {
        "capability": _shown(line.capability),
        "regime": kernel.regime,
        "op": spec.op.name,
        "x": line.dtype,
        "y": line.results,
        "where": spec.masked,
        "scale": spec.scaled,
        "geometry": g._asdict() | accesses,
        "block_threads": kernel.threads,
        **line.used._asdict(),
        "dynamic": line.dynamic,
        **line.residency._asdict(),
    }
