"""Compilations and imports of first calls, protected from interrupts and forks, which would leave them half done.

Numba survives neither. After a KeyboardInterrupt in the middle of a compilation
its registries stay half read, and all later compilations fail; and in a child
that was forked while another thread compiled, a lock stays locked that no thread
will release. So everything is compiled, loaded and imported in a thread that no
KeyboardInterrupt reaches, and under Numba's compiler lock, for which forks wait.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from llvmlite.binding import ffi
from numba.core import compiler_lock
from numba.np.ufunc import parallel

from . import kernel_code

kernel_code.register()

T = TypeVar("T")

_TORN = (
    "this process was forked in the middle of a compilation, by something that did not wait for its end, and can "
    "make no kernels: fork before the first call or after it, or start processes by 'spawn'"
)
_torn = False


def built(make: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for functions whose work `build` protects.

    Once a value is cached, no call waits for another thread. Errors are not kept.
    """
    values: dict[tuple[Any, ...], T] = {}

    @functools.wraps(make)
    def get(*key: Any) -> T:
        def make_once() -> None:
            if key not in values:
                values[key] = make(*key)

        while key not in values:
            build(make_once)
        return values[key]

    return get


def build(work: Callable[[], object]) -> None:
    """Do work in another thread, under Numba's compiler lock, and wait for its end.

    An interrupt ends only the wait: the work goes on, and a later call finds it done.
    """
    if _torn:
        raise RuntimeError(_TORN)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with compiler_lock.global_compiler_lock, _quiet():
                work()
        except BaseException as error:
            errors.append(error)

    # Not a daemon: at exit the interpreter would not wait for it, and LLVM does not survive that.
    thread = threading.Thread(target=run, name="numba_softmax.building", daemon=False)
    if compiler_lock.global_compiler_lock.is_locked():
        run()  # this thread is compiling already, and another one would wait for it
    else:
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is about to end
            run()
    while thread.is_alive():  # which a forked child's is not
        thread.join(0.1)  # the longest wait where waiting cannot be interrupted
    if errors:
        raise errors.pop()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Numba from logging each bytecode, unless its logger has a level of its own.

    The level is raised under the compiler lock, so compilations of other code are not affected.
    """
    logger = logging.getLogger("numba")
    if logger.level != logging.NOTSET or logger.getEffectiveLevel() >= logging.WARNING:
        yield
        return
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        if logger.level == logging.WARNING:
            logger.setLevel(logging.NOTSET)


# ------------------------------------------------------------------------- forks


def _find_locks() -> Iterator[Any]:
    """The locks that a fork waits for, in the order in which Numba takes them; their names are private to it."""
    compiler, threads, llvm = "global_compiler_lock._lock", "_backend_init_thread_lock", "lib._lock._lock"
    for module, name in (compiler_lock, compiler), (parallel, threads), (ffi, llvm):
        with contextlib.suppress(AttributeError):
            yield operator.attrgetter(name)(module)


_LOCKS = tuple(_find_locks())
_forking = threading.local()


def _held(locks: tuple[Any, ...]) -> Generator[None, None, None]:
    """Hold all locks; or none, if an interrupt ended the wait."""
    if not locks:
        yield
        return
    with locks[0]:
        yield from _held(locks[1:])


def _before_fork() -> None:
    _forking.held = _held(_LOCKS)
    next(_forking.held)


def _after_fork() -> None:
    getattr(_forking, "held", _held(())).close()


def _after_fork_in_child() -> None:
    global _torn
    _after_fork()
    for lock in _LOCKS:
        if lock.acquire(blocking=False):
            lock.release()
        else:
            _torn = True  # an interrupt, or a fork by other means than Python's, left no time to wait
            lock._at_fork_reinit()
    # Processes share this lock. If another thread held it, the parent will release it; but the child has
    # inherited that thread's count, because of which its own next owner would never release it.
    between_processes = getattr(parallel._backend_init_process_lock, "_semlock", None)
    if between_processes is not None:
        between_processes._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
