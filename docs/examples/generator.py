"""Softmax over a generator of blocks that are never in memory together.

A first pass folds the blocks into a state of two numbers a row. A second pass
makes the blocks again and normalizes each under the final state. The blocks
here are logits of many classes, computed from a few features; of the results
only what is asked for is kept.

    python docs/examples/generator.py
"""

import numpy as np

import numba_softmax as ns

ROWS, FEATURES, CLASSES, BLOCK = 4, 16, 1_000_000, 50_000


def logits(seed=0):
    """Yield the scores of all classes in blocks of columns, the same ones at each call."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((ROWS, FEATURES), np.float32)
    for _ in range(0, CLASSES, BLOCK):
        yield features @ rng.standard_normal((FEATURES, BLOCK), np.float32)


def softmax_of(make_blocks):
    """Yield the softmax over all blocks, in blocks; `make_blocks` is called twice."""
    state = None
    for block in make_blocks():
        if state is None:
            state = ns.OnlineSoftmax(block.shape[:-1], block.dtype)
        state.update(block)
    for block in make_blocks():
        yield state.normalize(block, out=block)


def most_likely(probability_blocks):
    """The most likely class of each row, its probability, and the sum of all."""
    best, at, total, begin = 0.0, 0, 0.0, 0
    for p in probability_blocks:
        top = p.max(axis=-1)
        at = np.where(top > best, begin + p.argmax(axis=-1), at)
        best = np.maximum(best, top)
        total = total + p.sum(axis=-1, dtype=np.float64)
        begin += p.shape[-1]
    return at, best, total


def main():
    """Print the most likely class of each row."""
    for at, best, total in zip(*most_likely(softmax_of(logits)), strict=True):
        print(f"class {at} with probability {best:.3g}; all sum to {total:.7f}")


if __name__ == "__main__":
    main()
