"""Compile-time errors for jitted code that calls a public function: each names the function to call instead.

Numba's own error for a plain Python function does not name one; an overload that raises replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core.errors import TypingError
from numba.extending import overload

from . import api
from .streaming import states

INSTEAD: dict[Callable[..., Any], str] = {
    api.softmax: "call numba_softmax.jit.softmax",
    api.log_softmax: "call numba_softmax.jit.log_softmax",
    api.logsumexp: "call numba_softmax.jit.logsumexp",
    api.warmup: "leave it out, and call it before",
    states.OnlineSoftmax: "call push, merge and lse of numba_softmax.jit",
}


def register() -> None:
    """Register the overloads that raise these errors; nothing is compiled."""
    for function, instead in INSTEAD.items():
        overload(function)(_refusal(f"numba_softmax.{function.__name__} is for Python code: in jitted code, {instead}"))


def _refusal(text: str) -> Callable[..., Any]:
    def refused(*args: Any, **options: Any) -> Any:
        raise TypingError(text)

    return refused
