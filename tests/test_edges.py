"""The contract of the edges: what rows with NaN, infinities, masks or no elements give."""

import numpy as np
import pytest
from naive import FLOATS, NAMES, assert_right, naive

import numba_softmax as ns
from numba_softmax.ops import OPS

NAN, INF = np.nan, np.inf
N = 37  # a length that is no multiple of any vector
LONG = 20_000  # three blocks

# name: the elements at some places of a row of 37, the mask there (None for no mask), and what the ops give there:
# softmax and log_softmax at those places, logsumexp for the row; "usual" for what the other elements alone would give.
CASES = {
    "a NaN": ({5: NAN}, None, (NAN, NAN, NAN)),
    "NaN first": ({0: NAN}, None, (NAN, NAN, NAN)),
    "NaN last": ({36: NAN}, None, (NAN, NAN, NAN)),
    "all NaN": (dict.fromkeys(range(N), NAN), None, (NAN, NAN, NAN)),
    "a +inf": ({36: INF}, None, (NAN, NAN, INF)),
    "two +inf": ({0: INF, 20: INF}, None, (NAN, NAN, INF)),
    "NaN and +inf": ({1: INF, 30: NAN}, None, (NAN, NAN, NAN)),
    "NaN before +inf": ({1: NAN, 30: INF}, None, (NAN, NAN, NAN)),
    "+inf and -inf": ({1: INF, 30: -INF}, None, (NAN, NAN, INF)),
    "all -inf": (dict.fromkeys(range(N), -INF), None, (NAN, NAN, -INF)),
    "some -inf": ({0: -INF, 17: -INF, 36: -INF}, None, (0.0, -INF, "usual")),
    "all but one -inf": ({i: -INF for i in range(N) if i != 20}, None, (0.0, -INF, "usual")),
    "where all False": (dict.fromkeys(range(N), 1.0), False, (0.0, -INF, -INF)),
    "where all False on NaN": (dict.fromkeys(range(N), NAN), False, (0.0, -INF, -INF)),
    "where False at NaN": ({0: NAN, 36: NAN}, False, (0.0, -INF, "usual")),
    "where False at +inf": ({3: INF, 33: INF}, False, (0.0, -INF, "usual")),
    "where False at -inf": ({3: -INF, 16: -INF}, False, (0.0, -INF, "usual")),
    "where False at the maximum": ({15: 100.0, 32: 100.0}, False, (0.0, -INF, "usual")),
    "where True at NaN": ({7: NAN}, True, (NAN, NAN, NAN)),
    "where False at all but -inf": ({i: 0.0 if i % 3 else -INF for i in range(N)}, "finite", (None, None, -INF)),
}


def row_of(case):
    elements, mask, expected = CASES[case]
    x = np.linspace(-3, 4, N)[np.random.default_rng(1).permutation(N)]
    x[list(elements)] = list(elements.values())
    keep = None
    if mask == "finite":
        keep = ~np.isfinite(x)
    elif mask is not None:
        keep = np.ones(N, bool)
        keep[list(elements)] = mask
    return x, keep, list(elements), expected


def laid_out(rows, layout):
    """The same rows in memory in another way; and their axis."""
    if layout == "columns":
        return np.ascontiguousarray(rows.T), 0
    if layout == "gathered":
        wide = np.zeros((len(rows), 2 * rows.shape[1]), rows.dtype)
        wide[:, ::2] = rows
        return wide[:, ::2], 1
    return rows.copy(), 1


LAYOUTS = [("rows", n) for n in FLOATS] + [(lay, n) for lay in ("columns", "gathered") for n in FLOATS]
each_op = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize("case", CASES)


@each_op
@each_case
def test_the_reference_holds_the_edge_table(name, case):
    x, keep, places, expected = row_of(case)
    value = expected[NAMES.index(name)]
    result = naive(name, x, where=keep)
    if value == "usual":
        assert np.isclose(float(result), float(naive(name, np.delete(x, places))), rtol=1e-15)
    elif value is not None:
        np.testing.assert_array_equal(result if OPS[name].reduces else result[places], value)
    if value is not None and not OPS[name].reduces and not np.isnan(value):
        others = np.delete(np.arange(N), places)
        usual = naive(name, x[others])
        np.testing.assert_allclose(result[others].astype(float), usual.astype(float), rtol=1e-15)


@each_op
@each_case
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS)
def test_every_edge_in_every_layout(name, case, layout, dtype):
    edge, keep, _, _ = row_of(case)
    if keep is not None and layout != "rows" and dtype != "float32":
        pytest.skip("to save time, masked kernels of other layouts are compiled for float32 alone")
    if name != "softmax" and layout == "gathered" and dtype in ("float16", "bfloat16"):
        pytest.skip("to save time, gathered kernels for 16 bits are compiled for softmax alone")
    rows = np.random.default_rng(2).normal(size=(19, N))
    rows[[0, 11, 18]] = edge
    x, axis = laid_out(rows.astype(FLOATS[dtype]), layout)
    where = None
    if keep is not None:
        mask = np.ones(rows.shape, bool)
        mask[[0, 11, 18]] = keep
        where, _ = laid_out(mask, layout)
    with np.errstate(all="raise"):
        result = getattr(ns, name)(x, axis, where=where)
    assert result.dtype == x.dtype
    assert_right(name, result, x, axis, where=where)


