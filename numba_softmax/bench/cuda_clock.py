"""Times of a GPU's work: events around each call, whose arrays are not in the caches.

All calls of the driver by the benchmarks are here.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..backends.cuda import allocation, driver
from ..backends.cuda.driver import Queue
from ..backends.cuda.interop.libraries import View
from .timing import in_turns, timed

_ask = driver.ask  # its errors are those of the rest of the package

WARM_CALLS = 3

FLUSHED = 2
"""Bytes that are overwritten before a call, as a multiple of the size of the L2 cache.

Some of them are written back to memory during the call, whichever candidate it is of: that hides small differences
between small cases.
"""

LEAD, MOST_FLUSHES = 2.0, 32
"""The GPU flushes its cache for twice as long as the host takes to queue a call, but at most 32 times."""

QUEUED_AT_ONCE, QUEUED_BLOCKS = 100, 31
"""Calls that are timed together, few enough for the driver's queue never to fill up; and the repeats of that."""

NOTHING = """.version 6.3
.target sm_75
.address_size 64
.visible .entry nothing() { ret; }
"""
"""A kernel that does nothing."""

_VERSION_FILE = Path("/proc/driver/nvidia/version")


class Clock:
    """Times calls whose work is queued in one stream."""

    def __init__(self, queue: Queue, memory: int, nbytes: int, start: Any, end: Any) -> None:
        self._queue, self._memory, self._nbytes, self._events = queue, memory, nbytes, (start, end)
        self._flush_seconds = statistics.median(self._elapsed(self._flush, 1) for _ in range(5))

    def _flush(self) -> None:
        _ask("overwriting the cache", "cuMemsetD8Async", self._memory, 0x5A, self._nbytes, self._queue.stream)

    def _elapsed(self, call: Callable[[], Any], flushes: int) -> float:
        """Seconds from the end of the flushes to the end of the work that a call queues."""
        ordinal, stream = self._queue
        start, end = self._events
        doing = f"timing a call on GPU {ordinal}"
        with driver.current(ordinal):
            for _ in range(flushes):
                self._flush()
            _ask(doing, "cuEventRecord", start, stream)
            call()
            _ask(doing, "cuEventRecord", end, stream)
            _ask(doing, "cuEventSynchronize", end)
            return _ask(doing, "cuEventElapsedTime", start, end) * 1e-3

    def warmed(self, call: Callable[[], Any]) -> int:
        """Compile or load a call, and return the number of flushes that should precede it.

        The GPU works on these until the call has been queued, so the time that the
        host takes to queue it is not measured.
        """
        queued = []
        for _ in range(WARM_CALLS):
            start = time.perf_counter()
            call()
            queued.append(time.perf_counter() - start)
            driver.synchronize(self._queue)
        return min(MOST_FLUSHES, 1 + math.ceil(LEAD * min(queued) / max(self._flush_seconds, 1e-6)))

    def interleaved(
        self,
        calls: Mapping[str, Callable[[], Any]],
        rounds: int,
        foreign: Iterable[str],
        left_out: Callable[[str, Exception], None],
    ) -> dict[str, list[float]]:
        """Seconds of each candidate's calls, in rounds with a random order each.

        Parameters
        ----------
        calls : mapping of str to function
            The candidates.
        rounds : int
            The number of rounds.
        foreign : iterable of str
            The candidates that are left out if they fail.
        left_out : function
            Called with the name and the error of one that failed.

        Returns
        -------
        dict of str to list of float
            The candidates that did not fail.
        """
        flushes: dict[str, int] = {}
        for name, call in calls.items():
            try:
                flushes[name] = self.warmed(call)
            except Exception as error:
                if name not in foreign:
                    raise
                left_out(name, error)
        times: dict[str, list[float]] = {name: [] for name in flushes}
        for name in in_turns(flushes, rounds):
            times[name].append(self._elapsed(calls[name], flushes[name]))
        return times

    def queueing(self, call: Callable[[], Any]) -> float:
        """Median seconds from a call to its return; the call gives the GPU next to nothing to do."""
        samples = []
        with driver.current(self._queue.ordinal):  # as in a program that works with one GPU
            for _ in range(QUEUED_BLOCKS):
                driver.synchronize(self._queue)
                samples.append(timed(call, QUEUED_AT_ONCE))
            driver.synchronize(self._queue)
        return statistics.median(samples)

    def launching(self) -> float:
        """Median seconds that the driver takes to queue a kernel without parameters: the least that a launch costs."""
        ordinal, stream = self._queue
        kernel = driver.load(ordinal, driver.assemble(NOTHING, driver.device(ordinal).capability)[0], "nothing")
        launch = driver._cuda.cuLaunchKernel
        return self.queueing(lambda: launch(kernel, 1, 1, 1, 32, 1, 1, 0, stream, 0, 0))


@contextmanager
def clock(queue: Queue) -> Iterator[Clock]:
    """A clock for one stream."""
    nbytes = FLUSHED * driver.device(queue.ordinal).l2
    with ExitStack() as stack:
        start, end = (stack.enter_context(_event(queue.ordinal)) for _ in range(2))
        yield Clock(queue, stack.enter_context(allocation.scratch(queue, nbytes)), nbytes, start, end)


@contextmanager
def _event(ordinal: int) -> Iterator[Any]:
    with driver.current(ordinal):
        event = _ask(f"creating an event on GPU {ordinal}", "cuEventCreate", 0)
    try:
        yield event
    finally:
        with driver.current(ordinal):
            driver.tell("cuEventDestroy", event)


def copy(queue: Queue, to: View, source: View, nbytes: int) -> Callable[[], Any]:
    """A copy within the device: the speed that memory allows."""
    return lambda: allocation.copy_on_device(queue, to.address, source.address, nbytes)


def free_memory(ordinal: int) -> int:
    """Free bytes of the device's memory."""
    with driver.current(ordinal):
        return _ask(f"asking for the free memory of GPU {ordinal}", "cuMemGetInfo")


def facts(ordinal: int) -> dict[str, Any]:
    """Facts of the GPU and its driver, in a form that JSON can hold; None for those that the driver does not report."""
    device = driver.device(ordinal)
    memory_khz, bus_bits = (_fact(ordinal, name) for name in ("MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH"))
    clock_khz = _fact(ordinal, "CLOCK_RATE")
    return {
        "name": device.name,
        "capability": list(device.capability),
        "processors": device.processors,
        "clock_mhz": clock_khz and clock_khz / 1e3,
        "l2_bytes": device.l2,
        "memory_bytes": device.memory,
        "memory_clock_mhz": memory_khz and memory_khz / 1e3,
        "memory_bus_bits": bus_bits,
        # Two transfers a cycle: the driver reports the clock of every kind of memory such that this holds.
        "memory_gb_per_second": memory_khz and bus_bits and 2 * memory_khz * 1e3 * bus_bits / 8 / 1e9,
        "driver": _driver_release(),
        "cuda": ".".join(map(str, driver.version())),
    }


def _fact(ordinal: int, name: str) -> int | None:
    try:
        attribute = getattr(driver._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        handle = _ask("asking for a GPU", "cuDeviceGet", ordinal)
        return int(_ask(f"asking for its {name}", "cuDeviceGetAttribute", attribute, handle)) or None
    except (AttributeError, driver.CudaError):  # a fact that this driver does not know yet, or no longer
        return None


def _driver_release() -> str | None:
    """The release of the kernel module, which the driver's interface does not report."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _VERSION_FILE.read_text())
    except OSError:
        return None
    return found and found[0]
