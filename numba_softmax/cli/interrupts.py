"""Ctrl-C in long work: heard in time, and without harm to what is at work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

PATIENCE = 0.5
"""Seconds to wait for work that is to stop: more than it takes from one check to the next."""


class _Stopped(BaseException):
    """Ends work that is no longer wanted."""


def interruptible(work: Callable[[Callable[[], None]], Any]) -> None:
    """Do work in another thread, which has to call what it is given from time to time.

    Python raises KeyboardInterrupt wherever the main thread is. Inside of a function that
    the compiler calls back it would be lost, or would end the process.
    """
    stop, done, errors = threading.Event(), threading.Event(), []

    def check() -> None:
        if stop.is_set():
            raise _Stopped

    def run() -> None:
        try:
            work(check)
        except BaseException as error:
            errors.append(error)
        done.set()

    try:
        threading.Thread(target=run, daemon=True).start()
        while not done.wait(0.1):  # where waiting cannot be interrupted, this is as long as it lasts
            pass
    except BaseException:
        stop.set()
        done.wait(PATIENCE)
        raise
    for error in errors:
        raise error
