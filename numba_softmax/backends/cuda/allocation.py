"""Memory on a GPU and pinned memory of the host, and copies between them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import driver
from .driver import Queue

_PORTABLE = 1

KEPT_BYTES = 1 << 25
"""Bytes of unused memory that a pool keeps: more than the states of most calls need, and little of a GPU's memory."""


@functools.cache
def _pool(ordinal: int) -> Any:
    """A pool of memory on a device, kept for good.

    The device has one already, but that one releases all of its unused memory
    whenever the host waits for the GPU, and allocating it again takes longer than
    most kernels. Changing that would change it for all libraries.
    """
    doing = f"making a pool of memory on GPU {ordinal}"
    wanted = driver._cuda.CUmemPoolProps()
    wanted.allocType = driver._cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    wanted.location.type = driver._cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    wanted.location.id = ordinal
    pool = driver.ask(doing, "cuMemPoolCreate", wanted)
    kept = driver._cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    driver.ask(doing, "cuMemPoolSetAttribute", pool, kept, driver._cuda.cuuint64_t(KEPT_BYTES))
    return pool


@contextmanager
def scratch(queue: Queue, nbytes: int) -> Iterator[int]:
    """Memory on the device for the work queued meanwhile, allocated and freed in the order of the stream."""
    ordinal, stream = queue
    doing, pools = f"allocating {nbytes} bytes on GPU {ordinal}", driver.device(ordinal).has_pools
    with driver.current(ordinal):
        if pools:
            address = int(driver.ask(doing, "cuMemAllocFromPoolAsync", nbytes, _pool(ordinal), stream))
        else:
            address = int(driver.ask(doing, "cuMemAlloc", nbytes))
    try:
        yield address
    finally:
        with driver.current(ordinal):
            if pools:
                driver.tell("cuMemFreeAsync", address, stream)
            else:
                driver.drain(queue)
                driver.tell("cuMemFree", address)


@contextmanager
def pinned(ordinal: int, nbytes: int) -> Iterator[int]:
    """Pinned memory of the host, which the device copies from and to by itself. All copies must be done at the end."""
    with driver.current(ordinal):
        address = int(driver.ask(f"pinning {nbytes} bytes of host memory", "cuMemHostAlloc", nbytes, _PORTABLE))
    try:
        yield address
    finally:
        with driver.current(ordinal):
            driver.tell("cuMemFreeHost", address)


def copy_to_device(queue: Queue, to: int, pinned_address: int, nbytes: int) -> None:
    """Queue a copy from pinned memory."""
    _copy("cuMemcpyHtoDAsync", queue, to, pinned_address, nbytes)


def copy_to_host(queue: Queue, to: int, address: int, nbytes: int) -> None:
    """Queue a copy to pinned memory."""
    _copy("cuMemcpyDtoHAsync", queue, to, address, nbytes)


def copy_on_device(queue: Queue, to: int, address: int, nbytes: int) -> None:
    """Queue a copy within the device."""
    _copy("cuMemcpyDtoDAsync", queue, to, address, nbytes)


def _copy(function: str, queue: Queue, to: int, address: int, nbytes: int) -> None:
    with driver.current(queue.ordinal):
        driver.ask(f"copying {nbytes} bytes, GPU {queue.ordinal}", function, to, address, nbytes, queue.stream)
