"""Names that the commands have in common, and the error that ends one of them."""

from __future__ import annotations

NAME = "numba-softmax"

DTYPES = ("float32", "float16", "bfloat16", "float64")
"""The dtypes that have kernels of their own."""


class UserError(Exception):
    """An error that the user can correct; its text is one line that says what is wrong."""
