"""What the CUDA kernels move and compute, counted by the interpreter: the tables of docs/cuda.md.

    python tests/cuda_counts.py          # all kinds of rows, and columns
    python tests/cuda_counts.py --exp    # softmax in float32 with other forms of exp

Instructions are those of PTX, without moves between registers: the assembler keeps few of these. Errors are the largest
in units in the last place, with approximate instructions as far off as PTX allows.
"""

import argparse
import sys
from unittest import mock

import numpy as np
import pytest
from gpus import Interpreter, module_of, ptx_of
from naive import FLOATS, NAMES, naive, ulp_error

from numba_softmax.backends.cuda import device
from numba_softmax.backends.cuda.folding import Folding
from numba_softmax.math.expmath import FLOAT32, LN2, LOG2_E
from numba_softmax.math.simd import fma, like, select
from numba_softmax.math.weights import gap

CASES = [((4096 // n or 1, n), 1) for n in (64, 256, 1024, 4096, 8192, 16_384, 32_768, 1 << 20)]
CASES += [((4, 1001), 1), ((1, 50_257), 1), ((30, 512), 0), ((128, 512), 0), ((1024, 512), 0)]
LOG2_E_LOW = 1.9259629911266174e-08


def normal(shape, dtype, deviation=5):
    return np.random.default_rng(0).normal(0, deviation, shape).astype(FLOATS[dtype])


def counted(gpu, name, x, axis=-1):
    """Instructions an element, and the counts of all launches of a call."""
    result = gpu.call(name, x, axis)
    counts = [c for _, c in gpu.launched]
    work = sum(c.executed - c.of_class("mov") - c.of_class("ld.param") for c in counts)
    return result, work / x.size, counts


def show_cases(gpu):
    heads = ("instr.", "read", "written", "16 B", "barriers", "conflicts")
    print(f"{'':12}{'':10}{'shape':>16} axis  {'kernel':<28}" + "".join(f"{head:>10}" for head in heads))
    for name in NAMES:
        for dtype in FLOATS:
            for shape, axis in CASES:
                x = normal(shape, dtype)
                _, work, counts = counted(gpu, name, x, axis)
                kernel = gpu.launched[0][0]
                g = kernel.geometry
                read, written = (sum(getattr(c, way).bytes for c in counts) / x.nbytes for way in ("loads", "stores"))
                wide = sum(c.loads.bytes_by_size[16] + c.stores.bytes_by_size[16] for c in counts)
                moved = sum(c.loads.bytes + c.stores.bytes for c in counts)
                label = f"{kernel.regime} {g.threads}x{g.vectors}x{g.elements}"
                numbers = f"{work:10.1f}{read:10.2f}{written:10.2f}{wide / moved:10.2f}"
                numbers += f"{counts[0].barriers_per_block:10.0f}{sum(c.conflicts for c in counts):10}"
                print(f"{name:<12}{dtype:<10}{shape!s:>16} {axis:4}  {label:<28}{numbers}")


# ------------------------------------------------------------------- forms of exp


def approximate(self, v, frame, scale):
    """``2**((x - m) log2 e)``, as it is written most often."""
    return device.exp2((v - frame[0]) * LOG2_E) * FLOAT32.up


def compensated(self, v, frame, scale):
    """The same, and then times what was lost to rounding in the exponent."""
    d, error = gap(v, frame[0], scale)
    t = d * LOG2_E
    lost = select(d > -1e30, fma(d, LOG2_E, -t) + (d * LOG2_E_LOW + error * LOG2_E), 0.0)
    w = device.exp2(t)
    return fma(w, lost * LN2, w) * FLOAT32.up


FORMS = {"polynomial": None, "ex2.approx": approximate, "ex2.approx, compensated": compensated}


def show_forms(gpu):
    print(f"{'softmax of float32, rows of 4096':<36}{'instr.':>8}  largest error for logits of deviation 1, 5, 30")
    for label, weigh in FORMS.items():
        module_of.cache_clear()
        ptx_of.cache_clear()
        patched = {"weigh": Folding.weigh}
        if weigh is not None:
            patched = {"weigh": weigh, "frame_of": lambda self, m, scale: ((m,), like(m, 1.0))}
        with mock.patch.multiple(Folding, **patched):
            errors, work = [], 0
            for deviation in (1, 5, 30):
                x = normal((6, 4096), "float32", deviation)
                worst = 0
                for approximation in (-1, 0, 1, "mixed"):
                    gpu.settings = {"approximation": approximation}
                    result, work, _ = counted(gpu, "softmax", x)
                    worst = max(worst, ulp_error(result, naive("softmax", x), np.float32))
                errors.append(worst)
        print(f"{label:<36}{work:8.1f}  " + " ".join(f"{error:7.2f}" for error in errors))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", action="store_true", help="compare forms of exp")
    with pytest.MonkeyPatch.context() as patch:
        (show_forms if parser.parse_args(arguments).exp else show_cases)(Interpreter(patch))


if __name__ == "__main__":
    main(sys.argv[1:])
