"""The CUDA backend: which kernels serve which layout, and starting them.

Nothing here needs numba-cuda, a driver or a GPU before the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ...building import built
from ...call.layout import Layout
from ...ops import Op
from ..spec import needs_float64, sign_and_factor
from . import driver
from .driver import Queue

if TYPE_CHECKING:
    from .plan import Kernel, Machine

__all__ = ["starter", "warm"]


class _Ready(NamedTuple):
    """What serves calls with a layout on a device."""

    launches: tuple[driver.Launch, ...]
    temporary: int  # bytes of memory


def starter(op: Op, layout: Layout) -> Callable[..., None]:
    """A function that queues the work of calls with that layout, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.reduces):
        return lambda x, y, w, scale, queue, states=0: None

    ready: dict[tuple[int, bool, bool, int, int, int], _Ready] = {}

    def start(x: int, y: int, w: int, scale: float | None, queue: Queue, states: int = 0) -> None:
        sign = factor = 1.0
        wide = False
        if scale is not None:
            sign, factor = sign_and_factor(scale)
            wide = needs_float64(factor)
        kind = queue.ordinal, scale is not None, wide, x & 15, y & 15, w & 15
        launches, temporary = ready.get(kind) or ready.setdefault(kind, _made_ready(op, layout, *kind))
        if temporary:
            with driver.scratch(queue, temporary) as parts:
                for launch in launches:
                    launch.launch(queue, x, y, w, parts, sign, factor)
            return
        for launch in launches:
            launch.launch(queue, x, y, w, states, sign, factor)

    return start


def _made_ready(op: Op, layout: Layout, ordinal: int, scaled: bool, wide: bool, x: int, y: int, w: int) -> _Ready:
    launches, temporary, parameters = _planner().plan(op, layout, _machine(ordinal), scaled, wide, (x, y, w))
    return _Ready(
        tuple(
            driver.Launch(
                _loaded(launch.kernel, ordinal), launch.blocks, launch.kernel.threads, launch.shared_memory, parameters
            )
            for launch in launches
        ),
        temporary,
    )


def _machine(ordinal: int) -> Machine:
    device = driver.device(ordinal)
    return _planner().Machine(device.capability, device.shared_memory)


@built
def _planner() -> ModuleType:
    """The module that plans; it needs numba-cuda."""
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
