"""Plots and tables of what asv has recorded: the page on speed in the documentation has them."""

import math
import statistics

import records
from matplotlib.figure import Figure
from records import NOISE, OF_COPY, PEERS, SECONDS, ULP

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
COLORS = {"float32": "#1f6fb2", "float64": "#222222", "float16": "#e08a1e", "bfloat16": "#2a9d6f"}
MARKERS = "osD^vP*Xd"
CACHED = "in cache"
"""In the names of cases that say nothing of the memory."""


def cases(values):
    """The names of cases, in the order of the benchmark's parameters."""
    return list(dict.fromkeys(case for _, case, *_ in values))


def elements_of(case):
    """How many elements a case has, by its name: the sizes that are multiplied in it."""
    sizes = case.split(", ")[1].split(" axis")[0].split(" x ")
    return math.prod(map(int, sizes))


def roofline(record, op="softmax"):
    """Elements a second against elements a byte moved: under what copying, and the best case in a cache, allow."""
    seconds, shares = record.values(SECONDS), record.values(OF_COPY)
    drawing = Figure(figsize=(9, 5.2), layout="constrained")
    axes = drawing.subplots()
    names = cases(seconds)
    copies = []
    for (of, case, dtype), time in seconds.items():
        if of != op:
            continue
        rate = elements_of(case) / time / 1e9
        nbytes = 2 * BYTES[dtype]
        if CACHED not in case and (of, case, dtype) in shares:
            copies.append(rate * nbytes / shares[of, case, dtype])
        style = {"color": COLORS[dtype], "marker": MARKERS[names.index(case)], "markersize": 7, "linestyle": ""}
        nudge = 1.03 ** (names.index(case) - len(names) // 2)  # points of one dtype would stand on one line
        axes.plot(nudge / nbytes, rate, alpha=0.85, zorder=3, **style)
    bandwidth = statistics.median(copies)
    ends = [1 / 22, 1 / 2.9]
    axes.plot(ends, [bandwidth * end for end in ends], color="#c8322b", linewidth=1.2, zorder=2)
    axes.annotate(
        f"a parallel copy: {bandwidth:.0f} GB/s", (ends[0], bandwidth * ends[0]), (4, 8), textcoords="offset points",
        fontsize=9, color="#c8322b",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (2 * size) for size in (8, 4, 2)], ["1/16\nfloat64", "1/8\nfloat32", "1/4\nfloat16, bfloat16"])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks([0.5, 1, 2, 4, 8])
    axes.set_xlabel("elements a byte that is read or written")
    axes.set_ylabel("elements a nanosecond")
    axes.set_title(f"{op}: each case under the roof of memory", loc="left", fontsize=12)
    axes.grid(color="#e6e6e6", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    shapes = [axes.plot([], [], color="#666666", marker=MARKERS[i], linestyle="")[0] for i in range(len(names))]
    colours = [axes.plot([], [], color=color, marker="o", linestyle="")[0] for color in COLORS.values()]
    drawing.legend(shapes + colours, names + list(COLORS), loc="outside right upper", frameon=False, fontsize=8)
    return drawing


def history(found, op="softmax"):
    """The share of a copy's speed at each recorded commit, a panel for each case, with the noise as a band."""
    names = cases(found[-1].values(OF_COPY))
    columns = 3
    rows = math.ceil(len(names) / columns)
    drawing = Figure(figsize=(10, 2.5 * rows + 0.6), layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharex=True, squeeze=False).flat)
    places = range(len(found))
    for axes, case in zip(panels, names, strict=False):
        for dtype, color in COLORS.items():
            shares = [record.values(OF_COPY).get((op, case, dtype), math.nan) for record in found]
            noises = [record.values(NOISE).get((op, case, dtype), math.nan) for record in found]
            axes.plot(places, shares, color=color, marker="o", markersize=3, linewidth=1.4, label=dtype, zorder=3)
            low, high = (
                [share * (1 + side * noise / 2) for share, noise in zip(shares, noises, strict=True)]
                for side in (-1, 1)
            )
            axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0, zorder=2)
        axes.set_title(case, loc="left", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e6e6e6", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(places, [record.commit[:7] for record in found], rotation=90, fontsize=7, family="monospace")
    drawing.suptitle(f"{op}: speed over a copy's, commit by commit", x=0.01, ha="left", fontsize=12)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower left", ncols=len(COLORS), frameon=False)
    return drawing


def peers(record):
    """Lines of a table in Markdown: our time in float32, of copy, times faster than NumPy and SciPy."""
    seconds, shares = record.values(PEERS), record.values(OF_COPY)
    yield "| op | case | ms | of copy | times faster than NumPy | than SciPy |"
    yield "|---|---|---|---|---|---|"
    for (library, op, case), ours in seconds.items():
        if library != "numba_softmax":
            continue
        share = shares.get((op, case, "float32"))
        cells = [op, case, f"{ours * 1e3:.2f}", "-" if share is None else f"{share:.2f}"]
        cells += [f"{seconds[other, op, case] / ours:.1f}" for other in ("numpy", "scipy")]
        yield "| " + " | ".join(cells) + " |"


def errors(record):
    """Lines of a table in Markdown: the largest error seen for each op and dtype."""
    found = record.values(ULP)
    dtypes = list(dict.fromkeys(dtype for _, dtype, _ in found))
    yield "| op | " + " | ".join(dtypes) + " |"
    yield "|---" * (len(dtypes) + 1) + "|"
    for op in dict.fromkeys(op for op, *_ in found):
        worst = [max(value for (o, d, _), value in found.items() if (o, d) == (op, dtype)) for dtype in dtypes]
        yield f"| {op} | " + " | ".join(f"{value:.3f}" for value in worst) + " |"


def commits(found):
    """Lines of a table in Markdown: what was measured, when, and with what."""
    yield "| commit | | subject |"
    yield "|---|---|---|"
    for record in found:
        day = records.day_of(record)
        yield f"| `{record.commit[:8]}` | {day} | {records.subject_of(record.commit)} |"
