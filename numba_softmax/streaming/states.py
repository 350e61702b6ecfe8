"""`OnlineSoftmax`: the states of many rows as an object for users, with its arguments checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..call.adapters import adapter_for
from ..call.arguments import as_axes, as_elements, as_float, as_scale, as_shape, check_maxima
from ..call.host_libraries import is_foreign
from ..call.row_states import FLOAT64, Block, RowStates
from ..ops import OPS


class OnlineSoftmax:
    """The running softmax of many rows, whose elements come block by block.

    What there is to know of the elements so far is, for each row, their maximum
    ``m`` and the sum ``l`` of ``exp(x - m)``. `update` folds more elements into
    them, `merge` joins the states of other elements of the same rows, and in the
    end `normalize` gives softmax, block by block, and `lse` the logarithm of the
    sum of the exponentials. The order and the sizes of blocks do not matter.

    Parameters
    ----------
    shape : int or tuple of int
        Of the rows: that of a block without the axis that is reduced; ``()``
        for a single row.
    dtype : dtype
        Of the blocks, and of the results if nothing else is asked for: float16,
        bfloat16, float32 or float64. The state is kept in float64, 16 bytes a
        row; for float64 in 24.
    scale : float, optional
        Multiplies the elements, exactly and without a copy, as in `softmax`: the
        state is that of ``scale * x``. `m` is still one of `x`: ``l`` is the sum
        of ``exp(scale * (x - m))``, and `lse` is ``scale * m + log(l)``.
    like : array, optional
        An array where the state is to be. On a GPU, what is read of the state is of
        its library. In host memory, where the state is by default, it is NumPy's.

    Raises
    ------
    TypeError
        `dtype` is none of these, `scale` is no real number, or `like` is no array
        on a GPU or in host memory.
    ValueError
        `shape` has a negative number, or `scale` is not finite.

    Notes
    -----
    In any split of a row into blocks, with any grouping of merges, softmax is
    within 2 units in the last place in float32, 4 in float64 and 0.51 in 16
    bits. A new state is that of no elements, ``(-inf, 0)``: merging it changes
    nothing. A row with NaN or +inf, or of nothing but -inf, gives NaN as
    `softmax` has it. Method: M. Milakov and N. Gimelshein, *Online normalizer
    calculation for softmax*, arXiv:1805.02867.

    Every method checks its arguments before it changes anything. A state is not
    to be changed by two threads at once. Work on a GPU is queued as it is by
    `softmax`, in the stream that the block's library uses.

    Examples
    --------
    >>> import numpy as np, numba_softmax as ns
    >>> x = np.array([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]], np.float32)
    >>> state = ns.OnlineSoftmax(2)
    >>> state.update(x[:, :1]).update(x[:, 1:])
    OnlineSoftmax(shape=(2,), dtype=float32)
    >>> state.m, state.l.round(4)
    (array([3., 5.], dtype=float32), array([1.553, 4.   ]))
    >>> state.normalize(x[:, 2:]).round(4)
    array([[0.2369, 0.6439],
           [0.25  , 0.25  ]], dtype=float32)
    >>> ns.OnlineSoftmax(2, scale=-0.5).update(x).normalize(x[:, 2:]).round(4)
    array([[0.1674, 0.1015],
           [0.25  , 0.25  ]], dtype=float32)
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike = np.float32,
        *,
        scale: float | None = None,
        like: Any = None,
    ) -> None:
        like = np.empty(0) if like is None else like
        adapter = adapter_for(like, "like")
        if adapter.backend_name is None and not (isinstance(like, np.ndarray) or is_foreign(like)):
            raise TypeError(f"like is a {type(like).__name__}: it must be an array, in host memory or on a GPU")
        self._rows = RowStates(OPS["softmax"], as_shape(shape), as_float(dtype), as_scale(scale), adapter)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return self._rows.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the blocks."""
        return self._rows.dtype

    @property
    def scale(self) -> float:
        """The factor of the elements; 1.0 where none was given."""
        return 1.0 if self._rows.scale is None else self._rows.scale

    def update(self, block: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None) -> OnlineSoftmax:
        """Fold more elements of the rows into the state.

        Parameters
        ----------
        block : array
            The next elements, in any number, also none, and in any memory layout;
            of the state's dtype, on its device. Lists and numbers are converted.
        axis : int, tuple of int or None
            Along which they are; the other axes are those of the state.
        where : array of bool, optional
            Which elements take part, broadcast to the shape of `block`.

        Returns
        -------
        OnlineSoftmax
            The state itself.

        Raises
        ------
        TypeError
            `block` has another dtype than the state, or lies elsewhere.
        ValueError
            `block` has rows of another shape, or `where` does not broadcast.
        numpy.exceptions.AxisError
            `axis` is out of range.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> state = ns.OnlineSoftmax(())
        >>> state.update([1.0, 2.0, 50.0], where=[True, True, False]).lse
        np.float32(2.3132617)
        """
        self._rows.fold(self._checked(block, axis, where))
        return self

    def merge(self, other: OnlineSoftmax) -> OnlineSoftmax:
        """Join a state of other elements of the same rows, which is left as it is.

        Parameters
        ----------
        other : OnlineSoftmax
            Of the same shape, dtype and scale, on the same device.

        Returns
        -------
        OnlineSoftmax
            The state itself.

        Raises
        ------
        TypeError
            `other` is no such state, or one for another dtype or device.
        ValueError
            `other` has rows of another shape, or another scale.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> a, b = ns.OnlineSoftmax(()).update([1.0, 2.0]), ns.OnlineSoftmax(()).update([3.0])
        >>> a.merge(b).lse
        np.float32(3.407606)
        """
        if not isinstance(other, OnlineSoftmax):
            raise TypeError(f"other is a {type(other).__name__}: it must be an OnlineSoftmax")
        if other.dtype != self.dtype:
            raise TypeError(f"other is for {other.dtype}, but the state for {self.dtype}: make both for one dtype")
        if other.shape != self.shape:
            raise ValueError(f"other has rows of shape {other.shape}, but the state has rows of shape {self.shape}")
        if other.scale != self.scale:
            raise ValueError(f"other has scale {other.scale}, but the state has scale {self.scale}: make both with one")
        self._check_device(other._rows.device, "other")
        self._rows.merge(other._rows)
        return self

    @property
    def m(self) -> Any:
        """The maximum of each row, NaN apart, in the state's dtype; -inf of no elements.

        Under a negative scale it is the minimum, whose multiple is the largest; inf of no elements. Scales up to 1
        cost a subnormal maximum its last bit.
        """
        return self._rows.number(0, self.dtype)

    @property
    def l(self) -> Any:  # noqa: E743
        """The sum of ``exp(scale * (x - m))`` of each row, in float64; 0 of no elements."""
        return self._rows.sums()

    @property
    def lse(self) -> Any:
        """``scale * m + log(l)`` of each row, its `logsumexp`, in the state's dtype; -inf of no elements."""
        return self._rows.read(OPS["logsumexp"], self.dtype)

    def normalize(self, block: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None, out: Any = None) -> Any:
        """Softmax of elements of the rows: ``exp(scale * (x - m)) / l``.

        Parameters
        ----------
        block : array
            Elements that the state has seen; of others that are larger than `m`
            (times the scale), the results are not defined. As for `update`.
        axis, where
            As for `update`; elements that are left out give 0.
        out : array, optional
            Where to write the result: a float array of the shape of `block`, which
            it may be itself. In float64 it is no more exact than the state's dtype.

        Returns
        -------
        array
            Of the shape of `block`, in its library.

        Raises
        ------
        TypeError, ValueError, numpy.exceptions.AxisError
            As for `update`; and for an `out` that cannot be written to, or is of
            another shape.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> state = ns.OnlineSoftmax(()).update([0.0, 1.0]).update([2.0])
        >>> state.normalize([2.0, 1.0, 0.0]).round(4)
        array([0.6652, 0.2447, 0.09  ], dtype=float32)
        """
        return self._rows.finish(OPS["softmax"], self._checked(block, axis, where), out)

    def log_normalize(
        self, block: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None, out: Any = None
    ) -> Any:
        """The logarithm of softmax of elements of the rows: ``scale * (x - m) - log(l)``.

        Parameters
        ----------
        block, axis, where, out
            As for `normalize`; elements that are left out give -inf.

        Returns
        -------
        array
            Of the shape of `block`, in its library.

        Raises
        ------
        TypeError, ValueError, numpy.exceptions.AxisError
            As for `normalize`.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> ns.OnlineSoftmax(()).update([0.0, 1.0]).log_normalize([0.0, 1.0]).round(4)
        array([-1.3133, -0.3133], dtype=float32)
        """
        return self._rows.finish(OPS["log_softmax"], self._checked(block, axis, where), out)

    def copy(self) -> OnlineSoftmax:
        """A state of its own with the same numbers and the same scale.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> state = ns.OnlineSoftmax(()).update([1.0])
        >>> with_more = state.copy().update([5.0])
        >>> float(state.m), float(with_more.m)
        (1.0, 5.0)
        """
        copy = type(self)(self.shape, self.dtype, scale=self.scale, like=self._rows.numbers)
        return copy.merge(self)  # with no elements: the bits stay

    def to_arrays(self) -> dict[str, Any]:
        """The numbers of the state, for `from_arrays`: as they are to be stored, or sent to other processes.

        Returns
        -------
        dict of str to array
            ``m`` and ``rest``, which is ``l - 1``: the sum without the maximum's
            own term; of a float64 state also ``rest_lo``, what ``rest`` has lost
            to rounding. All are float64, of the state's shape. `scale` is not among
            them: give it to `from_arrays` again.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> ns.OnlineSoftmax(2).update([[1.0, 1.0], [3.0, 2.0]]).to_arrays()
        {'m': array([1., 3.]), 'rest': array([1.        , 0.36787944])}
        """
        names = ("m", "rest", "rest_lo")[: self._rows.count]
        return {name: self._rows.number(k) for k, name in enumerate(names)}

    @classmethod
    def from_arrays(
        cls, m: Any, rest: Any, rest_lo: Any = None, *, dtype: DTypeLike = np.float32, scale: float | None = None
    ) -> OnlineSoftmax:
        """The state with these numbers, as `to_arrays` gives them.

        Parameters
        ----------
        m, rest : array of float64
            `m`, and ``l - 1``: -inf (inf under a negative scale) and -1 of no elements.
        rest_lo : array of float64, optional
            For float64 states: what is to be added to `rest`; 0 by default.
        dtype, scale
            As for the class.

        Returns
        -------
        OnlineSoftmax
            On the device of the arrays.

        Raises
        ------
        TypeError
            An array is not of float64, or lies elsewhere than `m`, or `rest_lo` is
            given for another dtype; `dtype` or `scale` as for the class.
        ValueError
            The arrays differ in shape, `scale` is not finite; or, in host memory,
            `m` has a number that `dtype` cannot hold.

        Examples
        --------
        >>> import numba_softmax as ns
        >>> state = ns.OnlineSoftmax(3).update([[1.0, 2.0]] * 3)
        >>> bool((ns.OnlineSoftmax.from_arrays(**state.to_arrays()).lse == state.lse).all())
        True
        """
        dtype = as_float(dtype)
        if rest_lo is not None and dtype != FLOAT64:
            raise TypeError(f"rest_lo is for float64, and dtype is {dtype}: leave it out, or pass dtype=float64")
        numbers = {"m": m, "rest": rest} | ({} if rest_lo is None else {"rest_lo": rest_lo})
        adapters = {name: adapter_for(array, name) for name, array in numbers.items()}
        of_m = adapters["m"]
        for name, adapter in adapters.items():
            if adapter.x.dtype != FLOAT64:
                raise TypeError(f"{name} has dtype {adapter.x.dtype}: it must be native float64, as to_arrays gives it")
            if adapter.x.shape != of_m.x.shape:
                shape, shape_of_m = tuple(adapter.x.shape), tuple(of_m.x.shape)
                raise ValueError(f"{name} has shape {shape}, but m has shape {shape_of_m}")
            if adapter.device != of_m.device:
                raise TypeError(f"{name} is in {adapter.device}, but m in {of_m.device}: move one of them")
        if of_m.backend_name is None:
            check_maxima(of_m.x.array, dtype)
        state = cls(tuple(of_m.x.shape), dtype, scale=scale, like=of_m.x.array)
        for k, adapter in enumerate(adapters.values()):
            state._rows.set_number(k, adapter)
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.to_arrays(), self.dtype, self.scale)

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f", scale={self.scale}"
        return f"OnlineSoftmax(shape={self.shape}, dtype={self.dtype}{scale})"

    def _checked(self, block: Any, axis: Any, where: Any) -> Block:
        """A block with arguments that fit the state."""
        if isinstance(block, (list, tuple, int, float)):
            block = as_elements(block, self.dtype)
        adapter = adapter_for(block, "block")
        x = adapter.x
        if 0 not in x.shape:  # an array without elements may lie nowhere
            self._check_device(adapter.device, "block")
        if x.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(f"block has dtype {x.dtype}, but the state is for {self.dtype}: convert one of them")
        axes = as_axes(axis, len(x.shape))
        rows = tuple(size for i, size in enumerate(x.shape) if i not in axes)
        if rows != self.shape:
            raise ValueError(
                f"block has shape {tuple(x.shape)}, with rows of shape {rows} along axis {axis}, "
                f"but the state has rows of shape {self.shape}"
            )
        return Block(adapter, axes, where)

    def _check_device(self, device: str, name: str) -> None:
        if device != self._rows.device:
            raise TypeError(f"{name} is in {device}, but the state in {self._rows.device}: move one, or see like=")


def _restored(kind: type[OnlineSoftmax], numbers: dict[str, Any], dtype: np.dtype, scale: float) -> OnlineSoftmax:
    """A state from a pickle."""
    return kind.from_arrays(**numbers, dtype=dtype, scale=scale)
