"""``numba-softmax bench --cold``: imports and first calls in new processes, with and without kernels on disk.

Each repeat starts two processes for each shape: the first one has an empty disk
cache, in a folder of its own, and the second one loads the kernel that the first
one compiled.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

from .new_process import in_new_process
from .progress import progress

REPEATS = 5

SHAPES = ((8, 8), (1024, 1024))
"""Shapes of the float32 input: one is computed in one thread, one in all of them."""

OVER, EMPTY, CACHED = "over numba", "first call, nothing cached", "first call, kernel cached"
AIMS = {OVER: 0.05, EMPTY: 3.0, CACHED: 0.4}
"""The most seconds that a step may take."""


def measured() -> dict[str, Any]:
    """Seconds of each step in all repeats, and their median."""
    imports, calls = ("import numba", "import numba_softmax", OVER), (EMPTY, CACHED, "second call")
    samples: dict[Any, list[float]] = {(step, None): [] for step in imports}
    samples |= {(step, shape): [] for shape in SHAPES for step in calls}
    with progress("starting", total=REPEATS * len(SHAPES) * 2) as bar:
        for _ in range(REPEATS):
            for shape in SHAPES:
                with tempfile.TemporaryDirectory(prefix="numba_softmax_cold_") as folder:
                    for first_call in (EMPTY, CACHED):
                        numba, own, first, second = in_new_process(folder, shape)
                        for step, seconds in zip(imports, (numba, numba + own, own), strict=True):
                            samples[step, None].append(seconds)
                        samples[first_call, shape].append(first)
                        samples["second call", shape].append(second)
                        bar.update()
    return {
        "repeats": REPEATS,
        "steps": [
            {"step": step, "shape": shape, "seconds": statistics.median(all_), "aim": AIMS.get(step), "samples": all_}
            for (step, shape), all_ in samples.items()
        ],
    }


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The table, a line a step."""
    yield f"a new process: median milliseconds of {results['repeats']} repeats, of float32 softmax where a shape stands"
    yield ""
    labels = [_label(step) for step in results["steps"]]
    width = max(map(len, labels))
    yield f"{'':<{width}} {'ms':>10}  at most"
    for label, step in zip(labels, results["steps"], strict=True):
        aim = "" if step["aim"] is None else f"{step['aim'] * 1e3:7,.0f}"
        met = "" if step["aim"] is None else "   met" if step["seconds"] <= step["aim"] else "   missed"
        yield f"{label:<{width}} {_milliseconds(step['seconds']):>10}{aim:>9}{met}".rstrip()


def _label(step: dict[str, Any]) -> str:
    if step["shape"] is None:
        return f"  {step['step']}" if step["step"] == OVER else step["step"]
    return f"{' x '.join(f'{size:,}' for size in step['shape'])}: {step['step']}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds > 0.1 else f"{seconds * 1e3:.3g}"
