"""A row of attention in one kernel: scores, their softmax, and the mean of values, in a single pass over the keys.

A block has a query. Each of its warps takes every so many keys: its lanes
compute a score together, `jit.push` adds it to the state of the warp, and what
has been summed of the values shrinks as the maximum rises. So no score is ever
written to memory. At the end `jit.block_merge` finds the state of all warps,
against which each scales its sum.

    python docs/examples/fused_attention.py     # needs a GPU and numba-cuda
"""

import math

import numpy as np
from numba import cuda, float32

from numba_softmax import jit

LANES, WARPS = 32, 4
SIZE = 64
"""Numbers in a query, a key and a value: two of each a lane."""

NOTHING = np.float32(-math.inf)


def attention(queries, keys, values, scale, results, lse):
    """``softmax(scale * queries @ keys.T) @ values``, and the logsumexp of each row of scores.

    `queries`, `results` are (m, SIZE), `keys` and `values` (n, SIZE), all float32.
    """
    sums = cuda.shared.array((WARPS, SIZE), float32)
    row, lane, warp = cuda.blockIdx.x, cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
    q, q2 = queries[row, lane] * scale, queries[row, lane + LANES] * scale
    m, l = NOTHING, float32(0)
    total, total2 = float32(0), float32(0)
    for j in range(warp, keys.shape[0], WARPS):
        score = q * keys[j, lane] + q2 * keys[j, lane + LANES]
        for k in range(5):
            score += cuda.shfl_xor_sync(0xFFFFFFFF, score, 16 >> k)
        before = m
        m, l = jit.push(m, l, score)
        shrinkage, weight = math.exp(before - m), math.exp(score - m)
        total = total * shrinkage + weight * values[j, lane]
        total2 = total2 * shrinkage + weight * values[j, lane + LANES]
    # All lanes of a warp have its state: one of them brings it in.
    top, whole = jit.block_merge(m, l if lane == 0 else float32(0))
    share = math.exp(m - top)
    sums[warp, lane], sums[warp, lane + LANES] = total * share, total2 * share
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, SIZE, cuda.blockDim.x):
        result = float32(0)
        for w in range(WARPS):
            result += sums[w, i]
        results[row, i] = result / whole
    if cuda.threadIdx.x == 0:
        lse[row] = jit.lse(top, whole)


def launch(queries, keys, values):
    """Attention of NumPy arrays on a GPU: the results, and the logsumexp of each row of scores."""
    results, lse = cuda.device_array(queries.shape, np.float32), cuda.device_array(len(queries), np.float32)
    scale = np.float32(1 / math.sqrt(SIZE))
    cuda.jit(attention)[len(queries), LANES * WARPS](*map(cuda.to_device, (queries, keys, values)), scale, results, lse)
    return results.copy_to_host(), lse.copy_to_host()


def reference(queries, keys, values):
    """The same in float64 by NumPy."""
    scores = queries.astype(float) @ keys.T.astype(float) / math.sqrt(SIZE)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    total = weights.sum(axis=1)
    return weights @ values.astype(float) / total[:, None], np.log(total) + scores.max(axis=1)


def sample(queries, keys, seed=0):
    """Normal numbers: queries, keys and values."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (count, SIZE)).astype(np.float32) for count in (queries, keys, keys)]


def main():
    """Compare with NumPy, if there is a GPU."""
    if not cuda.is_available():
        print("there is no GPU: tests/test_examples.py runs this kernel in an interpreter")
        return
    arrays = sample(1024, 4096)
    for name, got, want in zip(("results", "lse"), launch(*arrays), reference(*arrays), strict=True):
        print(f"{name}: largest error {abs(got - want).max():.1e}")


if __name__ == "__main__":
    main()
