"""Plots and tables of what asv has recorded: the page on speed in the documentation has them."""

import math
import statistics

import records
from matplotlib.figure import Figure
from records import BANDWIDTH, ERRORS, OF_COPY, PEERS, noise_of

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
COLORS = {"float64": "#222222", "float32": "#1f6fb2", "float16": "#e08a1e", "bfloat16": "#2a9d6f"}
MARKERS = "osD^vP*Xd"
CACHED = "in cache"
"""In the names of cases that do not reach the memory."""


def roofline(record):
    """Softmax: elements a second against elements a byte that is moved, under what copying allows.

    All numbers are of one process: a case's speed is its share of the copy that was timed next to it.
    """
    shares, bandwidths = record.values(OF_COPY), record.values(BANDWIDTH)
    cases = list(dict.fromkeys(case for _, case, _ in shares))
    drawing = Figure(figsize=(9, 5.2), layout="constrained")
    axes = drawing.subplots()
    for (of, case, dtype), share in shares.items():
        if of == "softmax":
            moved = 2 * BYTES[dtype]
            i = cases.index(case)
            beside = 1.03 ** (i - len(cases) // 2)  # points of one dtype would stand on one line
            style = {"color": COLORS[dtype], "marker": MARKERS[i % len(MARKERS)], "markersize": 7, "alpha": 0.85}
            axes.plot(beside / moved, share * bandwidths[of, case, dtype] / moved, zorder=3, **style)
    ends = [1 / 21, 1 / 3]
    for cached, style in ((False, "-"), (True, "--")):
        all_ = [value for (of, case, _), value in bandwidths.items() if of == "softmax" and (CACHED in case) == cached]
        if all_:
            bandwidth = statistics.median(all_)
            axes.plot(
                ends, [bandwidth * end for end in ends], color="#c8322b", linewidth=1.2, linestyle=style, zorder=2
            )
            text = f"a parallel copy{', in cache' if cached else ''}: {bandwidth:.0f} GB/s"
            place = {"xytext": (0, 16), "textcoords": "offset points", "fontsize": 9, "color": "#c8322b"}
            axes.annotate(text, (ends[0], bandwidth * ends[0]), **place)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (2 * size) for size in (8, 4, 2)], ["1/16\nfloat64", "1/8\nfloat32", "1/4\nfloat16, bfloat16"])
    axes.minorticks_off()
    axes.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("elements a byte that is read or written")
    axes.set_ylabel("elements a nanosecond")
    axes.set_title("softmax under the roof of memory", loc="left", fontsize=12)
    axes.grid(color="#e6e6e6", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    named = [(case, "#666666", MARKERS[i % len(MARKERS)]) for i, case in enumerate(cases)]
    named += [(dtype, color, "o") for dtype, color in COLORS.items()]
    for label, color, marker in named:
        axes.plot([], [], color=color, marker=marker, linestyle="", label=label)
    drawing.legend(loc="outside right upper", frameon=False, fontsize=8)
    return drawing


def history(recorded, op):
    """The share of a copy's speed at each commit, a panel for each case, with the noise as a band."""
    keys = [key for record in recorded for key in record.values(OF_COPY) if key[0] == op]
    cases = list(dict.fromkeys(case for _, case, _ in keys))
    dtypes = [dtype for dtype in COLORS if any(dtype == key[2] for key in keys)]
    columns = 3
    rows = math.ceil(len(cases) / columns)
    drawing = Figure(figsize=(10, 2.3 * rows + 1), layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharex=True, squeeze=False).flat)
    places = range(len(recorded))
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    for axes, case in zip(panels, cases, strict=False):
        for dtype in dtypes:
            middle, noise = (
                [record.values(name).get((op, case, dtype), math.nan) for record in recorded]
                for name in (OF_COPY, noise_of(OF_COPY))
            )
            bounds = [[m * (1 + side * n) for m, n in zip(middle, noise, strict=True)] for side in (-1, 1)]
            style = {"color": COLORS[dtype], "marker": "o", "markersize": 3, "linewidth": 1.4}
            axes.plot(places, middle, label=dtype, zorder=3, **style)
            axes.fill_between(places, *bounds, color=COLORS[dtype], alpha=0.15, linewidth=0, zorder=2)
        axes.set_title(case, loc="left", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e6e6e6", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(places, [record.commit[:7] for record in recorded], rotation=90, fontsize=7, family="monospace")
    drawing.suptitle(f"{op}: speed over a copy's, commit by commit", x=0.01, ha="left", fontsize=12)
    if len(dtypes) > 1:
        handles = panels[0].get_legend_handles_labels()
        drawing.legend(*handles, loc="outside lower left", ncols=len(dtypes), frameon=False)
    return drawing


def peers(record):
    """Lines of a table in Markdown: milliseconds in float32, and how many times that others take."""
    seconds = record.values(PEERS)
    yield "| op | case | ms | NumPy's time over it | SciPy's |"
    yield "|---|---|---|---|---|"
    for (library, op, case), ours in seconds.items():
        if library == "numba_softmax":
            others = [seconds.get((other, op, case), math.nan) / ours for other in ("numpy", "scipy")]
            yield "| " + " | ".join([op, case, f"{ours * 1e3:.2f}", *(f"{ratio:.1f}" for ratio in others)]) + " |"


def errors(record):
    """Lines of a table in Markdown: the largest error seen for each op and dtype."""
    found = record.values(ERRORS)
    ops, dtypes, _ = (list(dict.fromkeys(values)) for values in zip(*found, strict=True))
    yield "| op | " + " | ".join(dtypes) + " |"
    yield "|---" * (len(dtypes) + 1) + "|"
    for op in ops:
        worst = (max(value for key, value in found.items() if key[:2] == (op, dtype)) for dtype in dtypes)
        yield f"| {op} | " + " | ".join(f"{value:.2f}" for value in worst) + " |"


def commits(recorded):
    """Lines of a table in Markdown: what was measured."""
    yield "| commit | day | subject |"
    yield "|---|---|---|"
    for record in recorded:
        yield f"| `{record.commit[:8]}` | {records.day_of(record)} | {records.subject_of(record.commit)} |"


def source(record, *benchmarks):
    """What made a figure: the command, and the machine."""
    pattern = "|".join(f"^{name}" for name in benchmarks).replace(".", r"\.")
    folder = record.machine["machine"]
    command = f"asv run --machine {folder} --bench '{pattern}' {record.commit[:8]}^!"
    return f"`{command}` on {records.machine_of(record)}."
