"""The number of threads that a call may safely use with each of Numba's threading layers.

Two of the layers end the process in situations that are normal for a library:
`workqueue` when two Python threads start parallel work at once, and the GNU
OpenMP layer when a forked child starts some after its parent did. So on
`workqueue` parallel calls run one at a time, and a child of a process that had
its threads running computes in the calling thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numba
from numba.np.ufunc import parallel as numba_parallel

from ...math.lanewise import NEEDS_COMPILER

_alone = threading.Lock()
_forked = False


def _after_fork() -> None:
    global _alone, _forked
    _alone = threading.Lock()
    _forked = _forked or numba_parallel._is_initialized


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class UnusableError(RuntimeError):
    """Numba's settings keep every kernel from running."""


def check() -> None:
    """Raise an error if no kernel can run; Numba's threads are started if they are not running."""
    if numba.config.DISABLE_JIT:
        raise UnusableError(NEEDS_COMPILER)
    try:
        numba.get_num_threads()
    except (ImportError, ValueError) as error:
        chosen = numba.config.THREADING_LAYER
        raise UnusableError(f"no threads with NUMBA_THREADING_LAYER={chosen}: {error}") from None


def _count() -> int:
    """The value of `numba.get_num_threads()`, without the lock, shared by processes, that it takes at each call."""
    if not numba_parallel._is_initialized:
        numba.get_num_threads()
    return numba_parallel._get_num_threads()


def layer() -> str:
    """Numba's threading layer; its threads are started if they are not running."""
    _count()
    return numba.threading_layer() if numba_parallel._threading_layer else "none"


@contextlib.contextmanager
def threads_for_call() -> Iterator[int]:
    """The number of threads that a parallel kernel may be started with now; 1 if none may."""
    if _forked:
        yield 1
        return
    count = _count()
    if count == 1 or layer() != "workqueue":
        yield count
        return
    if not _alone.acquire(blocking=False):
        yield 1
        return
    try:
        yield count
    finally:
        _alone.release()
