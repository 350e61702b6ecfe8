"""The CUDA backend: to be replaced by the one with kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...arrays import Layout
from ...ops import Op
from .driver import CudaError

__all__ = ["starter", "warm"]


def starter(op: Op, layout: Layout) -> Callable[[int, int, int, float | None, Any], None]:
    raise CudaError("this version has no CUDA kernels")


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Callable]]:
    raise CudaError("this version has no CUDA kernels")
