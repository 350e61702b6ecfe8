"""Array files that a command reads and writes as memory maps, and outputs that appear only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..call.arguments import as_dtype
from .common import UserError

RESERVED_AT_ONCE = 64 << 20
"""Bytes of a file reserved in one call: some file systems write them all, and an interrupt waits until they have."""


_SAVED_BFLOAT16 = np.dtype("V2")
"""The dtype that NumPy gives bfloat16 in a file."""


def open_input(path: Path, read_as: str | None = None) -> np.memmap:
    """The file as a memory map; its elements are read as `read_as` if that is given. Pickled objects are refused."""
    try:
        x = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a corrupt header can raise any exception
        way_out = _way_out(path)
        if way_out:
            raise UserError(f"{path} is an archive of arrays: take one out, as in `{way_out}`") from None
        raise UserError(f"{path} is not a whole .npy file of numbers: {error}") from None
    if read_as is None:
        if x.dtype == _SAVED_BFLOAT16:
            raise UserError(f"{path} has dtype {x.dtype}, two bytes of anything: if they are bfloat16, --as bfloat16")
        return x
    if x.dtype != _SAVED_BFLOAT16:
        raise UserError(
            f"{path} has dtype {x.dtype}: --as {read_as} is for files of dtype {_SAVED_BFLOAT16}, leave it out"
        )
    try:
        return x.view(as_dtype(read_as), np.memmap)
    except TypeError as error:
        raise UserError(str(error)) from None


def _way_out(path: Path) -> str | None:
    """A line of Python that saves one array of an archive to its own file, for error messages; None for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            file = next((file for file in archive.namelist() if file.endswith(".npy")), None)
    except Exception:  # and so can a corrupt directory
        return None
    return file and f"np.save({file!r}, np.load({str(path)!r})[{file.removesuffix('.npy')!r}])"


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new file in the same folder, which is renamed to `target` at the end, or deleted after an error."""
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        raise UserError(f"cannot write {target}: it is not a regular file")  # renaming would replace a device
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    with _named(target):
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        with _named(target):
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn errors into ones that name the file that could not be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def create(part: Path, shape: tuple[int, ...], dtype: np.dtype, order: str) -> np.memmap:
    """A .npy file to be filled through a memory map, with its space reserved: a full disk would kill the process."""
    with _named(part):
        out = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape, fortran_order=order == "F")
        if hasattr(os, "posix_fallocate"):
            _reserve(part)
    return out


def _reserve(part: Path) -> None:
    handle = os.open(part, os.O_RDWR)
    size = os.fstat(handle).st_size
    try:
        for start in range(0, size, RESERVED_AT_ONCE):
            os.posix_fallocate(handle, start, min(RESERVED_AT_ONCE, size - start))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not every file system can
            raise
    finally:
        os.close(handle)


def forget(array: np.memmap) -> None:
    """Release a memory map's pages, which are also in the file, so that the process does not seem to hold all of it."""
    pages = getattr(array, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_DONTNEED)
