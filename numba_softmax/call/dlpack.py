"""Arrays exchanged by DLPack: capsules read, and NumPy arrays made. Layouts of dlpack.h, versions 0 and 1."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .arguments import dtype_called
from .layout import strides_in_c_order
from .memory import stand_in

CUDA_DEVICES = (2, 13)
"""The numbers of the devices kDLCUDA and kDLCUDAManaged."""

HOST_DEVICES = (1, 3, 11)
"""The numbers of the devices kDLCPU, kDLCUDAHost and kDLROCMHost."""

_READ_ONLY = 1
_BFLOAT = 4
_KINDS = {0: "int", 1: "uint", 2: "float", _BFLOAT: "bfloat", 5: "complex", 6: "bool"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_api = ctypes.pythonapi
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))


def capsule_of(array: Any, stream: int | None) -> Any:
    """An array's capsule, with its memory ready for work queued in `stream` from now on; None in host memory.

    It is never marked as used, so the array is borrowed until the capsule is deleted.
    """
    try:
        return array.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # a library older than DLPack's versions
        return array.__dlpack__(stream=stream)


def read(
    capsule: Any, name: str, *, writeable: bool
) -> tuple[int, tuple[int, ...], np.dtype, tuple[int, ...], bool, int]:
    """The address, shape, dtype, strides in bytes, a bool for writeable, and the device's number.

    `writeable` is assumed for capsules of version 0, which do not say it. `name` is
    used in error messages.
    """
    managed = _managed(capsule, name)
    if isinstance(managed, _ManagedVersioned):
        writeable = not managed.flags & _READ_ONLY
    tensor = managed.tensor
    dtype = _dtype(tensor.code, tensor.bits, tensor.lanes, name)
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim])
    else:
        strides = strides_in_c_order(shape, dtype.itemsize)
    return (tensor.data or 0) + tensor.byte_offset, shape, dtype, strides, writeable, tensor.device_id


class NoCapsuleError(TypeError):
    """An array that its library does not hand over."""


def as_numpy(array: Any, name: str, *, writeable: bool) -> np.ndarray:
    """An array in host memory as one of NumPy's, in the same memory; `read` has the other arguments."""
    try:
        capsule = capsule_of(array, None)
    except Exception as error:  # of any library
        raise NoCapsuleError(f"{name} cannot be read by DLPack: {error}") from None
    device = _managed(capsule, name).tensor.device_type
    if device not in HOST_DEVICES:
        raise TypeError(f"{name} lies on a device of DLPack's kind {device}: pass an array in host memory, or on a GPU")
    address, shape, dtype, strides, writeable, _ = read(capsule, name, writeable=writeable)
    return stand_in(address, shape, dtype, strides, writeable, capsule)


class Bfloat16:
    """An array of NumPy's in bfloat16, which NumPy itself does not hand over by DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self._bits = array.view(np.uint16)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._bits.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._bits.__dlpack__(**options)
        _managed(capsule, "an array").tensor.code = _BFLOAT
        return capsule


def _managed(capsule: Any, name: str) -> _Managed | _ManagedVersioned:
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _ManagedVersioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:  # the fields after the version may lie elsewhere
            raise TypeError(f"{name} speaks version {managed.major} of DLPack: this package knows versions 0 and 1")
        return managed
    return _Managed.from_address(_pointer(capsule, b"dltensor"))


def _dtype(code: int, bits: int, lanes: int, name: str) -> np.dtype:
    kind = _KINDS.get(code)
    if lanes != 1 or kind is None:
        raise TypeError(f"{name} has elements of DLPack type ({code}, {bits}, {lanes}), which cannot be computed with")
    return dtype_called(kind if kind == "bool" else f"{kind}{bits}", name)
