"""Rows of several blocks and chunks whose maxima are far apart: accurate, and the same bits in every layout."""

import numpy as np
import pytest
from naive import FLOATS, NAMES, assert_right, same_bits

import numba_softmax as ns
from numba_softmax.ops import OPS

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK = 8192
GAPS = [0, 1e-3, 1, 13, 15, 30, 90, 104, 120, 1e4, 1e30]
LENGTHS = [2 * BLOCK + 5, 8 * BLOCK, 9 * BLOCK + 17]  # with pieces of a block; a chunk; more than a chunk
each_op = pytest.mark.parametrize("name", NAMES)
each_length = pytest.mark.parametrize("n", LENGTHS)


def noise(rows, n, seed=0):
    return np.random.default_rng([rows, n, seed]).normal(0, 3, (rows, n))


def blocks(n):
    return [slice(at, at + BLOCK) for at in range(0, n, BLOCK)]


def with_dominant_block(n, which, dtype="float32"):
    """A row for each gap, by which one block's elements are above those of the others."""
    x = noise(len(GAPS), n)
    x[:, blocks(n)[which]] += np.array(GAPS)[:, None]
    return x.astype(dtype)


def assert_right_in_every_layout(name, x, where=None, scale=None):
    function, options = getattr(ns, name), {"scale": scale}
    expected = function(x, where=where, **options)
    assert_right(name, expected, x, where=where, **options)
    across = None if where is None else np.ascontiguousarray(where.T)
    y = function(np.ascontiguousarray(x.T), 0, where=across, **options)
    assert same_bits(np.ascontiguousarray(y.T), expected)
    wide = np.zeros((len(x), 2 * x.shape[1]), x.dtype)
    wide[:, ::2] = x
    assert same_bits(function(wide[:, ::2], where=where, **options), expected)
    if not OPS[name].reduces:
        in_place, columns = x.copy(), np.ascontiguousarray(x.T)
        function(in_place, out=in_place, where=where, **options)
        function(columns, 0, out=columns, where=across, **options)
        function(wide[:, ::2], out=wide[:, ::2], where=where, **options)
        for y in (in_place, columns.T, wide[:, ::2]):
            assert same_bits(np.ascontiguousarray(y), expected)


@each_op
@each_length
@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_block_may_be_far_above_the_others(name, n, which, dtype):
    assert_right_in_every_layout(name, with_dominant_block(n, which, dtype))


@each_op
@each_length
def test_blocks_may_rise_and_fall(name, n):
    x = noise(2 * len(GAPS), n)
    for i, block in enumerate(blocks(n)):
        x[:, block] += i * np.concatenate([GAPS, -np.array(GAPS)])[:, None]
    assert_right_in_every_layout(name, x.astype(np.float32))


@each_op
@each_length
def test_blocks_may_be_nothing_but_minus_infinity(name, n):
    x = np.concatenate([with_dominant_block(n, 1)] * 2)
    for i, row in enumerate(x):
        for k, block in enumerate(blocks(n)):
            if (i + k) % 3 == 0:
                row[block] = -np.inf
    x[5] = -np.inf
    x[5, n - 1] = 7.0
    x[6] = -np.inf
    assert_right_in_every_layout(name, x)


@each_op
@each_length
def test_blocks_may_be_masked(name, n):
    x = with_dominant_block(n, 1)
    keep = np.random.default_rng(n).random(x.shape) < 0.7
    for i, row in enumerate(keep):
        for k, block in enumerate(blocks(n)):
            if (i + k) % 3 == 0:
                row[block] = False
    keep[3] = False
    keep[4] = False
    keep[4, -1] = True
    x[~keep] = np.where(np.arange((~keep).sum()) % 2, np.nan, np.inf)
    assert_right_in_every_layout(name, x, keep)


@each_op
@each_length
@pytest.mark.parametrize("which", [0, 1, -1])
def test_maxima_may_be_far_in_some_blocks(name, n, which):
    """Around 2**13 the frame of a block changes."""
    x = noise(8, n)
    offsets = np.array([8180, 8192, 8200, -8180, -8192, -8200, 16_000, -1e6])[:, None]
    x[:4] += offsets[:4] - [[30], [0], [100], [0]]
    x[4:] += offsets[4:]
    x[:, blocks(n)[which]] += [[30], [1], [100], [60], [15], [13], [-16_000], [1e6]]
    assert_right_in_every_layout(name, x.astype(np.float32))


@each_op
@each_length
@pytest.mark.parametrize("scale", [0.1, -3.0, 1e-3, 0.0])
def test_scaled_blocks_may_be_far_apart(name, n, scale):
    x = with_dominant_block(n, 1)[:-1]
    assert_right_in_every_layout(name, x if scale >= 0 else -x, scale=scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_length
def test_blocks_of_16_bits_may_be_far_apart(dtype, n):
    assert_right_in_every_layout("softmax", with_dominant_block(n, 1).clip(-6e4, 6e4).astype(FLOATS[dtype]))
