"""softmax, log_softmax and logsumexp of one row, in jitted code and from Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, int64, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from ..backends.cpu.basics import inlined, jit, release
from ..backends.spec import Spec
from ..math.lanewise import NEEDS_COMPILER
from ..math.memory import Stored, load, store
from .kernels import contiguous_row, spec_of, strided_row, words_on_stack

_FLOATS = (float32, float64)

overload_on_cpu = functools.partial(overload, target="cpu", jit_options={"error_model": "numpy", "fastmath": False})
"""`overload` for jitted code of the CPU; the caller's compiler options must not change the bits."""


def check_numbers(name: str, array: Any) -> None:
    """Refuse, while a caller is compiled, anything but an array of numbers that can be computed with."""
    if not isinstance(array, types.Array):
        raise TypingError(f"{name} must be an array, not {array}")
    known = array.dtype in _FLOATS or isinstance(array.dtype, (types.Integer, types.Boolean))
    if not known:
        raise TypingError(f"{name} has dtype {array.dtype}: it must be float32, float64, an integer or bool")


def check_row(name: str, array: Any) -> None:
    """Refuse arrays that do not have exactly one dimension."""
    if isinstance(array, types.Array) and array.ndim != 1:
        raise TypingError(f"{name} must have one dimension, not {array.ndim}: pass it row by row")


def check_out(out: Any) -> None:
    """Refuse anything that results cannot be written to."""
    if not isinstance(out, types.Array):
        raise TypingError(f"out must be an array, not {out}")
    if out.dtype not in _FLOATS:
        raise TypingError(f"out has dtype {out.dtype}: it must be float32 or float64")
    if not out.mutable:
        raise TypingError("out is read-only: pass an array that can be written to")


def float_of(x: types.Array) -> Any:
    """The dtype of a result: float32 for float32, else float64."""
    return float32 if x.dtype == float32 else float64


@intrinsic
def address_of(typingctx, array):
    """The address of the first element; ``array.ctypes`` would count references, atomically."""

    def generate(context, builder, sig, args):
        view = context.make_array(sig.args[0])(context, builder, args[0])
        return builder.ptrtoint(view.data, context.get_value_type(sig.return_type))

    return int64(array), generate


@inlined
def ends(first, step, n, size):
    """The addresses at which the memory of a row begins and ends, from that of its first element."""
    reach = step * (n - 1)
    return first + min(reach, 0), first + max(reach, 0) + size


@jit
def would_change(x, x_step, x_size, y, y_step, y_size, n):
    """True if writing a result may change an element that is still to be read.

    This includes rows that interleave, but not a result in the very place of its element.
    """
    if n == 0 or (x == y and x_step == y_step and x_size == y_size):
        return False
    x_begin, x_end = ends(x, x_step, n, x_size)
    y_begin, y_end = ends(y, y_step, n, y_size)
    return x_begin < y_end and y_begin < x_end


@functools.cache
def row_at_address(spec: Spec, contiguous: bool) -> Callable:
    """``f(x, x_step, y, y_step, n)``: computes a row, `contiguous` or with any strides."""
    of_neighbours, strided = contiguous_row(spec), None if contiguous else strided_row(spec)
    (x_size, y_size), reduces = spec.sizes, spec.op.reduces

    if contiguous:

        @jit
        def row(x, x_step, y, y_step, n):
            of_neighbours(x, y, n)
    else:

        @jit
        def row(x, x_step, y, y_step, n):
            if x_step == x_size and (reduces or y_step == y_size):
                of_neighbours(x, y, n)
            else:
                strided(x, x_step, y, y_step, n)

    return row


@functools.cache
def make_writer(spec: Spec, contiguous: bool, contiguous_out: bool) -> Callable:
    """``f(x, x_step, n, y, y_step, y_n)``: computes a row that may overlap its results; `y_n` must equal `n`.

    It takes addresses: each mention of an array by `softmax` and the other functions can
    cost two atomic additions, and a short row takes no longer than ten of these.
    """
    row, row_of_copy = row_at_address(spec, contiguous), row_at_address(spec, contiguous_out)
    x_size, y_size = spec.sizes
    raw, integer = Stored(f"int{8 * x_size}"), types.Integer.from_bitwidth(8 * x_size)

    @jit
    def write_from_copy(x, x_step, n, y, y_step):
        copy = np.empty(n * x_size, np.uint8)
        address = int64(copy.ctypes.data)
        for i in range(n):
            store(raw, address + i * x_size, load(integer, raw, x + i * x_step))
        row_of_copy(address, x_size, y, y_step, n)
        release(copy)

    @jit
    def write(x, x_step, n, y, y_step, y_n):
        if n != y_n:
            raise ValueError("out must have the shape of x")
        if would_change(x, x_step, x_size, y, y_step, y_size, n):
            write_from_copy(x, x_step, n, y, y_step)
        elif n:
            row(x, x_step, y, y_step, n)

    return write


