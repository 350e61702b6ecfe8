"""The CUDA backend: chooses the kernels for a layout and launches them.

Nothing here needs numba-cuda, a driver or a GPU before the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import reduce
from operator import or_
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...building import built
from ...call.layout import Layout
from ...ops import Op
from ..spec import needs_float64, sign_and_factor
from . import allocation, driver
from .driver import Queue

if TYPE_CHECKING:
    from .plan import Kernel, Machine

__all__ = ["launcher_for", "warm"]


class _Ready(NamedTuple):
    """The loaded kernels for calls with a layout on a device."""

    launches: tuple[driver.LoadedKernel, ...]
    workspace: int  # bytes of temporary memory


def launcher_for(op: Op, layout: Layout) -> Callable[[tuple[int, ...], float | None, Queue], None]:
    """The launcher of calls with this layout, which queues their work, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.rows):
        return lambda addresses, scale, queue: None

    ready: dict[tuple, _Ready] = {}

    def launch(addresses: tuple[int, ...], scale: float | None, queue: Queue) -> None:
        sign = factor = 1.0
        in_float64 = False
        if scale is not None:
            sign, factor = sign_and_factor(scale)
            in_float64 = needs_float64(factor)
        # Most arrays are aligned, and one test of all addresses together finds that sooner.
        alignments = reduce(or_, addresses) & 15 and tuple([address & 15 for address in addresses])
        kind = queue.ordinal, scale is not None, in_float64, alignments
        launches, nbytes = ready.get(kind) or ready.setdefault(kind, _made_ready(op, layout, *kind))
        if nbytes:
            with allocation.scratch(queue, nbytes) as workspace:
                for each in launches:
                    each.launch(queue, addresses, workspace, sign, factor)
            return
        for each in launches:
            each.launch(queue, addresses, 0, sign, factor)

    return launch


def _made_ready(
    op: Op, layout: Layout, ordinal: int, scaled: bool, in_float64: bool, alignments: tuple[int, ...] | Literal[0]
) -> _Ready:
    """The kernels on a device; `alignments` are those of the addresses, or 0 if all are aligned."""
    alignments = alignments or (0,) * len(layout.operands)
    plan = _planner().plan(op, layout, _machine(ordinal), scaled, in_float64, alignments)
    return _Ready(
        tuple(
            driver.LoadedKernel(
                _loaded(kernel, ordinal), blocks, kernel.threads, shared_memory, kernel.packing, plan.parameters
            )
            for kernel, blocks, shared_memory in plan.launches
        ),
        plan.workspace,
    )


def _machine(ordinal: int) -> Machine:
    device = driver.device(ordinal)
    return _planner().Machine(device.capability, device.shared_memory)


@built
def _planner() -> ModuleType:
    """The module `plan`, which needs numba-cuda."""
    from . import plan

    return plan


@built
def _loaded(kernel: Kernel, ordinal: int) -> Any:
    """A kernel, compiled and on its device."""
    from .kernels import assembled_kernel

    cubin, entry, _ = assembled_kernel(kernel, driver.device(ordinal).capability)
    return driver.load(ordinal, cubin, entry)


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Any]]:
    """Functions that compile, or load, one kernel each: those for aligned arrays in these formats."""
    ordinal = driver.current_ordinal()
    kernels = _planner().kernels_for(op, x, y, masked, scaled, _machine(ordinal))
    return [functools.partial(_loaded, kernel, ordinal) for kernel in kernels]
