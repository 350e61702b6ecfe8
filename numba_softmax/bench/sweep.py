"""``numba-softmax bench --sweep``: softmax over many row lengths and inner axes, to find where speed drops.

All arrays of a sweep have about the same number of elements and lie in the same
memory, so that speeds can be compared along a curve. A point that is much slower
than its neighbours is a cliff: a length that a kernel handles badly. Other
processes on the machine make cliffs too, but not in a point's fastest round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import api
from .progress import progress
from .timing import ceiling, shuffled

ELEMENTS = 1 << 22
"""Elements of each array, which has at least one row."""

ROUNDS = 11

LENGTHS = (
    *range(1, 18), 20, 23, 24, 29, 31, 32, 33, 37, 45, 53, 63, 64, 65, 77, 89, 100, 101, 115, 127, 128, 129, 151, 181,
    211, 255, 256, 257, 301, 367, 431, 511, 512, 513, 757, 1000, 1023, 1024, 1025, 1511, 2047, 2048, 2049, 3001, 4095,
    4096, 4097, 6007, 8191, 8192, 8193, 10000, 12289, 16383, 16384, 16385, 23001, 32767, 32768, 32769, 50021, 65535,
    65536, 65537, 100000,
)  # fmt: skip
"""Row lengths: all short ones, powers of two and their neighbours, primes and other odd ones, round ones."""

INNERS = (
    *range(1, 11), 12, 15, 16, 17, 20, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 500,
    1000,
)  # fmt: skip
"""Sizes of the last axis, which is the number of rows side by side: softmax is along the axis before it."""

INNER_LENGTHS = (100, 3)
"""The row lengths of the curves over `INNERS`."""

CLIFF, NEIGHBOURS = 0.5, 2
"""A cliff is slower than half the median speed of its neighbours, two on each side."""

ALIGNMENT = 64
ITEM = np.dtype(np.float32).itemsize


RATIOS = ("of_neighbours", "of_neighbours_fastest")
"""Keys of a point's speed over its neighbours', by the medians and by the fastest rounds."""


class Curve(NamedTuple):
    """Points that differ in one size."""

    name: str
    varies: str  # "n" or "inner"
    axis: int
    offset: int  # bytes from an aligned address, of the input and of the result
    shapes: tuple[tuple[int, ...], ...]


def curves() -> Iterator[Curve]:
    """The curves of a sweep."""
    rows = tuple((math.ceil(ELEMENTS / n), n) for n in LENGTHS)
    yield Curve("aligned", "n", -1, 0, rows)
    yield Curve("unaligned", "n", -1, ITEM, rows)
    for n in INNER_LENGTHS:
        shapes = tuple((math.ceil(ELEMENTS / (n * inner)), n, inner) for inner in INNERS)
        yield Curve(f"n = {n}", "inner", -2, 0, shapes)


# ------------------------------------------------------------------- measurements


def measured() -> dict[str, Any]:
    """The points of all curves, with their times and speeds, and the cliffs."""
    swept = list(curves())
    most = max(math.prod(shape) for curve in swept for shape in curve.shapes)
    x, y = _aligned(most + 1), _aligned(most + 1)  # one more, for the unaligned curve
    x[:], y[:] = np.random.default_rng(14).standard_normal(most + 1, np.float32) * 3, 1
    calls: dict[Any, Callable[[], Any]] = {}
    for i, curve in enumerate(swept):
        for j, shape in enumerate(curve.shapes):
            part = slice(curve.offset // ITEM, curve.offset // ITEM + math.prod(shape))
            calls[i, j] = partial(api.softmax, x[part].reshape(shape), curve.axis, out=y[part].reshape(shape))
    calls["copy"] = ceiling(x[:ELEMENTS], y[:ELEMENTS])  # the same memory, hence the same caches
    with progress("sweeping", total=len(calls) * (ROUNDS + 1)) as bar:
        times = shuffled(calls, ROUNDS, bar)
    copy = _speed(statistics.median(times["copy"]), ELEMENTS)
    made: list[dict[str, Any]] = [
        {
            **{key: value for key, value in curve._asdict().items() if key != "shapes"},  # the points have it
            "points": _points(curve, [times[i, j] for j in range(len(curve.shapes))], copy),
        }
        for i, curve in enumerate(swept)
    ]
    return {
        "op": "softmax",
        "dtype": "float32",
        "elements": ELEMENTS,
        "rounds": ROUNDS,
        "cliff_below": CLIFF,
        "copy": copy,
        "curves": made,
        "cliffs": [
            {"curve": made_curve["name"], **{key: point[key] for key in ("n", "inner", *RATIOS)}}
            for made_curve in made
            for point in made_curve["points"]
            if point["cliff"]
        ],
    }


def _aligned(elements: int) -> np.ndarray:
    """Memory that begins at an aligned address."""
    memory = np.empty(elements * ITEM + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + elements * ITEM].view(np.float32)


def _speed(seconds: float, elements: int) -> dict[str, float]:
    each = seconds / elements
    return {"seconds": seconds, "ns_per_element": each * 1e9, "gb_per_second": 2 * ITEM / each / 1e9}


def _points(curve: Curve, times: Sequence[list[float]], copy: dict[str, float]) -> list[dict[str, Any]]:
    sizes = [math.prod(shape) for shape in curve.shapes]
    speeds = [_speed(statistics.median(samples), size) for samples, size in zip(times, sizes, strict=True)]
    rates = [speed["gb_per_second"] for speed in speeds]
    found, ratios = cliffs(rates), of_neighbours(rates)
    at_best = of_neighbours([size / min(samples) for samples, size in zip(times, sizes, strict=True)])
    return [
        {
            "n": shape[curve.axis],
            "inner": math.prod(shape[curve.axis :]) // shape[curve.axis],
            "shape": shape,
            **speeds[i],
            "of_copy": rates[i] / copy["gb_per_second"],
            "seconds_fastest": min(times[i]),
            "of_neighbours": ratios[i],
            "of_neighbours_fastest": at_best[i],
            "cliff": i in found,
        }
        for i, shape in enumerate(curve.shapes)
    ]


def of_neighbours(speeds: Sequence[float]) -> list[float]:
    """Each speed over the median of its neighbours', up to two on each side; 1 without neighbours."""
    ratios = []
    for i, speed in enumerate(speeds):
        others = [*speeds[max(0, i - NEIGHBOURS) : i], *speeds[i + 1 : i + 1 + NEIGHBOURS]]
        ratios.append(speed / statistics.median(others) if others else 1.0)
    return ratios


