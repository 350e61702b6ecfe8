"""Every row length around the sizes of vectors, blocks and chunks."""

import numpy as np
import pytest
from naive import NAMES, assert_right

import numba_softmax as ns

# For a power of two the numbers of rows in a group change; then come the bounds of blocks and of chunks.
BOUNDS = [2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193, 16383, 16384, 16385]
BOUNDS += [57343, 57344, 57345, 65535, 65536, 65537, 131071, 131072, 131073, 262145]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_every_length_up_to_600(name, rows):
    logits = np.random.default_rng(rows).normal(0, 10, (rows, 600)).astype(np.float32)
    for n in range(1, 601):
        x = logits[:, :n].copy()
        assert_right(name, getattr(ns, name)(x), x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", range(1, 18))
def test_every_number_of_tiny_rows(name, n, one_thread):
    """In squares of 16 and strips of 256."""
    logits = np.random.default_rng(n).normal(0, 10, (560, n)).astype(np.float32)
    expected = getattr(ns, name)(logits)
    assert_right(name, expected, logits)
    for rows in range(1, 561):
        np.testing.assert_array_equal(getattr(ns, name)(logits[:rows]), expected[:rows])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [8, 17, 131])
def test_every_length_up_to_70_of_columns(name, columns):
    logits = np.random.default_rng(columns).normal(0, 10, (70, columns)).astype(np.float32)
    for n in range(1, 71):
        assert_right(name, getattr(ns, name)(logits[:n], 0), logits[:n], 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_columns_up_to_300(name):
    logits = np.random.default_rng(7).normal(0, 10, (5, 300)).astype(np.float32)
    for columns in range(1, 301):
        x = logits[:, :columns].copy()
        assert_right(name, getattr(ns, name)(x, 0), x, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", BOUNDS)
def test_lengths_around_the_bounds_of_blocks_and_chunks(name, n, one_thread):
    x = np.random.default_rng(n).normal(0, 10, (2 if n > 8193 else 9, n)).astype(np.float32)
    assert_right(name, getattr(ns, name)(x), x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [131073, 262145])
def test_lengths_around_the_bounds_of_chunks_that_threads_share(name, n):
    x = np.random.default_rng(n).normal(0, 10, (1, n)).astype(np.float32)
    assert_right(name, getattr(ns, name)(x), x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [2047, 2049, 4097, 8191, 8192, 8193, 65535, 65537, 131073])
def test_lengths_around_the_bounds_in_other_layouts(name, n, one_thread):
    x = np.random.default_rng(n).normal(0, 10, (n, 8)).astype(np.float32)
    assert_right(name, getattr(ns, name)(x, 0), x, 0)
    assert_right(name, getattr(ns, name)(x[:, :3], 0), x[:, :3], 0)