@each_op
@each_case
@pytest.mark.parametrize("layout", ["rows", "columns", "gathered"])
@pytest.mark.parametrize("place", [0, 8191, 8192, 19_900])
def test_an_edge_counts_wherever_it_is_in_a_long_row(name, case, layout, place, one_thread):
    edge, keep, places, _ = row_of(case)
    if case.startswith(("all", "where all", "where False at all")):
        edge, keep = np.resize(edge, LONG), None if keep is None else np.resize(keep, LONG)
    else:
        at = min(place, LONG - N) - (places[0] if place else 0)
        edge, kept = np.insert(np.full(LONG - N, 0.5), at, edge), keep
        keep = None if kept is None else np.insert(np.ones(LONG - N, bool), at, kept)
    rows = np.full((8, LONG), 0.25)
    rows[3] = edge
    x, axis = laid_out(rows.astype(np.float32), layout)
    where = None
    if keep is not None:
        mask = np.ones(rows.shape, bool)
        mask[3] = keep
        where, _ = laid_out(mask, layout)
    with np.errstate(all="raise"):
        result = getattr(ns, name)(x, axis, where=where)
    assert_right(name, result, x, axis, where=where)


@each_op
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (0, 0), (2, 0, 5), (0, 9000)])
@pytest.mark.parametrize("axis", [0, -1, None])
def test_arrays_without_elements(name, dtype, shape, axis):
    x = np.empty(shape, FLOATS[dtype])
    with np.errstate(all="raise"):
        result = getattr(ns, name)(x, axis)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, naive(name, x, axis).astype(x.dtype), strict=True)


@each_op
def test_rows_without_elements_are_written_to_out(name):
    for keepdims in (False, True) if OPS[name].reduces else (False,):
        options = {"keepdims": True} if keepdims else {}
        x = np.empty((4, 0))
        out = np.full(naive(name, x, **options).shape, 7.0)
        assert getattr(ns, name)(x, out=out, **options) is out
        assert (out == -np.inf).all()


@each_op
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, -0.0, 3.5, -1000.0, -INF, INF, NAN])
def test_single_elements(name, dtype, value):
    function, kind = getattr(ns, name), FLOATS[dtype]
    with np.errstate(all="raise"):
        for x in (np.full(1, value, kind), np.full((3, 1), value, kind)):
            assert_right(name, function(x), x)
        x = np.full((), value, kind)
        for axis in (-1, 0, None, ()):
            result = function(x, axis)
            assert isinstance(result, kind.type)
            assert_right(name, result, x, None)


@each_op
@pytest.mark.parametrize("keepdims", [False, True])
def test_results_without_dimensions_are_numpy_scalars(name, keepdims):
    if not OPS[name].reduces:
        assert type(getattr(ns, name)(2.0)) is np.float64
        return
    result = ns.logsumexp(np.ones((2, 3), np.float32), None, keepdims=keepdims)
    assert isinstance(result, np.ndarray if keepdims else np.float32)
    assert np.shape(result) == ((1, 1) if keepdims else ())


@each_op
@pytest.mark.parametrize("layout", ["rows", "columns", "gathered"])
def test_an_edge_counts_wherever_it_is_in_a_tiny_row(name, layout):
    edges = [NAN, INF, -INF, 0.5]
    for n in (1, 2, 3, 7, 8, 15, 16):
        x = np.full((4 * n + 1, n), 0.25, np.float32)
        for i in range(4 * n):
            x[i, i // 4] = edges[i % 4]
        shaped, axis = laid_out(x, layout)
        keep, _ = laid_out(np.arange(x.size).reshape(x.shape) % 5 > 0, layout)
        with np.errstate(all="raise"):
            assert_right(name, getattr(ns, name)(shaped, axis), shaped, axis)
            assert_right(name, getattr(ns, name)(shaped, axis, where=keep), shaped, axis, where=keep)
            for scale in (0.0, -3.0, 0.25):
                options = {"where": keep, "scale": scale}
                assert_right(name, getattr(ns, name)(shaped, axis, scale=scale), shaped, axis, scale=scale)
                assert_right(name, getattr(ns, name)(shaped, axis, **options), shaped, axis, **options)


@each_op
def test_an_axis_of_length_one_gives_the_row_alone(name):
    x = np.random.default_rng(3).normal(size=(9, 1, 10)).astype(np.float32)
    assert_right(name, getattr(ns, name)(x, 1), x, 1)


@each_op
def test_no_axes_make_each_element_a_row(name):
    x = np.array([[1.0, -INF, INF], [NAN, 0.0, 5.0]])
    with np.errstate(all="raise"):
        assert_right(name, getattr(ns, name)(x, ()), x, ())