def cliffs(speeds: Sequence[float]) -> list[int]:
    """The indices of the cliffs."""
    return [i for i, ratio in enumerate(of_neighbours(speeds)) if ratio < CLIFF]


# ------------------------------------------------------------------------- shown


def lines(results: dict[str, Any]) -> Iterator[str]:
    """A table over row lengths, one over inner axes, and the cliffs."""
    copy = results["copy"]
    yield f"softmax, {results['dtype']}, arrays of about {results['elements']:,} elements, with out="
    yield f"a parallel copy: {copy['ns_per_element']:.3f} ns an element, {copy['gb_per_second']:.1f} GB/s, both ways"
    yield f"ns: nanoseconds an element, median of {results['rounds']} rounds; of copy: speed over the copy's"
    yield f"/ near: speed over the median of two nearest points' on each side, * if below {results['cliff_below']:g}"
    groups = (
        ("n", "rows of n elements; unaligned: input and result begin 4 bytes beyond an aligned address"),
        ("inner", "rows of n elements with inner of them side by side: shape (outer, n, inner), axis -2"),
    )
    for varies, title in groups:
        group = [curve for curve in results["curves"] if curve["varies"] == varies]
        yield from ("", title, "")
        yield " ".join([" " * 7, *(f"{curve['name']:>26}" for curve in group)])
        yield " ".join([f"{varies:>7}", *(f"{'ns':>9} {'of copy':>7} {'/ near':>7} " for _ in group)]).rstrip()
        for points in zip(*(curve["points"] for curve in group), strict=True):
            cells = (f"{p['ns_per_element']:9.3f} {p['of_copy']:7.2f} {p['of_neighbours']:7.2f}" for p in points)
            marked = (cell + ("*" if p["cliff"] else " ") for cell, p in zip(cells, points, strict=True))
            yield " ".join([f"{points[0][varies]:>7}", *marked]).rstrip()
    found, below = results["cliffs"], results["cliff_below"]
    yield ""
    yield f"cliffs, below {below:g} of the neighbours' speed: {len(found) or 'none'}"
    for cliff in found:
        median, fastest = (cliff[ratio] for ratio in RATIOS)
        remark = "" if fastest < below else "  (noise of this machine?)"
        yield f"    {_where(cliff):<26} {median:.2f}, in the fastest rounds {fastest:.2f}{remark}"


def _where(cliff: dict[str, Any]) -> str:
    if cliff["curve"] in ("aligned", "unaligned"):
        return f"n = {cliff['n']}, {cliff['curve']}"
    return f"n = {cliff['n']}, inner = {cliff['inner']}"


def figure(results: dict[str, Any]) -> Any:
    """Speed over the row length, and over the rows side by side; all scales are logarithmic."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(12, 5.4), layout="constrained")
    text = f"softmax, {results['dtype']}, about {results['elements'] / 1e6:.1f} million elements"
    text += f" (circles: below {results['cliff_below']:g} of the neighbours' speed)"
    drawing.suptitle(text, x=0.01, ha="left", fontsize=12)
    panels = drawing.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    labels = {"n": "n: elements of a row", "inner": "inner: rows side by side"}
    titles = {"n": "along the last axis, shape (rows, n)", "inner": "along axis -2, shape (outer, n, inner)"}
    colors = {"n": ("#1f6fb2", "#e08a1e"), "inner": ("#1f6fb2", "#2a9d6f")}
    copy = results["copy"]["gb_per_second"]
    for axes, varies in zip(panels, labels, strict=True):
        group = [curve for curve in results["curves"] if curve["varies"] == varies]
        for curve, color in zip(group, colors[varies], strict=False):
            places = [point[varies] for point in curve["points"]]
            speeds = [point["gb_per_second"] for point in curve["points"]]
            style = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1.4}
            axes.plot(places, speeds, label=curve["name"], zorder=3, **style)
            low = [(point[varies], point["gb_per_second"]) for point in curve["points"] if point["cliff"]]
            ring = {"linestyle": "", "marker": "o", "markersize": 10, "fillstyle": "none", "color": "#c8322b"}
            if low:
                axes.plot(*zip(*low, strict=True), zorder=4, **ring)
        axes.axhline(copy, color="#222222", linewidth=1, linestyle="--", zorder=2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(labels[varies])
        axes.set_title(titles[varies], loc="left", fontsize=10)
        axes.grid(color="#e6e6e6", zorder=0)
        axes.grid(which="minor", color="#f4f4f4", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
    panels[0].annotate("parallel copy", (1, copy), (0, 4), textcoords="offset points", fontsize=9, color="#222222")
    panels[0].set_ylabel("GB/s, read and written")
    return drawing
