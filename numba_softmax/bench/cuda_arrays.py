"""Arrays on a GPU, made by the first of PyTorch, CuPy and Numba that is installed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..call.arguments import as_dtype
from .optional import UnmeasurableError, optional

SPREAD = 3.0
"""The standard deviation of the elements."""

SEED = 11

BLOCK = 1 << 22
"""Random elements that are made in host memory, and repeated, for a library without a generator."""

INDEX = tuple[np.ndarray, ...]


class Maker(ABC):
    """A library that makes arrays on the current GPU, in C order."""

    name: str

    @abstractmethod
    def normal(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Normally distributed elements with mean 0 and standard deviation `SPREAD`."""

    @abstractmethod
    def mask(self, shape: tuple[int, ...], share: float) -> Any:
        """Random booleans, of which about `share` are true."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array whose elements are arbitrary."""

    @abstractmethod
    def spoil(self, array: Any) -> None:
        """Fill an array of floats with NaN."""

    @abstractmethod
    def rows(self, array: Any, axis: int, index: INDEX) -> np.ndarray:
        """Some rows, copied to host memory; `index` selects them along the other axes."""

    @abstractmethod
    def values(self, array: Any, index: INDEX) -> np.ndarray:
        """Some elements, copied to host memory."""

    @abstractmethod
    def tidy(self) -> None:
        """Free the memory that the library keeps of deleted arrays."""


class Torch(Maker):
    """PyTorch."""

    name = "torch"

    def __init__(self, torch: Any, device: str = "cuda") -> None:
        self._torch, self._device = torch, device
        self._generator = torch.Generator(device).manual_seed(SEED)

    def normal(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.empty(shape, dtype).normal_(0, SPREAD, generator=self._generator)

    def mask(self, shape: tuple[int, ...], share: float) -> Any:
        return self._torch.rand(shape, device=self._device, generator=self._generator) < share

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self._device)

    def spoil(self, array: Any) -> None:
        array.fill_(math.nan)

    def rows(self, array: Any, axis: int, index: INDEX) -> np.ndarray:
        return self.values(array.movedim(axis, -1), index)

    def values(self, array: Any, index: INDEX) -> np.ndarray:
        some = array[tuple(self._torch.from_numpy(i).to(self._device) for i in index)].cpu()
        if some.dtype == self._torch.bfloat16:  # NumPy knows it by another name
            return some.view(self._torch.int16).numpy().view(as_dtype("bfloat16"))
        return some.numpy()

    def tidy(self) -> None:
        self._torch.cuda.empty_cache()


class CuPy(Maker):
    """CuPy."""

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._generator = cupy.random.default_rng(SEED)

    def normal(self, shape: tuple[int, ...], dtype: str) -> Any:
        wanted = as_dtype(dtype)
        made = self._generator.standard_normal(shape, dtype=np.float64 if wanted == np.float64 else np.float32)
        made *= SPREAD
        return made.astype(wanted, copy=False)

    def mask(self, shape: tuple[int, ...], share: float) -> Any:
        return self._generator.random(shape, dtype=np.float32) < share

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._cupy.empty(shape, as_dtype(dtype))

    def spoil(self, array: Any) -> None:
        array.fill(math.nan)

    def rows(self, array: Any, axis: int, index: INDEX) -> np.ndarray:
        return self.values(self._cupy.moveaxis(array, axis, -1), index)

    def values(self, array: Any, index: INDEX) -> np.ndarray:
        return array[tuple(map(self._cupy.asarray, index))].get()

    def tidy(self) -> None:
        self._cupy.get_default_memory_pool().free_all_blocks()


class Numba(Maker):
    """Numba's device arrays, whose elements come from host memory."""

    name = "numba"

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._block = np.random.default_rng(SEED).standard_normal(BLOCK, np.float32) * SPREAD

    def normal(self, shape: tuple[int, ...], dtype: str) -> Any:
        return on_device(self._cuda, np.resize(self._block.astype(as_dtype(dtype)), shape))

    def mask(self, shape: tuple[int, ...], share: float) -> Any:
        return self._cuda.to_device(np.resize(np.random.default_rng(SEED).random(BLOCK) < share, shape))

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._cuda.device_array(shape, as_dtype(dtype))

    def spoil(self, array: Any) -> None:
        bits = f"u{array.dtype.itemsize}"
        array.view(bits).copy_to_device(np.full(array.shape, math.nan, array.dtype).view(bits))

    def rows(self, array: Any, axis: int, index: INDEX) -> np.ndarray:
        return np.moveaxis(array.copy_to_host(), axis, -1)[index]

    def values(self, array: Any, index: INDEX) -> np.ndarray:
        return array.copy_to_host()[index]

    def tidy(self) -> None:
        self._cuda.current_context().deallocations.clear()


def on_device(cuda: Any, array: np.ndarray) -> Any:
    """A device array of Numba with the elements of an array in host memory.

    It is copied as integers: Numba reads it by the buffer protocol, which has no
    format for bfloat16.
    """
    return cuda.to_device(array.view(f"u{array.itemsize}")).view(array.dtype)


def maker() -> Maker:
    """The first of the libraries that is installed and finds a GPU."""
    torch, cupy, cuda = optional("torch"), optional("cupy"), optional("numba.cuda")
    if torch and torch.cuda.is_available():
        return Torch(torch)
    if cupy and cupy.is_available():
        return CuPy(cupy)
    if cuda and cuda.is_available():
        return Numba(cuda)
    raise UnmeasurableError(
        "bench --device cuda makes its arrays with PyTorch, CuPy or Numba, and none of them finds a GPU: "
        "install torch, or cupy-cuda13x (cupy-cuda12x for CUDA 12), built for the CUDA of the driver"
    )
