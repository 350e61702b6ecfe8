"""The lines and the figure of ``numba-softmax bench --device cuda``, made from its record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .cases import COPY, OURS, two_places
from .cuda import OTHERS

COLORS = {OURS: "#1f6fb2", "torch": "#e08a1e", "triton": "#2a9d6f", "cupy": "#8d6cab"}
LONGEST = 1 << 20
"""Elements of the longest rows in the figure."""


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The GPU, the table of cases, a line each, and the times of launches."""
    yield machine(results)
    yield f"arrays by {results['arrays']}; medians of {results['rounds']} rounds in turns, caches cold, by events"
    yield "GB/s: bytes of elements, results and mask over our time; of copy: the time of a copy within the GPU that"
    yield "reads and writes as many bytes, over ours; x torch and so on: their time over ours; spread: by what medians"
    yield "of our calls, timed twice, differ; ulp: our largest error in some rows, in units in the last place"
    yield ""
    heads = ["GB/s", "of copy", *(f"x {name}" for name in OTHERS), "spread", "ulp"]
    width = max((len(result["case"]) for result in results["cases"]), default=0)
    yield " ".join([" " * width, *(f"{head:>9}" for head in heads)])
    for result in results["cases"]:
        cells = [f"{result['gb_per_second'][OURS]:.1f}", two_places(result["of_copy"][OURS])]
        cells += [two_places(result["times_faster_than"].get(name)) for name in OTHERS]
        cells += [f"{result['spread']:.1%}", two_places(result["ulp"][OURS])]
        yield " ".join([f"{result['case']:<{width}}", *(f"{cell:>9}" for cell in cells)])
    yield ""
    launch = results["launch"]
    yield f"us from a call to its return, {launch['case']}, with out="
    for name, seconds in launch["seconds"].items():
        yield f"    {name:<26} {seconds * 1e6:9.2f}"
    yield "of ours"
    for name, seconds in launch["parts"].items():
        yield f"    {name:<26} {seconds * 1e6:9.2f}"


def machine(results: dict[str, Any]) -> str:
    """The GPU and the versions in one line."""
    gpu = results["gpu"]
    memory = gpu["memory_gb_per_second"]
    words = [gpu["name"], f"CUDA {gpu['cuda']}"]
    words += [f"driver {gpu['driver']}"] if gpu["driver"] else []
    words += [f"memory {memory:,.0f} GB/s by its clock"] if memory else []
    return "; ".join([*words, ", ".join(f"{name} {version}" for name, version in results["versions"].items())])


def figure(results: dict[str, Any]) -> Any:
    """Speed as a fraction of the copy's over the row length: a panel for each dtype, a line for each library."""
    from matplotlib.figure import Figure

    drawn = [result for result in results["cases"] if _is_drawn(result)]
    dtypes = list(dict.fromkeys(result["dtype"] for result in drawn))
    rows = max(1, (len(dtypes) + 1) // 2)
    drawing = Figure(figsize=(11, 1.2 + 3 * rows), layout="constrained")
    drawing.suptitle(f"softmax along the last axis, {results['gpu']['name']}", x=0.01, ha="left", fontsize=12)
    panels = list(drawing.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[len(dtypes) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes, dtype in zip(panels, dtypes, strict=False):
        _draw(axes, dtype, sorted((r for r in drawn if r["dtype"] == dtype), key=lambda r: r["shape"][-1]))
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    drawing.legend(handles.values(), handles, loc="outside right upper", frameon=False)
    return drawing


def _is_drawn(result: dict[str, Any]) -> bool:
    plain = not result["masked"] and result["scale"] is None
    return plain and result["op"] == "softmax" and result["axis"] == -1 and result["shape"][-1] <= LONGEST


def _draw(axes: Any, dtype: str, results: list[dict[str, Any]]) -> None:
    for name, color in COLORS.items():
        points = [(result["shape"][-1], result["of_copy"][name]) for result in results if name in result["of_copy"]]
        if points:
            style = {"color": color, "marker": "o", "markersize": 3.5, "linewidth": 1.5}
            axes.plot(*zip(*points, strict=True), label=name, zorder=4 if name == OURS else 3, **style)
    axes.axhline(1, color="#222222", linewidth=1, linestyle="--", label=COPY, zorder=2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1024 else f"{value / 1024:g} Ki")
    axes.set_ylim(bottom=0)
    axes.set_title(dtype, loc="left", fontsize=10)
    axes.set_xlabel("elements of a row")
    axes.set_ylabel("speed over the copy's")
    axes.label_outer()
    axes.grid(color="#e6e6e6", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
