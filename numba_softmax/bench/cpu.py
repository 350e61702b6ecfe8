"""``numba-softmax bench``: calls on the CPU, beside a parallel copy of the same bytes, NumPy, SciPy and torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from .. import api
from ..call.arguments import as_output_dtype
from .cases import COPY, OURS, SHARE, Case, Data, by_torch, error_of_rows, masked_and_scaled, some_rows, two_places
from .optional import optional
from .progress import progress
from .reference import by_numpy
from .timing import FEWEST_ROUNDS, ROUNDS, ceiling, interleaved

AIM, AIM_INTEGERS = 1.3, 1.0
"""The most time that a call with `where` or `scale`, or on integers, may take: a multiple of the plain call's."""

PLAIN, OTHERS = "plain", ("torch", "scipy", "numpy")
"""Names of candidates: our call without `where` and `scale` and on floats, and other libraries."""

SQUARE, NARROW = (4096, 4096), (262144, 64)
CASES = [
    *(Case("softmax", shape) for shape in ((8, 8), (1024, 1024), SQUARE, (32768, 1024), (128, 32768))),
    *(Case("softmax", shape) for shape in (NARROW, (1000000, 10), (1, 16777216))),
    Case("softmax", SQUARE, axis=0),
    Case("softmax", (64, 1000, 256), axis=1),
    *(Case(op, shape) for op in ("log_softmax", "logsumexp") for shape in (SQUARE, NARROW)),
    *(Case("softmax", SQUARE, dtype) for dtype in ("float64", "float16", "bfloat16", "int32")),
    Case("softmax", SQUARE, masked=True),
    Case("softmax", SQUARE, scale=0.125),
]
QUICK = [Case("softmax", (8, 8)), Case("softmax", (64, 1024)), Case("softmax", (64, 1024), masked=True)]

# -------------------------------------------------------------------- candidates


def aim_of(case: Case) -> float | None:
    """The most time that a call may take, as a multiple of the plain call's; None if it is the plain call."""
    if case.integers:
        return AIM_INTEGERS
    return AIM if case.masked or case.scale is not None else None


def candidates(case: Case, data: Data) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The calls that are compared, by name. Ours and torch's write into the array of the result."""
    (x, y, mask), ours = data, getattr(api, case.op)
    yield OURS, lambda: ours(x, case.axis, where=mask, scale=case.scale, out=y)
    if aim_of(case) is not None:
        plain = x.astype(np.float64) if case.integers else x
        yield PLAIN, lambda: ours(plain, case.axis, out=y)
    yield COPY, _ceiling(case, data)
    yield "numpy", lambda: by_numpy(case.op, masked_and_scaled(case, x, mask), case.axis)
    if case.dtype != "bfloat16" and (special := optional("scipy.special")):
        theirs = getattr(special, case.op)
        yield "scipy", lambda: theirs(masked_and_scaled(case, x, mask), axis=case.axis)
    if torch := optional("torch"):
        torch.set_num_threads(numba.get_num_threads())
        tensors = Data(*(None if array is None else _tensor(torch, array) for array in data))
        yield "torch", by_torch(torch, case, tensors)


