"""CUDA kernels: what is known of them without a GPU, and speed where there is one."""

import functools
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

import numba_softmax as ns

from .common import CASES, OPS, REDUCING, ROOT, TYPES, filled
from .cpu import noise_of

COUNTED = {
    "rows, 1 x 4096": ((1, 4096), -1),
    "staged rows, 1 x 16384": ((1, 16384), -1),
    "chunks, 1 x 262144": ((1, 1 << 18), -1),
    "columns, 128 x 512 axis 0": ((128, 512), 0),
    "chunks of columns, 1024 x 512 axis 0": ((1024, 512), 0),
}
ON_GPU = {label: (case.shape, case.axis) for label, case in CASES.items() if case.step == 1}
ON_GPU["rows, 1024 x 16384"] = ((1024, 16384), -1)  # staged in shared memory
REGIMES = ("rows", "staged_rows", "fold_chunks", "finish_chunks", "columns", "fold_columns", "finish_columns")


class Registers:
    """The most registers of a thread among the softmax kernels of a regime, assembled for Hopper."""

    version = "1"
    unit = "registers"
    params = (("float32", "bfloat16"), REGIMES)
    param_names = ("dtype", "regime")

    def setup_cache(self):
        needed = ("numba_cuda", "numba_softmax.cli.kernels")
        if not all(map(importlib.util.find_spec, needed)):
            return {}
        command = [sys.executable, "-m", "numba_softmax", "kernels", "--json", "--op", "softmax", "--capability", "9.0"]
        dtypes = [word for dtype in self.params[0] for word in ("--dtype", dtype)]
        done = subprocess.run([*command, *dtypes], stdout=subprocess.PIPE, text=True, check=True)
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
        if importlib.util.find_spec("numba_cuda") is None or not (tests() / "gpus.py").exists():
            raise NotImplementedError("no numba-cuda that compiles, or no interpreter yet")

    def track_bytes_per_element(self, dtype, case):
        import pytest

        shape, axis = COUNTED[case]
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tests())
            from gpus import Interpreter

            gpu = Interpreter(patch)
            gpu.call("softmax", filled(shape, dtype), axis)
            counts = [counted for _, counted in gpu.launched]
        return float(sum(counted.loads.bytes + counted.stores.bytes for counted in counts) / np.prod(shape))


def tests():
    """The tests of the measured commit, which asv has checked out in its environment; else those of this checkout."""
    measured = Path(sys.prefix, "project")
    return (measured if measured.is_dir() else ROOT) / "tests"


class Gpu:
    """Calls on arrays in a GPU's memory, by Numba, whose arrays have no bfloat16; skipped where there is no GPU."""

    version = "1"
    rounds, repeat, warmup_time = 1, (5, 30, 0.4), 0.05
    params = (OPS, tuple(ON_GPU), ("float32", "float64", "float16"))
    param_names = ("op", "case", "dtype")
    ROUNDS, LEAD = 31, 1 << 28

    def setup(self, op, case, dtype):
        if hasattr(self, "call"):
            return
        if any(importlib.util.find_spec(name) is None for name in ("numba_cuda", "numba_softmax.backends.cuda")):
            raise NotImplementedError("no numba-cuda, or no kernels for it yet")
        from numba import cuda

        if not cuda.is_available():
            raise NotImplementedError("no GPU")
        self.cuda, (shape, axis) = cuda, ON_GPU[case]
        result = np.delete(shape, axis) if op in REDUCING else shape
        x, y = cuda.to_device(filled(shape, dtype)), cuda.to_device(np.ones(result, TYPES[dtype]))
        nbytes = (x.nbytes + y.nbytes) // 2  # a copy reads as many, and writes as many
        self.source, self.to = (cuda.to_device(np.ones(nbytes, np.uint8)) for _ in range(2))
        self.lead = [cuda.device_array(self.LEAD, np.uint8) for _ in range(2)]
        self.call = functools.partial(getattr(ns, op), x, axis, out=y)
        self.call()
        cuda.synchronize()

    def time_call(self, *_):
        """From the call to the end of the GPU's work."""
        self.call()
        self.cuda.synchronize()

    def track_of_copy(self, *_):
        """The speed of the call over that of a copy on the device of as many bytes."""
        return statistics.median(self._shares())

    track_of_copy.unit = "of copy"

    def track_noise(self, *_):
        return noise_of(self._shares())

    track_noise.unit = "of the value"

    def _shares(self):
        """The copy's seconds over the call's, which take turns."""
        copy = functools.partial(self.to.copy_to_device, self.source)
        return [self._seconds(copy) / self._seconds(self.call) for _ in range(self.ROUNDS)]

    def _seconds(self, call):
        start, end = (self.cuda.event() for _ in range(2))
        for _ in range(4):  # the GPU is at work until the call is queued, so that the host's time does not count
            self.lead[1].copy_to_device(self.lead[0])
        start.record()
        call()
        end.record()
        end.synchronize()
        return self.cuda.event_elapsed_time(start, end) / 1e3
