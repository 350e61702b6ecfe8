"""CUDA kernels: what is known of them without a GPU, and speed where there is one."""

import functools
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from . import common
from .common import CASES, OPS, REDUCING, ROOT, TYPES, call_by, filled
from .cpu import noise_of

COUNTED = {
    "rows, 1 x 4096": ((1, 4096), -1),
    "staged rows, 1 x 16384": ((1, 16384), -1),
    "chunks, 1 x 262144": ((1, 1 << 18), -1),
    "columns, 128 x 512 axis 0": ((128, 512), 0),
    "chunks of columns, 1024 x 512 axis 0": ((1024, 512), 0),
}
ON_GPU = {label: (case.shape, case.axis) for label, case in CASES.items() if case.step == 1 and "in cache" not in label}
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
            raise NotImplementedError("no numba-cuda, or no interpreter yet")

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


class Time(common.Timed):
    """Seconds from a call to the end of the GPU's work; skipped without a GPU. Numba's arrays have no bfloat16."""

    version = "1"
    rounds, repeat, warmup_time = 1, (5, 30, 0.4), 0.05
    params = (OPS, tuple(ON_GPU), ("float32", "float64", "float16"))
    param_names = ("op", "case", "dtype")

    def made(self, op, case, dtype):
        self.cuda = usable_cuda()
        return call_on_gpu(self.cuda, op, case, dtype)[0]

    def time_call(self, *_):
        self.call()
        self.cuda.synchronize()


class OfCopy:
    """Speed as a share of that of a copy on the device, of as many bytes, which takes turns with the call."""

    version = "1"
    unit = "of copy"
    params = Time.params
    param_names = Time.param_names
    ROUNDS, LEAD = 31, 1 << 28

    def setup_cache(self):
        try:
            cuda = usable_cuda()
        except NotImplementedError:
            return {}
        lead = [cuda.device_array(self.LEAD, np.uint8) for _ in range(2)]
        return {key: list(self._shares(cuda, lead, *key)) for key in itertools.product(*self.params)}

    setup_cache.timeout = 3600

    def setup(self, shares, *key):
        if key not in shares:
            raise NotImplementedError("no GPU, or no kernels for it yet")

    def track_of_copy(self, shares, *key):
        return statistics.median(shares[key])

    def track_noise(self, shares, *key):
        return noise_of(shares[key])

    track_noise.unit = "of the value"

    def _shares(self, cuda, lead, *key):
        """The copy's seconds over the call's, round by round."""
        call, nbytes = call_on_gpu(cuda, *key)
        source, to = (cuda.to_device(np.ones(nbytes // 2, np.uint8)) for _ in range(2))  # read and written
        calls = functools.partial(to.copy_to_device, source), call
        call()  # compiles
        for _ in range(self.ROUNDS):
            copy, ours = (_seconds(cuda, lead, each) for each in calls)
            yield copy / ours


def usable_cuda():
    """Numba's CUDA module.

    Raises
    ------
    NotImplementedError
        There is no GPU, no numba-cuda, or the measured commit has no kernels for it.
    """
    if any(importlib.util.find_spec(name) is None for name in ("numba_cuda", "numba_softmax.backends.cuda")):
        raise NotImplementedError("no numba-cuda, or no kernels for it yet")
    from numba import cuda

    if not cuda.is_available():
        raise NotImplementedError("no GPU")
    return cuda


def call_on_gpu(cuda, op, case, dtype):
    """A call on arrays on the GPU, and how many bytes it reads and writes."""
    shape, axis = ON_GPU[case]
    result = np.delete(shape, axis) if op in REDUCING else shape
    x, y = cuda.to_device(filled(shape, dtype)), cuda.to_device(np.ones(result, TYPES[dtype]))
    return call_by("numba_softmax", op, x, y, axis), x.nbytes + y.nbytes


def _seconds(cuda, lead, call):
    """Of what a call queues, without the host's time: the GPU is at work until it has been queued."""
    start, end = (cuda.event() for _ in range(2))
    for _ in range(4):
        lead[1].copy_to_device(lead[0])
    start.record()
    call()
    end.record()
    end.synchronize()
    return cuda.event_elapsed_time(start, end) / 1e3