def _ceiling(case: Case, data: Data) -> Callable[[], Any]:
    """A copy of as many bytes as a call reads and writes; for a reduction, a read of its input."""
    x, y, mask = data
    if case.reduces:
        return ceiling(x, None)
    moved = (x.nbytes + y.nbytes + (0 if mask is None else mask.nbytes)) // 2
    source = x if moved == x.nbytes else np.full(moved // 8, 1, np.int64)
    return ceiling(source, np.full(moved // 8, 1, np.int64))


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """A tensor over the same memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# ------------------------------------------------------------------- measurements


def measured(quick: bool) -> list[dict[str, Any]]:
    """The records of all cases, or of a few small ones."""
    with progress("measuring", QUICK if quick else CASES) as bar:
        return [result for case in bar if (result := measured_case(case))]


def measured_case(case: Case) -> dict[str, Any] | None:
    """Median seconds and largest errors of all candidates; None if NumPy lacks the dtype."""
    data = _data(case)
    if data is None:
        return None
    calls, aim = dict(candidates(case, data)), aim_of(case)
    fewest = FEWEST_ROUNDS if aim is None else ROUNDS  # a ratio near 1 is worth more rounds
    times = interleaved(calls, foreign=OTHERS, slow=("numpy", "scipy"), fewest=fewest)
    ulp = {name: _error(case, data, calls[name]()) for name in times if name not in (COPY, PLAIN)}
    seconds = {name: statistics.median(samples) for name, samples in times.items()}
    return {
        "case": case.label,
        **case._asdict(),
        "seconds": seconds,
        "of_copy": {name: seconds[COPY] / value for name, value in seconds.items() if name != COPY},
        "times_faster_than": {name: value / seconds[OURS] for name, value in seconds.items() if name != OURS},
        "of_plain": None if aim is None else seconds[OURS] / seconds[PLAIN],
        "of_plain_aim": aim,
        "ulp": ulp,
        "rounds": {name: len(samples) for name, samples in times.items()},
    }


def _data(case: Case) -> Data | None:
    """Random input, and a result whose memory has been written to; None if NumPy lacks the dtype."""
    home = optional("ml_dtypes") if case.dtype == "bfloat16" else np
    if home is None:
        return None
    generator = np.random.default_rng(11)
    x = (generator.standard_normal(case.shape, np.float32) * 3).astype(getattr(home, case.dtype))
    mask = generator.random(case.shape, np.float32) < SHARE if case.masked else None
    return Data(x, np.ones(case.result_shape, as_output_dtype(None, x.dtype, None)), mask)


def _error(case: Case, data: Data, result: Any) -> float | None:
    """The largest error in some of the rows, in units in the last place."""
    result = result if isinstance(result, np.ndarray) else data.y
    x = data.x if data.mask is None else np.where(data.mask, data.x, data.x.dtype.type(-np.inf))
    rows = np.moveaxis(x, case.axis, -1)
    if not case.reduces:
        result = np.moveaxis(result, case.axis, -1)
    some = some_rows(rows.shape)
    return error_of_rows(case, rows[some], result[some])


# ------------------------------------------------------------------------- shown


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The table, a line a case, below its legend."""
    yield "us: median of our time; of copy: the time of a parallel copy of the same bytes (logsumexp: of reading them)"
    yield "over ours; x torch and so on: their time over ours; / plain: our time over that of the same call without"
    yield f"where and scale (aim: at most {AIM:g}), for integers over that of float64 (aim: at most {AIM_INTEGERS:g})"
    yield "ulp: the largest error, in units in the last place"
    yield ""
    heads = ["us", "of copy", *(f"x {name}" for name in OTHERS), "/ plain", "ulp", "ulp torch"]
    width = max(len(result["case"]) for result in results)
    yield " ".join([" " * width, *(f"{head:>9}" for head in heads)])
    for result in results:
        cells = [f"{result['seconds'][OURS] * 1e6:.1f}", two_places(result["of_copy"][OURS])]
        cells += [two_places(result["times_faster_than"].get(name)) for name in OTHERS]
        cells += [two_places(result["of_plain"]), *(two_places(result["ulp"].get(name)) for name in (OURS, "torch"))]
        yield " ".join([f"{result['case']:<{width}}", *(f"{cell:>9}" for cell in cells)])


def figure(results: list[dict[str, Any]]) -> Any:
    """Bars of the speed as a fraction of the copy's: ours, and torch's below."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 1.9 + 0.42 * len(results)), layout="constrained")
    axes = drawing.subplots()
    shown = [("torch", "torch", "#b9bec6", 0.19), (OURS, "numba_softmax", "#1f6fb2", -0.19)]
    for name, label, color, offset in shown:
        places = [i + offset for i, result in enumerate(results) if name in result["of_copy"]]
        if not places:
            continue
        speeds = [result["of_copy"][name] for result in results if name in result["of_copy"]]
        bars = axes.barh(places, speeds, height=0.36, color=color, label=label, zorder=2)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color="#444444")
    axes.axvline(1, color="#222222", linewidth=1, linestyle="--", zorder=3)
    axes.set_yticks(range(len(results)), [result["case"] for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("speed as a fraction of a parallel copy's (logsumexp: of a parallel read's); longer is faster")
    axes.set_title("Speed against the memory's", loc="left", fontsize=12)
    axes.margins(x=0.08, y=0.01)
    axes.grid(axis="x", color="#e6e6e6", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return drawing
