"""CUDA kernels: what is known of them without a GPU, and speed where there is one."""

import contextlib
import functools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

import numba_softmax as ns

from .common import CASES, OPS, ROOT, TYPES, filled, result_shape, shape_of

COUNTED = {
    "rows, 1 x 4096": ((1, 4096), -1),
    "staged rows, 1 x 16384": ((1, 16384), -1),
    "chunks, 1 x 262144": ((1, 1 << 18), -1),
    "columns, 128 x 512 axis 0": ((128, 512), 0),
    "chunks of columns, 1024 x 512 axis 0": ((1024, 512), 0),
}
REGIMES = ("rows", "staged_rows", "fold_chunks", "finish_chunks", "columns", "fold_columns", "finish_columns")


class Registers:
    """The most registers of a thread among the softmax kernels of a regime, assembled for Hopper."""

    version = "1"
    unit = "registers"
    params = (("float32", "bfloat16"), REGIMES)
    param_names = ("dtype", "regime")

    def setup_cache(self):
        command = [sys.executable, "-m", "numba_softmax", "kernels", "--json", "--op", "softmax", "--capability", "9.0"]
        dtypes = [word for dtype in self.params[0] for word in ("--dtype", dtype)]
        done = subprocess.run([*command, *dtypes], capture_output=True, text=True)
        if not done.stdout:  # no such command yet, or no numba-cuda
            print(done.stderr, file=sys.stderr)
            return {}
        most = {}
        for kernel in json.loads(done.stdout):
            key = kernel["x"], kernel["regime"]
            most[key] = max(most.get(key, 0), kernel["registers"])
        return most

    setup_cache.timeout = 600

    def setup(self, most, *key):
        if key not in most:
            raise NotImplementedError("this commit has no report on such kernels")

    def track_registers(self, most, *key):
        return most[key]


class Bytes:
    """Bytes that softmax reads and writes an element, counted by the tests' interpreter of compiled kernels."""

    version = "1"
    unit = "bytes"
    timeout = 600
    params = (("float32", "bfloat16"), tuple(COUNTED))
    param_names = ("dtype", "case")

    def setup(self, dtype, case):
        self.gpu = interpreter()

    def track_bytes_per_element(self, dtype, case):
        shape, axis = COUNTED[case]
        with self.gpu as gpu:
            gpu.call("softmax", filled(shape, dtype), axis)
            counts = [counted for _, counted in gpu.launched]
        return sum(counted.loads.bytes + counted.stores.bytes for counted in counts) / np.prod(shape)


def interpreter():
    """The interpreter of the measured commit, which is checked out in the environment that asv made; else this one's.

    Raises
    ------
    NotImplementedError
        There is none, or no numba-cuda that compiles for it.
    """
    measured = Path(sys.prefix, "project")
    sys.path.insert(0, str((measured if measured.is_dir() else ROOT) / "tests"))
    try:
        import numba_cuda  # noqa: F401
        from gpus import Interpreter
    except ImportError as error:
        raise NotImplementedError(str(error)) from None
    return _patched(Interpreter)


@contextlib.contextmanager
def _patched(interpreter_class):
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        yield interpreter_class(patch)


class Gpu:
    """Calls on arrays in a GPU's memory, by Numba, whose arrays have no bfloat16; skipped where there is no GPU."""

    version = "1"
    rounds, warmup_time = 1, 0.1
    params = (OPS, tuple(case for case in CASES if CASES[case].step == 1), ("float32", "float16"))
    param_names = ("op", "case", "dtype")
    ROUNDS = 31

    def setup(self, op, case, dtype):
        from numba import cuda

        if not cuda.is_available():
            raise NotImplementedError("no GPU")
        self.cuda = cuda
        x, y = cuda.to_device(filled(shape_of(case), dtype)), cuda.device_array(result_shape(op, case), TYPES[dtype])
        nbytes = (x.nbytes + y.nbytes) // 2  # a copy reads as many, and writes as many
        self.source, self.to = (cuda.to_device(np.ones(nbytes, np.uint8)) for _ in range(2))
        self.call = functools.partial(getattr(ns, op), x, CASES[case].axis, out=y)
        self.call()
        cuda.synchronize()

    def time_call(self, *_):
        """From the call to the end of the GPU's work."""
        self.call()
        self.cuda.synchronize()

    def track_of_copy(self, *_):
        """The speed of a copy on the device of as many bytes, over that of the call, in turns."""
        copy = functools.partial(self.to.copy_to_device, self.source)
        rounds = [(self._seconds(copy), self._seconds(self.call)) for _ in range(self.ROUNDS)]
        return statistics.median(of_copy / ours for of_copy, ours in rounds)

    track_of_copy.unit = "of copy"

    def _seconds(self, call):
        start, end = (self.cuda.event() for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return self.cuda.event_elapsed_time(start, end) / 1e3
