"""``numba-softmax bench --device cuda``: calls on a GPU, compared with a copy of the same bytes and other libraries.

Arrays are much larger than the caches where the length of a row matters. The time
from a call to its return is measured apart, on an array of 64 elements.
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .. import api
from ..backends.cuda import driver
from ..backends.cuda.interop.streams import GpuCall
from ..call.layout import FLOATS
from ..call.plan import plan_launch
from ..ops import OPS
from . import cuda_arrays, cuda_clock
from .cases import COPY, OURS, SHARE, Case, Data, by_torch, error_of_rows, masked_and_scaled, some_rows
from .cuda_arrays import Maker
from .optional import UnmeasurableError, optional
from .progress import progress
from .reference import by_numpy

AGAIN, OTHERS = "numba_softmax again", ("torch", "triton", "cupy")
"""Names of candidates: our call once more, whose difference from the first is noise, and other libraries."""

ROUNDS = 21

MOST_BYTES = 1 << 30
"""The most bytes that the elements of a case take."""

PART_OF_MEMORY = 8
"""The elements of a case take at most an eighth of the free memory, and so do its results."""

POWERS = tuple(1 << k for k in range(6, 21))
LENGTHS = {"float32": (*POWERS, 50257), "float16": (*POWERS[::2], 50257)}
"""Elements of a row: 64 to a million, and a vocabulary whose rows begin at odd addresses."""

LONG_ROWS = ((1, 1 << 28), (8, 1 << 24))
OTHER_LENGTHS = (1024, 32768, 1 << 20)
"""Elements of a row for log_softmax and logsumexp."""

QUICK = [
    *(Case("softmax", (64, 1024), dtype) for dtype in FLOATS),
    Case("softmax", (1024, 64)),
    Case("softmax", (64, 1024), axis=0),
    Case("softmax", (64, 1024), masked=True),
    Case("logsumexp", (64, 1024)),
]
TINY = Case("softmax", (8, 8))
"""The case whose time from call to return is measured: it gives the GPU next to nothing to do."""

MOST_CHECKED = 1 << 24
"""Elements of the longest rows whose results are compared: the wider float takes several copies in host memory."""


class Setup(NamedTuple):
    """The library that makes the arrays, the stream in which work is queued, and its clock."""

    maker: Maker
    queue: driver.Queue
    clock: cuda_clock.Clock


class Candidate(NamedTuple):
    """A call that is compared with others."""

    call: Callable[[], Any]
    checked: Callable[[], Any]  # the same call, but its results go to the array of ours


def cases(limit: int) -> Iterator[Case]:
    """All cases, whose elements take at most `limit` bytes each."""

    def rows(op: str, n: int, dtype: str, **more: Any) -> Case:
        return Case(op, (max(1, limit // (n * _size(dtype))), n), dtype, **more)

    for dtype in FLOATS:
        for n in LENGTHS.get(dtype, POWERS[::2]):
            yield rows("softmax", n, dtype)
    for shape in LONG_ROWS:
        if math.prod(shape) * _size("float32") <= limit:
            yield Case("softmax", shape)
    for dtype in ("float32", "float16"):
        elements = limit // _size(dtype)
        yield Case("softmax", (math.isqrt(elements) // 64 * 64,) * 2, dtype, axis=0)
        yield Case("softmax", (elements >> 20, 1024, 1024), dtype, axis=1)
    for op in ("log_softmax", "logsumexp"):
        for n in OTHER_LENGTHS:
            yield rows(op, n, "float32")
    yield rows("softmax", 4096, "float32", masked=True)
    yield rows("softmax", 4096, "float32", scale=0.125)


def _size(dtype: str) -> int:
    """Bytes of an element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def measured(quick: bool) -> dict[str, Any]:
    """The GPU and the libraries, the time from a call to its return, and the records of the cases."""
    try:
        driver.count()  # raises an error that says what is missing
        return _measured(quick, cuda_arrays.maker())
    except driver.CudaError as error:
        raise UnmeasurableError(str(error)) from error


