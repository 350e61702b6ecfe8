"""A call on arrays that lie on a GPU: its stream, and the order of its work with that of other streams."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from ....call.memory import ADDRESS, extent
from .. import allocation, driver
from ..driver import Queue
from .libraries import View, library_of


class GpuCall:
    """The `Adapter` for an array `x` on a GPU.

    The work is queued in the stream that was passed, else in the one in which the
    library of `x` uses it. That stream waits for the streams of all arrays, and
    they wait for it, except that nothing waits for a stream that was passed: the
    user has to.
    """

    def __init__(self, x: Any, stream: Any, name: str = "x") -> None:
        self._library, self._name = library_of(x), name
        self._asked = None if stream is None else handle_of(stream)
        self.x = self._library.view(x, name, self._asked)
        self.queue = Queue(self.x.ordinal, _same(self.x.stream if self._asked is None else self._asked))
        driver.device(self.x.ordinal)
        if self._asked is not None:
            driver.check_stream(self.queue)

    backend_name = "cuda"

    @property
    def device(self) -> str:
        """The device of `x`."""
        return f"GPU {self.queue.ordinal}"

    def view(self, array: Any, name: str) -> View:
        """Another argument, on the same device."""
        view = library_of(array).view(array, name, self.queue.stream)
        if view.ordinal != self.queue.ordinal and 0 not in view.shape:
            raise ValueError(f"{name} lies on GPU {view.ordinal}, but {self._name} on {self.device}: move one of them")
        return view

    def out(self, array: Any) -> View:
        """An array for results."""
        return self.view(array, "out")

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, View]:
        """A new array of the library, in C order."""
        return self._new(self._library.empty(self.x, shape, dtype, self._apart))

    def empty_like(self, dtype: np.dtype) -> tuple[Any, View]:
        """A new array of the library, of the shape of `x`."""
        return self._new(self._library.empty_like(self.x, dtype, self._apart))

    @property
    def _apart(self) -> int | None:
        """The stream that was passed, if it is not the one in which the library of `x` uses it."""
        return None if self._asked is None or self.queue.stream == _same(self.x.stream) else self.queue.stream

    def _new(self, array: Any) -> tuple[Any, View]:
        # Arrays of some libraries count as immutable. This one is new, so nothing else uses it.
        return array, self.view(array, "the result")._replace(writeable=True)

    def run(self, launch: Callable, views: Sequence[View], scale: float | None, copies: Collection[int] = ()) -> None:
        """Queue the work on the operands at these views, or at copies of them."""
        stream = self.x.stream
        if self._asked is None and stream is not None and not copies:
            for view in views:
                if view.stream != stream:
                    break
            else:
                launch(tuple(map(ADDRESS, views)), scale, self.queue)
                return
        self._run_in_order(launch, views, scale, copies)

    def _run_in_order(
        self, launch: Callable, views: Sequence[View], scale: float | None, copies: Collection[int]
    ) -> None:
        """Queue the same work when other streams, or copies, take part."""
        queue, (ordinal, stream) = self.queue, self.queue
        others = {_same(view.stream) for view in views if view.stream is not None} - {stream}
        for other in others:
            driver.wait(queue, other)
        with ExitStack() as stack:
            addresses = [
                stack.enter_context(_copied(queue, view)) if i in copies else view.address
                for i, view in enumerate(views)
            ]
            launch(tuple(addresses), scale, queue)
        if self._asked is not None:
            for view in views:
                if _same(view.stream) != stream:
                    library_of(view.array).used_in(view, stream)
            return
        for other in others:
            driver.wait(Queue(ordinal, other), stream)
        if any(view.stream is None for view in views):
            driver.synchronize(queue)

    def as_user_array(self, array: Any) -> Any:
        """An array of the library, never a scalar."""
        return array


@contextmanager
def _copied(queue: Queue, view: View) -> Iterator[int]:
    """The address of the first element in a copy of all the memory from an array's first byte to its last."""
    first, end = extent(view.shape, view.strides, view.dtype.itemsize)
    with allocation.scratch(queue, end - first) as copy:
        allocation.copy_on_device(queue, copy, view.address + first, end - first)
        yield copy - first


def _same(stream: int | None) -> int:
    """The handle used here for a stream: 1 for the default stream, for which libraries have 0 or None.

    To the bindings 0 may be another stream.
    """
    return stream or driver.LEGACY_STREAM


def handle_of(stream: Any) -> int:
    """The handle of a stream of any library.

    An int is a handle. CuPy has it as `ptr`, PyTorch as `cuda_stream`, Numba as
    `handle`, and others by the protocol ``__cuda_stream__``.
    """
    handle = stream
    if hasattr(stream, "__cuda_stream__"):
        handle = stream.__cuda_stream__
        handle = (handle() if callable(handle) else handle)[1]
    else:
        for name in ("ptr", "cuda_stream", "handle"):
            handle = getattr(stream, name, handle)
    value = getattr(handle, "value", handle)  # of a ctypes pointer, which is None for 0
    try:
        handle = 0 if value is None and handle is not None else int(value)
    except (TypeError, ValueError):
        handle = -1
    if isinstance(stream, (bool, float, str)) or handle < 0:
        raise TypeError(f"stream is {stream!r}: it must be a stream of a GPU library or its handle, an int")
    return handle
