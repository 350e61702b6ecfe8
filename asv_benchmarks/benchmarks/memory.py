"""The most memory of a process: that of a call against that of its arrays alone."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numba_softmax as ns

from . import common
from .common import CASES, OPS, REDUCING, arrays_of, filled

BASELINE = "a small array"
MEASURED = tuple(case for case in CASES if math.prod(CASES[case].shape) == 1 << 24)

COMPILE = f"""
import json, sys
sys.path[:], smallest, *case = json.loads(sys.argv[1])
from {__package__} import common, memory
common.smallest = smallest
memory.computed(*case)
"""


class Peak:
    """Bytes. The baseline computes a small array, with all threads, and makes and fills a case's arrays."""

    version = "1"
    timeout = 300
    params = ((BASELINE, *OPS), MEASURED)
    param_names = ("call", "case")

    def setup(self, op, case):  # in another process: a compiler takes more memory than all that is measured
        path = [str(Path(__file__).parents[1]), *sys.path]
        subprocess.run([sys.executable, "-c", COMPILE, json.dumps([path, common.smallest, op, case])], check=True)

    def peakmem_call(self, op, case):
        computed(op, case)


def computed(op, case):
    """A call of softmax for a small array, and then, if it is not the baseline, of a public function."""
    ns.softmax(filled((64, 1024), "float32"))
    x, y = arrays_of("softmax", case, "float32")
    if op != BASELINE:
        getattr(ns, op)(x, CASES[case].axis, out=None if op in REDUCING else y)