def _measured(quick: bool, maker: Maker) -> dict[str, Any]:
    queue = GpuCall(maker.empty((1,), "float32"), None).queue
    limit = min(MOST_BYTES, cuda_clock.free_memory(queue.ordinal) // PART_OF_MEMORY)
    results = []
    with cuda_clock.clock(queue) as clock:
        setup = Setup(maker, queue, clock)
        launch = _launch(setup)
        todo = QUICK if quick else list(cases(limit))
        with progress("measuring", todo) as bar:
            for case in bar:
                result = _measured_case(case, setup)
                results += [result] if result else []
                _tidy(maker)
    return {
        "gpu": cuda_clock.facts(queue.ordinal),
        "versions": _versions(),
        "arrays": maker.name,
        "rounds": ROUNDS,
        "launch": launch,
        "cases": results,
    }


def _tidy(maker: Maker) -> None:
    """Have the libraries free the memory that they keep from a case."""
    maker.tidy()
    cupy = sys.modules.get("cupy")
    if cupy is not None and maker.name != "cupy":
        cupy.get_default_memory_pool().free_all_blocks()


def _versions() -> dict[str, str]:
    """The versions of the libraries that are compared."""
    found = {name: module.__version__ for name in OTHERS if (module := optional(name))}
    for name in ("numba-cuda", "cuda-bindings"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# -------------------------------------------------------------------- candidates


def candidates(case: Case, data: Data, setup: Setup) -> dict[str, Candidate]:
    """The calls that are compared, by name. Ours is included twice: the difference is noise."""
    ours = partial(getattr(api, case.op), data.x, case.axis, where=data.mask, scale=case.scale, out=data.y)
    copy = _copy(case, data, setup)
    found = {OURS: Candidate(ours, ours), AGAIN: Candidate(ours, ours), COPY: Candidate(copy, copy)}
    for name in OTHERS:
        try:
            candidate = FOREIGN[name](case, data, setup.maker)
        except Exception as error:  # a dtype that it lacks, say
            _left_out(case, name, error)
        else:
            found |= {name: candidate} if candidate else {}
    return found


def _left_out(case: Case, what: str, error: Exception) -> None:
    said = next(iter(str(error).strip().splitlines()), "")[:200]
    tqdm.write(f"{case.label}: {what} is left out: {type(error).__name__}: {said}", file=sys.stderr)


def _copy(case: Case, data: Data, setup: Setup) -> Callable[[], Any]:
    """A copy within the device of as many bytes as a call reads and writes."""
    nbytes = moved(case) // 2
    if nbytes == math.prod(case.shape) * _size(case.dtype):
        source, to = data.x, data.y
    else:
        nbytes -= nbytes % 4
        source, to = (setup.maker.normal((nbytes // 4,), "float32") for _ in range(2))
    return cuda_clock.copy(setup.queue, GpuCall(to, None).x, GpuCall(source, None).x, nbytes)


def moved(case: Case) -> int:
    """The least bytes that a call must read and write."""
    elements = math.prod(case.shape)
    return (elements + math.prod(case.result_shape)) * _size(case.dtype) + (elements if case.masked else 0)


def _by_torch(case: Case, data: Data, maker: Maker) -> Candidate | None:
    torch = optional("torch") if maker.name == "torch" else None
    if torch is None:
        return None
    call = by_torch(torch, case, data)
    return Candidate(call, call)


def _by_triton(case: Case, data: Data, maker: Maker) -> Candidate | None:
    """The kernel of `triton_softmax`, for tensors whose rows fit into registers."""
    plain = case.op == "softmax" and case.axis == -1 and not case.masked and case.scale is None
    module = optional(f"{__package__}.triton_softmax") if plain and maker.name == "torch" else None
    if module is None or case.shape[-1] > module.MOST:
        return None
    call = partial(module.softmax, data.x, data.y)
    return Candidate(call, call)


def _by_cupy(case: Case, data: Data, maker: Maker) -> Candidate | None:
    """CuPy's function, or the formula if it has none; on the memory of PyTorch's tensors if the arrays are tensors."""
    cupy = optional("cupy") if maker.name in ("cupy", "torch") else None
    if cupy is None:
        return None
    if maker.name == "torch":
        data = Data(*(None if array is None else cupy.from_dlpack(array) for array in data))
    function = getattr(optional("cupyx.scipy.special"), case.op, None) or partial(by_numpy, case.op)

    def call() -> Any:
        return function(masked_and_scaled(case, data.x, data.mask), axis=case.axis)

    return Candidate(call, lambda: data.y.__setitem__(..., call()))


FOREIGN = {"torch": _by_torch, "triton": _by_triton, "cupy": _by_cupy}


# ------------------------------------------------------------------- measurements


def _data(case: Case, maker: Maker) -> Data:
    x = maker.normal(case.shape, case.dtype)
    mask = maker.mask(case.shape, SHARE) if case.masked else None
    return Data(x, maker.empty(case.result_shape, case.dtype), mask)


def _measured_case(case: Case, setup: Setup) -> dict[str, Any] | None:
    """The record of a case; None if its arrays cannot be made."""
    try:
        data = _data(case, setup.maker)
    except Exception as error:  # a dtype that the library lacks, or too little memory
        _left_out(case, "the case", error)
        return None
    found = candidates(case, data, setup)
    calls = {name: candidate.call for name, candidate in found.items()}
    times = setup.clock.interleaved(calls, ROUNDS, OTHERS, partial(_left_out, case))
    ulp: dict[str, float | None] = {}
    for name, worst in _errors(case, data, setup.maker, {name: found[name] for name in times}):
        if worst is not None and math.isnan(worst):
            wrong = ArithmeticError("it gives NaN, or leaves out results")
            if name not in OTHERS:
                raise UnmeasurableError(f"{case.label}: {name}: {wrong}")
            _left_out(case, name, wrong)
            del times[name]
        else:
            ulp[name] = worst
    return _record(case, times, ulp)


def _errors(case: Case, data: Data, maker: Maker, found: dict[str, Candidate]) -> Iterator[tuple[str, float | None]]:
    """The largest error of each candidate in some rows, in units in the last place."""
    axis = case.axis % len(case.shape)
    index = some_rows(case.rows_shape)
    compared = case.shape[axis] <= MOST_CHECKED
    if compared:
        rows = maker.rows(data.x, axis, index)
        if data.mask is not None:
            rows = np.where(maker.rows(data.mask, axis, index), rows, rows.dtype.type(-np.inf))
    for name, candidate in found.items():
        if name in (AGAIN, COPY):
            continue
        if not compared:
            yield name, None
            continue
        maker.spoil(data.y)
        candidate.checked()
        got = maker.values(data.y, index) if case.reduces else maker.rows(data.y, axis, index)
        yield name, error_of_rows(case, rows, got)


def _record(case: Case, times: dict[str, list[float]], ulp: dict[str, float | None]) -> dict[str, Any]:
    median = {name: statistics.median(samples) for name, samples in times.items()}
    quartiles = {name: statistics.quantiles(samples, n=4) for name, samples in times.items()}
    nbytes = moved(case)
    return {
        "case": case.label,
        **case._asdict(),
        "bytes": nbytes,
        "seconds": {
            name: {"median": median[name], "minimum": min(samples), "quartiles": quartiles[name][::2]}
            for name, samples in times.items()
        },
        "gb_per_second": {name: nbytes / value / 1e9 for name, value in median.items()},
        "of_copy": {name: median[COPY] / value for name, value in median.items() if name != COPY},
        "times_faster_than": {name: value / median[OURS] for name, value in median.items() if name != OURS},
        "spread": abs(median[AGAIN] / median[OURS] - 1),
        "ulp": ulp,
    }


# ------------------------------------------------------------------------- launch


def _launch(setup: Setup) -> dict[str, Any]:
    """Seconds from a call to its return of all candidates, and the parts of ours."""
    data, whole = _data(TINY, setup.maker), {}
    for name, candidate in candidates(TINY, data, setup).items():
        if name in (AGAIN, COPY):
            continue
        try:
            setup.clock.warmed(candidate.call)
            whole[name] = setup.clock.queueing(candidate.call)
        except Exception as error:
            if name not in OTHERS:
                raise
            _left_out(TINY, name, error)
    backend, launching = setup.clock.queueing(_launch_of_ours(data, setup.queue)), setup.clock.launching()
    parts = {
        "lookup and checks": whole[OURS] - backend,
        "the kernel's arguments": backend - launching,
        "the driver's launch": launching,
    }
    return {"case": TINY.label, "seconds": whole, "parts": parts}


def _launch_of_ours(data: Data, queue: driver.Queue) -> Callable[[], Any]:
    """Our call without its checks and its look-up of the plan: the backend's launch alone."""
    x, y = (GpuCall(array, None).x for array in (data.x, data.y))
    plan = plan_launch(OPS[TINY.op], "cuda", (1,), False, x[1:4], y[1:4])
    return partial(plan.launch, (x.address, y.address), None, queue)
