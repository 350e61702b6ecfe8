"""``numba-softmax selftest``: the documentation's promises, checked on this machine.

Each kernel that a check needs is compiled once, in one to three seconds: so
checks share kernels, and their arrays are small enough for one thread unless
threads are what is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numba
import numpy as np
from tqdm import tqdm

from .. import api
from ..bench.reference import NoReferenceError, error_in_ulps
from ..ops import OPS

INF, NAN = np.inf, np.nan
PROMISED = {"float16": 0.51, "bfloat16": 0.51, "float32": 2.0, "float64": 4.0}
"""The promised bounds of the error, in units in the last place."""

_LONG = 300_000
"""Elements of a row that threads share."""


# ------------------------------------------------------------------------ checks


def rows_of(shape: tuple[int, ...], dtype: str = "float32", spread: float = 4.0) -> np.ndarray:
    """Random numbers, the same each time; every third row is spread so widely that most weights vanish."""
    x = np.random.default_rng(20).standard_normal(shape) * spread
    x[::3] *= 10
    return x.astype(dtype)


def _same(got: Any, expected: Any, what: str) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    if not np.array_equal(got, expected, equal_nan=True):
        at = np.argwhere(~((got == expected) | (np.isnan(got) & np.isnan(expected))))[0]
        raise AssertionError(f"{what}: {got[tuple(at)]} instead of {expected[tuple(at)]} at {tuple(map(int, at))}")


def edges(name: str) -> str:
    """NaN, infinities, -inf alone and no elements give what the documentation says."""
    log = name == "log_softmax"
    zero, half, one = (-INF, -0.6931472, 0.0) if log else (0.0, 0.5, 1.0)
    table = [  # a row, the elementwise result, its logsumexp
        ([NAN, 1, 2], [NAN] * 3, NAN),
        ([NAN, INF, 2], [NAN] * 3, NAN),
        ([INF, 1, 2], [NAN] * 3, INF),
        ([INF, -INF, INF], [NAN] * 3, INF),
        ([-INF] * 3, [NAN] * 3, -INF),
        ([-INF, 7, -INF], [zero, one, zero], 7),
        ([3e38, 3e38, -3e38], [half, half, -INF if log else 0.0], 3e38),
    ]
    call = getattr(api, name)
    with np.errstate(over="ignore"):
        for row, each, total in table:
            expected = np.array(total if OPS[name].reduces else each, np.float32)
            _same(call(np.array(row, np.float32)), expected, f"{name}({row})")
    nothing = np.zeros((2, 0), np.float32)
    _same(call(nothing), np.full(2, -INF) if OPS[name].reduces else nothing, f"{name} of empty rows")
    return f"{len(table) + 1} rows"


def masked(name: str) -> str:
    """Elements left out count for nothing, even NaN; with all of them left out, the result is as documented."""
    x = np.array([[NAN, 1, INF, 1], [1, 2, 3, 4]], np.float32)
    where = np.array([[False, True, False, True], [False] * 4])
    expected = [1.6931472, -INF] if OPS[name].reduces else [[0, 0.5, 0, 0.5], [0] * 4]
    _same(getattr(api, name)(x, where=where), np.array(expected, np.float32), name)
    return "NaN and inf left out, all left out"


def accuracy(name: str, dtype: str, shape: tuple[int, ...] = (100, 300)) -> str:
    """Within the promised number of units in the last place of a wider computation."""
    x = rows_of(shape, dtype)
    worst, promised = error_in_ulps(name, x, getattr(api, name)(x)), PROMISED[dtype]
    if not worst <= promised:
        raise AssertionError(f"{worst:.3g} ulp, promised are {promised:g}")
    return f"{worst:.3f} ulp, promised {promised:g}"


def along_and_across(name: str) -> str:
    """A row's bits are the same whether its elements are neighbours in memory or rows are."""
    x = rows_of((64, 300))
    along = getattr(api, name)(x)
    across = getattr(api, name)(np.ascontiguousarray(x.T), axis=0)
    _same(across if OPS[name].reduces else across.T, along, f"{name} on axis 0")
    return "64 rows"


def alone(name: str) -> str:
    """A row's bits are the same alone and among others."""
    x, call = rows_of((64, 300)), getattr(api, name)
    batch = call(x)
    for i in (0, 17, 63):
        _same(call(x[i]), batch[i], f"row {i} alone")
    return "3 rows of 64"


def threaded(name: str, shape: tuple[int, ...]) -> str:
    """One thread gives the bits that all threads give."""
    x, call = rows_of(shape), getattr(api, name)
    count = numba.get_num_threads()
    many = call(x)
    numba.set_num_threads(1)
    try:
        _same(call(x), many, "one thread")
    finally:
        numba.set_num_threads(count)
    return f"1 and {count} threads"


def in_place() -> str:
    """Writing over the input gives what writing elsewhere gives."""
    x = rows_of((64, 300))
    expected = api.softmax(x)
    _same(api.softmax(x, out=x), expected, "in place")
    _same(x, expected, "the input afterwards")
    return "out=x"


def checks() -> Iterator[tuple[str, Callable[[], str]]]:
    """The names of checks and their functions, which return a detail or raise."""
    for name in OPS:
        yield f"{name}: NaN, infinities, empty rows", partial(edges, name)
        yield f"{name}: accuracy in float32", partial(accuracy, name, "float32")
        yield f"{name}: a row alone and among others", partial(alone, name)
        yield f"{name}: rows along and across memory", partial(along_and_across, name)
    for dtype in ("float64", "float16"):
        yield f"softmax: accuracy in {dtype}", partial(accuracy, "softmax", dtype)
    yield "softmax: masked elements", partial(masked, "softmax")
    yield "softmax: threads that share rows", partial(threaded, "softmax", (256, 300))
    yield "logsumexp: threads that share a row", partial(threaded, "logsumexp", (1, _LONG))
    yield "logsumexp: accuracy in a long row", partial(accuracy, "logsumexp", "float32", (1, _LONG))
    yield "softmax: in place", in_place


def outcome(check: Callable[[], str]) -> tuple[str, str]:
    """The outcome of a check, "ok", "skipped" or "FAILED", and a detail."""
    try:
        return "ok", check()
    except NoReferenceError as error:
        return "skipped", str(error)
    except AssertionError as error:
        return "FAILED", str(error)
    except Exception as error:
        return "FAILED", " ".join(f"{type(error).__name__}: {error}".split())[:300]


def command(arguments: argparse.Namespace) -> int:
    """Run all checks: 1 if one failed."""
    start = time.perf_counter()
    results = []
    todo = list(checks())
    with tqdm(todo, desc="compiling and checking", delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        for name, check in bar:
            status, detail = outcome(check)
            results.append({"check": name, "status": status, "detail": detail})
            if not arguments.json:
                with contextlib.nullcontext() if bar.disable else tqdm.external_write_mode(sys.stdout):
                    print(f"{status:<8} {name}: {detail}", flush=True)
    seconds = time.perf_counter() - start
    failed = sum(result["status"] == "FAILED" for result in results)
    if arguments.json:
        print(json.dumps({"ok": not failed, "seconds": seconds, "checks": results}, indent=2))
    else:
        print(f"{len(results)} checks, {failed or 'none'} failed, {seconds:.1f} s")
    return 1 if failed else 0
