"""The most memory of a process: that of a call against that of its arrays alone."""

import json
import subprocess
import sys

import numba_softmax as ns

from .common import CASES, OPS, REDUCING, arrays_of

COMPILE = (
    "import json, sys; sys.path[:], op, case = json.loads(sys.argv[1]); from {} import compiled; compiled(op, case)"
)


class Peak:
    """Bytes; with the call "nothing" the arrays are made and filled, and nothing is computed."""

    version = "1"
    timeout = 300
    params = (("nothing", *OPS), tuple(case for case in CASES if "4096" in case or case.startswith("one")))
    param_names = ("call", "case")

    def setup(self, op, case):
        if op != "nothing":  # elsewhere: a compiler takes more memory than all that is measured
            program = [sys.executable, "-c", COMPILE.format(__name__), json.dumps([sys.path, op, case])]
            subprocess.run(program, check=True)

    def peakmem_call(self, op, case):
        x, y = arrays_of("softmax", case, "float32")
        if op != "nothing":
            computed(op, case, x, y)


def computed(op, case, x, y):
    """A call of a public function."""
    return getattr(ns, op)(x, CASES[case].axis, out=None if op in REDUCING else y)


def compiled(op, case):
    """Have the kernel of a case in the disk cache."""
    computed(op, case, *arrays_of("softmax", case, "float32"))
