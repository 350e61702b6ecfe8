"""The packages that CUDA needs, and the error that names the one that is missing, or the two that are incompatible."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ... import kernel_code

kernel_code.register()

INSTALL = "pip install 'numba-softmax[cu13]', or [cu12] for a driver of CUDA 12"

_PACKAGES = {  # by module, where the package has another name
    "numba.cuda": "numba-cuda",
    "numba_cuda": "numba-cuda",
    "numba_softmax": "numba-softmax",
    "cuda": "cuda-bindings",
    "cuda.bindings": "cuda-bindings",
    "cuda.core": "cuda-core",
    "cuda.pathfinder": "cuda-pathfinder",
}
_ALL = ("numba-softmax", "numba-cuda", "numba", "numpy", "cuda-bindings")


class CudaError(RuntimeError):
    """CUDA cannot be used, or the driver refused something."""


@contextmanager
def needed() -> Iterator[None]:
    """Turn any failure inside, of an import or a first use of packages, into a CudaError that says what to install."""
    try:
        importlib.import_module("numba_cuda")  # an error about its absence is clearer than those that would follow
        yield
    except Exception as error:
        raise unusable(error) from error


def bindings(name: str) -> Any:
    """A module of the bindings that come with numba-cuda."""
    with needed():
        return importlib.import_module(f"cuda.bindings.{name}")


def unusable(error: Exception) -> CudaError:
    """The CudaError for an error that the installed packages cause."""
    if isinstance(error, CudaError):
        return error
    lacking = _lacking(error)
    if isinstance(error, ModuleNotFoundError) and (error.name in _PACKAGES or "." not in (error.name or ".")):
        return CudaError(f"CUDA needs {lacking}, which is not installed: {INSTALL}")
    asking = _asking(error)
    if lacking and asking and lacking != asking:
        wrong = f"{_with_version(asking)} does not work with {_with_version(lacking)}"
    else:
        wrong = f"CUDA cannot be used with {', '.join(map(_with_version, _ALL))}"
    said = str(error).partition("\n")[0]
    return CudaError(f"{wrong} ({type(error).__name__}: {said}): {INSTALL}")


def _lacking(error: Exception) -> str | None:
    """The package in which something was not found."""
    if isinstance(error, ImportError):
        return _package(error.name)
    if isinstance(error, AttributeError):
        owner = error.obj
        return _package(owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__)
    return None


def _asking(error: Exception) -> str | None:
    """The package whose code failed; a module's `__getattr__` does not count."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name != "__getattr__"]
    packages = [_package(frame.f_globals.get("__name__")) for frame in frames]
    return next(filter(None, reversed(packages)), None)


def _package(module: str | None) -> str | None:
    """The name under which the package of a module is installed; None for Python's own modules."""
    parts = (module or "").split(".")
    for end in range(len(parts), 0, -1):
        found = _PACKAGES.get(".".join(parts[:end]))
        if found:
            return found
    return parts[0] if parts[0] and parts[0] not in sys.stdlib_module_names else None


def _with_version(package: str) -> str:
    """A package and its version."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