def _writes_to_out(name: str) -> Callable:
    """The function that `softmax` and `log_softmax` call: typed and compiled for the types of its arrays."""

    def stub(x, out):
        raise NotImplementedError(NEEDS_COMPILER)

    stub.__name__ = stub.__qualname__ = name  # for errors

    @overload_on_cpu(stub)
    def implement(x, out):
        check_row("x", x)
        check_numbers("x", x)
        check_row("out", out)
        check_out(out)
        contiguous_out = out.layout == "C"
        spec = spec_of(name, x.dtype.name, out.dtype.name)
        write = make_writer(spec, contiguous_out and x.layout == "C", contiguous_out)

        def compute(x, out):
            write(address_of(x), x.strides[0], x.size, address_of(out), out.strides[0], out.size)
            return out

        return compute

    return stub


def _gives_a_number() -> Callable:
    """The function that `logsumexp` calls."""

    def stub(x):
        raise NotImplementedError(NEEDS_COMPILER)

    stub.__name__ = stub.__qualname__ = "logsumexp"

    @overload_on_cpu(stub)
    def implement(x):
        check_row("x", x)
        check_numbers("x", x)
        number = float_of(x)
        row = row_at_address(spec_of("logsumexp", x.dtype.name, number.name), x.layout == "C")
        y_format = Stored(number.name)

        def compute(x):
            y = words_on_stack((0,))
            row(address_of(x), x.strides[0], y, 0, x.size)
            return load(number, y_format, y)

        return compute

    return stub


_softmax, _log_softmax, _logsumexp = _writes_to_out("softmax"), _writes_to_out("log_softmax"), _gives_a_number()


@njit(nogil=True)
def softmax(x, out):
    """Softmax of a row: ``exp(x)`` over its sum, written to `out`.

    Parameters
    ----------
    x : ndarray
        One-dimensional, with any stride: float32, float64, integers or bool.
    out : ndarray
        Of the shape of `x`, with any stride: float32 or float64. It may be `x`
        itself. Where it overlaps `x` otherwise, elements are copied first.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    ValueError
        `out` has another shape than `x`. Nothing has been written then. (Numba
        loses or garbles exceptions inside ``prange``.)
    numba.core.errors.TypingError
        An argument is of an unsupported type; raised while the caller is compiled.

    Notes
    -----
    The bits are those of `numba_softmax.softmax`, and so is what NaN, infinities
    and empty rows give. It computes in the calling thread, whatever the options
    of the calling function, ``fastmath`` too. It may leave the processor's flag of
    invalid operations set, which NumPy reads after its loops: so in functions under
    ``@vectorize`` and ``@guvectorize``, silence it by ``np.errstate(invalid="ignore")``.
    Of rows of
    some tens of elements, the call itself is the larger part; where many of them
    lie in one array, one call of `numba_softmax.softmax` is faster.

    Examples
    --------
    >>> import numba, numpy as np
    >>> from numba_softmax import jit
    >>> @numba.njit
    ... def of_rows(x):
    ...     y = np.empty_like(x)
    ...     for i in range(len(x)):
    ...         jit.softmax(x[i], y[i])
    ...     return y
    >>> of_rows(np.array([[0.0, 1.0], [3.0, 3.0]])).round(4)
    array([[0.2689, 0.7311],
           [0.5   , 0.5   ]])
    """
    return _softmax(x, out)


@njit(nogil=True)
def log_softmax(x, out):
    """Logarithm of the softmax of a row, written to `out`.

    Parameters
    ----------
    x, out : ndarray
        As for `softmax`.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    ValueError, numba.core.errors.TypingError
        As for `softmax`.

    Notes
    -----
    The bits are those of `numba_softmax.log_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from numba_softmax import jit
    >>> x = np.array([0.0, -40.0])
    >>> jit.log_softmax(x, x)  # in place, and from Python
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _log_softmax(x, out)


@njit(nogil=True)
def logsumexp(x):
    """``log(sum(exp(x)))`` of a row, without overflow.

    Parameters
    ----------
    x : ndarray
        As for `softmax`.

    Returns
    -------
    float
        float32 for float32, else float64. Of no elements it is -inf.

    Raises
    ------
    numba.core.errors.TypingError
        As for `softmax`.

    Notes
    -----
    The bits are those of `numba_softmax.logsumexp`.

    Examples
    --------
    >>> import numba, numpy as np
    >>> from numba_softmax import jit
    >>> @numba.njit
    ... def perplexity(x, target):
    ...     return np.exp(jit.logsumexp(x) - x[target])
    >>> round(perplexity(np.array([2.0, 2.0, 2.0]), 1), 12)
    3.0
    """
    return _logsumexp(x)
