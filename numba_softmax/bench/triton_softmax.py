"""Softmax in Triton, for comparison: each program has a row in its registers, as in Triton's tutorial.

It is a module of its own, since Triton reads a kernel from its source file.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

MOST = 1 << 16
"""Elements of the longest row: a thread block has that many registers."""


@triton.jit
def _softmax(y, x, n, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    at = tl.arange(0, SIZE)
    v = tl.load(x + row + at, mask=at < n, other=-float("inf"))
    if v.dtype != tl.float64:
        v = v.to(tl.float32)
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(y + row + at, (e / tl.sum(e, axis=0)).to(y.dtype.element_ty), mask=at < n)


def softmax(x: Any, out: Any) -> None:
    """Softmax along the last axis of tensors in C order; a warp for each 512 elements of a row."""
    n = x.shape[-1]
    size = triton.next_power_of_2(n)
    _softmax[(x.numel() // n,)](out, x, n, SIZE=size, num_warps=min(32, max(1, size // 512)))
