"""``numba-softmax run``: the operations on a file of any size, or on a sample of real data."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from tqdm import tqdm

from .. import api
from ..bench.reference import NoReferenceError, error_in_ulps
from ..call.arguments import as_axes, as_input, as_output_dtype, as_scale
from ..ops import OPS
from ..streaming import mapped
from . import files
from .common import UserError
from .info import cpu


def command(arguments: argparse.Namespace) -> int:
    """Compute on a file, or on the sample."""
    summary = _of_sample(arguments) if arguments.input is None else _of_file(arguments)
    lines = summary.pop("lines")
    print(json.dumps(summary, indent=2) if arguments.json else "\n".join(lines))
    return 0


# ------------------------------------------------------------------------- files


def _of_file(arguments: argparse.Namespace) -> dict[str, Any]:
    source = Path(arguments.input)
    x = files.open_input(source, arguments.read_as)
    target = Path(arguments.output or source.with_name(f"{source.stem}.{arguments.op}.npy"))
    try:
        axes, shape, dtype = _result_of(arguments, x)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from None
    given = {"path": str(source), "shape": x.shape, "dtype": str(x.dtype)}
    start = time.perf_counter()
    with files.beside(target) as part:
        out = files.create(part, shape, dtype, order="F" if _is_fortran(x) and len(shape) == x.ndim else "C")
        slabs = _compute(arguments, x, axes, out)
        del x, out  # some systems do not rename files that are mapped
    seconds = time.perf_counter() - start
    threads = numba.get_num_threads()
    return {
        "op": arguments.op,
        "axis": arguments.axis,
        "scale": arguments.scale,
        "input": given,
        "output": {"path": str(target), "shape": shape, "dtype": str(dtype)},
        "device": "cpu",
        "threads": threads,
        "slabs": slabs,
        "seconds": seconds,
        "lines": [
            f"{arguments.op} of {source}, {given['dtype']} {given['shape']}, axis {_axis_name(arguments.axis)}",
            f"written to {target}, {dtype} {shape}",
            f"{seconds:.2f} s on the CPU with {threads} threads",
        ],
    }


def _result_of(arguments: argparse.Namespace, x: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype]:
    """The axes from 0, and the shape and dtype of the result."""
    as_input(x)
    axes = as_axes(arguments.axis, x.ndim)
    as_scale(arguments.scale)
    kept = tuple(size for i, size in enumerate(x.shape) if i not in axes)
    return axes, kept if OPS[arguments.op].reduces else x.shape, as_output_dtype(arguments.dtype, x.dtype, None)


def _compute(arguments: argparse.Namespace, x: np.memmap, axes: tuple[int, ...], out: np.memmap) -> int:
    """Compute slab by slab, and return the number of slabs."""
    scale = as_scale(arguments.scale)
    op = OPS[arguments.op]
    total = mapped.bytes_to_read(op, x, axes, out.dtype)
    with tqdm(total=total, unit="B", unit_scale=True, delay=1, leave=False, disable=None, file=sys.stderr) as progress:

        def advance(read: int) -> None:
            files.forget(x)
            files.forget(out)
            progress.update(read)

        mapped.compute(mapped.Work(op, x, axes, scale=scale), [out], advance)
    return mapped.slabs_of(x, axes, out.dtype).total


def _is_fortran(x: np.ndarray) -> bool:
    return x.flags.f_contiguous and not x.flags.c_contiguous


def _axis_name(axis: Any) -> str:
    return "none" if axis is None else str(axis)


# ------------------------------------------------------------------------ sample


def _of_sample(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute on attention scores that come with the package, and compare with a computation in a wider float."""
    if arguments.read_as:
        raise UserError("--as is for a file: name one")
    with (importlib.resources.files(__package__) / "sample" / "attention.npz").open("rb") as file:
        sample = dict(np.load(file, allow_pickle=False))
    x = sample["scores"]
    tokens, sentence, origin = sample["tokens"].tolist(), str(sample["sentence"]), str(sample["origin"])
    options = {"axis": arguments.axis, "scale": arguments.scale, "dtype": arguments.dtype}
    op = getattr(api, arguments.op)
    try:
        first, y = _timed(op, x, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"the sample: {error}") from None
    seconds = min(_timed(op, x, **options)[0] for _ in range(20))
    y = np.asarray(y)
    worst: float | None
    scale = 1.0 if arguments.scale is None else arguments.scale
    try:
        worst = error_in_ulps(arguments.op, x, y, arguments.axis, scale)
        accuracy = f"largest difference from NumPy in a wider float: {worst:.3f} units in the last place"
    except NoReferenceError as reason:
        worst, accuracy = None, f"largest difference from the exact result: {reason}"
    strongest = _strongest_links(y, tokens) if _is_attention(arguments, y) else _largest(y)
    threads, name = numba.get_num_threads(), cpu()["name"]
    return {
        "op": arguments.op,
        "axis": arguments.axis,
        "scale": arguments.scale,
        "sample": {"origin": origin, "sentence": sentence, "tokens": tokens, "shape": x.shape, "dtype": str(x.dtype)},
        "output": {"shape": y.shape, "dtype": str(y.dtype)},
        "device": "cpu",
        "cpu": name,
        "threads": threads,
        "first_call_seconds": first,
        "seconds": seconds,
        "largest_error_ulp": worst,
        "strongest": strongest,
        "lines": [
            f"{origin}, for the sentence",
            f"    {sentence}",
            f"{arguments.op} of {x.dtype} {x.shape}, axis {_axis_name(arguments.axis)}",
            f"on the CPU ({name}, {threads} threads)",
            f"first call {first:.2g} s (it compiles a kernel, or loads one), then {seconds * 1e6:.1f} us a call",
            accuracy,
            "",
            *_as_lines(strongest),
        ],
    }


def _timed(function: Any, *args: Any, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*args, **options)
    return time.perf_counter() - start, result


def _is_attention(arguments: argparse.Namespace, y: np.ndarray) -> bool:
    """True if the results say how much one token attends to another."""
    return y.ndim == 3 and arguments.axis in (-1, 2)


def _strongest_links(y: np.ndarray, tokens: list[str]) -> list[dict[str, Any]]:
    """For each word, the other word to which a head gives the most weight."""
    words = [i for i, token in enumerate(tokens) if token[0].isalnum()]
    links = []
    for i in words:
        others = [j for j in words if j != i]
        head, j = np.unravel_index(np.argmax(y[:, i, others]), (len(y), len(others)))
        to = others[j]
        links.append({"token": tokens[i], "to": tokens[to], "head": int(head) + 1, "value": float(y[head, i, to])})
    return links


def _largest(y: np.ndarray, count: int = 8) -> list[dict[str, Any]]:
    """The largest results and their places."""
    order = np.argsort(y, axis=None)[::-1][:count]
    places = [np.unravel_index(i, y.shape) for i in order]
    return [{"index": [int(i) for i in place], "value": float(y[place])} for place in places]


def _as_lines(strongest: list[dict[str, Any]]) -> Iterator[str]:
    if "to" in strongest[0]:
        yield "the strongest entries: each word, the other word that a head attends to most, and the result there"
        for link in strongest:
            yield f"    {link['token']:<10} -> {link['to']:<10} {link['value']:8.4f}  head {link['head']}"
    else:
        yield "the strongest entries: the largest results, and where"
        for entry in strongest:
            yield f"    {entry['value']:10.4f}  at {tuple(entry['index'])}"
