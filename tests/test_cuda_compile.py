"""What the CUDA kernels are compiled to: no GPU is needed, numba-cuda is. Nothing here comes from the disk.

The kernels are the largest of each regime for each op and pair of formats, in three kinds: for aligned rows, with a
mask and a scale, and for rows that are neither aligned nor whole vectors. Smaller ones use fewer registers, and their
code is a part of the largest one's. float16 differs from bfloat16 in conversions alone, and goes without the second
kind. The text in PTX is made for both targets. It is assembled for 7.5, and for two of the other six capabilities,
one of 8.x and one newer, which take turns: so each has a third of all kernels. That is what two to three minutes are
enough for; `numba-softmax kernels --all --capability ...` goes through all the rest.
"""

from __future__ import annotations

import functools
import re

import pytest

from numba_softmax.backends.cuda import driver
from numba_softmax.backends.spec import stored
from numba_softmax.cli.kernels import geometry, read_report
from numba_softmax.cli.occupancy import LIMITS
from numba_softmax.ops import OPS, STATE_OPS

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")

from gpus import ptx_of

from numba_softmax.backends.cuda import kernels, plan

DTYPES = ("float32", "float16", "bfloat16", "float64")
KINDS = ("aligned", "masked and scaled", "ragged")
ALL_OPS = OPS | STATE_OPS
CASES = [(o, d, k) for o in OPS for d in DTYPES for k in KINDS if (d, k) != ("float16", "masked and scaled")]
CASES += [("fold", "float32", k) for k in KINDS] + [("fold", "float64", "aligned"), ("merge", "float64", "aligned")]
CASES += [("merge", "float64", "masked and scaled")]
TARGETS = ((7, 5), (8, 0))
WIDEST = 16

every_case = pytest.mark.parametrize(("op", "dtype", "kind"), CASES)
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


@functools.cache
def largest(op, dtype, kind, target):
    """The kernel of each regime that has most elements in a tile."""
    full = kind == "masked and scaled"
    machine = plan.Machine(target, LIMITS[target].of_a_block)
    found = {}
    every = plan.state_kernels_for(ALL_OPS[op], dtype, full, full, machine)
    if op in OPS:
        every += plan.kernels_for(OPS[op], dtype, dtype, full, full, machine)
    for kernel in every:
        g, other = kernel.geometry, found.get(kernel.regime)
        aligned = kernel.regime == "states" or (g.widths[0] == WIDEST and not g.ragged)
        if aligned and (other is None or g.tile >= other.geometry.tile):
            found[kernel.regime] = kernel
    if kind == "ragged":
        return [kernel._replace(geometry=unaligned(kernel)) for kernel in found.values()]
    return list(found.values())


def unaligned(kernel):
    """A kernel's geometry for rows that begin and end anywhere."""
    along = kernel.geometry.across == 1
    shifted = tuple(along and o.per == "element" and o.kind == "number" for o in kernel.spec.operands)
    return kernel.geometry._replace(widths=kernel.spec.sizes, ragged=True, shifted=shifted)


def in_turn(turn, target):
    """The capabilities to assemble for: all of them in three turns."""
    if target == (7, 5):
        return [(7, 5)]
    older, newer = [(8, 0), (8, 6), (8, 9)], [(9, 0), (10, 0), (12, 0)]
    return [older[turn % 3], newer[turn % 3]]


def what_is_not_in_registers(kernel, target, capabilities):
    """A line for each capability for which a kernel spills or uses local memory."""
    for capability in capabilities:
        used = read_report(kernels.assemble(kernel, ptx_of(kernel, target), capability)[1])
        assert 0 < used.registers <= 65536 // kernel.threads
        if not used.clean:
            yield f"{kernel.regime} {geometry(kernel)} for {capability}: {used}"


def test_all_regimes_and_capabilities_are_tested():
    regimes = {kernel.regime for case in CASES for kernel in largest(*case, (8, 0))}
    assert regimes == set(plan.MAKERS)
    tested = {c for turn in range(3) for target in TARGETS for c in in_turn(turn, target)}
    assert tested == set(LIMITS)
    assert all(kernels.target_of(c) == target for target in TARGETS for turn in range(3) for c in in_turn(turn, target))


def test_kernels_of_states_are_those_that_calls_use():
    machine = plan.Machine((9, 0), LIMITS[9, 0].of_a_block)

    def regimes(op):
        return {kernel.regime for kernel in plan.state_kernels_for(ALL_OPS[op], "float32", False, False, machine)}

    assert {op for op in ALL_OPS if regimes(op) == {"states"}} == {*STATE_OPS, "logsumexp"} - {"fold"}
    assert regimes("fold") >= {"rows", "staged_rows", "columns", "fold_chunks"}
    assert regimes("softmax") == regimes("log_softmax") == {"given_rows", "given_columns"}


@every_target
@every_case
def test_kernels_keep_to_registers(op, dtype, kind, target):
    turn = list(ALL_OPS).index(op) + DTYPES.index(dtype) + KINDS.index(kind)
    dirty = [
        line
        for i, kernel in enumerate(largest(op, dtype, kind, target))
        for line in what_is_not_in_registers(kernel, target, in_turn(turn + i, target))
    ]
    assert not dirty, "\n".join(dirty)


@every_target
def test_kernels_for_rows_of_many_dimensions_keep_to_registers(target):
    for kernel in largest("softmax", "float32", "aligned", target):
        if kernel.geometry.across == 1:
            g = kernel.geometry._replace(elements=1, widths=kernel.spec.sizes, row_dims=3, reduced_dims=2)
            kernel = kernel._replace(geometry=g)
        else:
            kernel = kernel._replace(geometry=kernel.geometry._replace(row_dims=3))
        assert not list(what_is_not_in_registers(kernel, target, [target]))


def test_a_kernel_that_spills_is_noticed():
    (kernel,) = (k for k in largest("softmax", "float32", "aligned", (8, 0)) if k.regime == "columns")
    crowded = kernels.compile_kernel(kernel._replace(threads=1024), (8, 0))  # 64 registers each
    used = read_report(driver.assemble(crowded.ptx, (9, 0))[1])
    assert used.registers == 64
    assert min(used.stack, used.spilled) > 0
    assert not used.clean


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
def test_float32_rows_leave_room_for_24_warps(op):
    kernels_of_rows = [k for k in largest(op, "float32", "aligned", (8, 0)) if k.regime in ("rows", "fold_chunks")]
    for kernel in kernels_of_rows:
        used = read_report(kernels.assemble(kernel, ptx_of(kernel, (8, 0)), (9, 0))[1])
        assert used.registers <= 65536 // (24 * 32), kernel.regime
    assert kernels_of_rows


# ----------------------------------------------------------------- the text in PTX

ARITHMETIC = re.compile(r"\b(?:add|sub|mul|fma|mad)((?:\.\w+)*)\.(?:f16|bf16|f32|f64)(?:x2)?\b")
ROUNDED = {"rn", "rz", "rm", "rp"}
ACCESS = re.compile(r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.[bufs](\d+)\b")


@every_target
@every_case
def test_products_and_sums_are_not_fused_behind_our_back(op, dtype, kind, target):
    """An instruction that names its rounding is left as it is; of others the assembler may make one."""
    for kernel in largest(op, dtype, kind, target):
        found = list(ARITHMETIC.finditer(ptx_of(kernel, target)))
        assert found or op == "move"  # which copies
        free = {match[0] for match in found if not ROUNDED & set(match[1].split("."))}
        assert not free, f"{kernel.regime}: {free}"


@every_target
@every_case
def test_everything_is_inlined_and_in_registers(op, dtype, kind, target):
    for kernel in largest(op, dtype, kind, target):
        ptx = ptx_of(kernel, target)
        assert ptx.count(".entry") == 1
        assert not re.search(r"^\s*(?:@\S+\s+)?call\b|\.func\b", ptx, re.MULTILINE), kernel.regime
        assert not re.search(r"\.local\b", ptx), kernel.regime


def accesses(kernel, target, direction):
    """The bytes of each access to global memory in a kernel's text."""
    found = ACCESS.finditer(ptx_of(kernel, target))
    return [int(lanes or 1) * int(bits) // 8 for way, lanes, bits in (m.groups() for m in found) if way == direction]


@every_target
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_aligned_elements_and_results_move_16_bytes_at_once(op, dtype, target):
    """States, and the one result of a row, are moved one by one."""
    reduces = ALL_OPS[op].reduces
    for kernel in largest(op, dtype, "aligned", target):
        regime, vectors = kernel.regime, kernel.geometry.vectors
        if regime == "states":
            continue
        loads, stores = accesses(kernel, target, "ld"), accesses(kernel, target, "st")
        if not regime.startswith(("finish", "given")):
            assert set(loads) == {WIDEST}, regime
        if not (regime.startswith("finish") and reduces):
            assert loads.count(WIDEST) >= vectors, regime
        if not regime.startswith("fold") and (kernel.geometry.across > 1 or not reduces):
            assert set(stores) == {WIDEST}, regime
            assert len(stores) >= (1 if reduces else vectors), regime


@every_target
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_what_lies_anywhere_is_moved_by_whole_vectors_or_single_elements(op, dtype, target):
    """Rows are shifted to whole vectors; columns are not."""
    for kernel in largest(op, dtype, "ragged", target):
        size = stored(dtype).bytes
        if kernel.regime in ("rows", "staged_rows"):
            assert set(accesses(kernel, target, "ld")) == {size, WIDEST}, kernel.regime
            assert set(accesses(kernel, target, "st")) == ({size} if ALL_OPS[op].reduces else {size, WIDEST})
        elif kernel.regime == "columns":
            assert {*accesses(kernel, target, "ld"), *accesses(kernel, target, "st")} == {size}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["softmax", "logsumexp"])
def test_rows_in_registers_meet_at_one_barrier_and_those_of_a_warp_at_none(op, dtype):
    target = (8, 0)
    machine = plan.Machine(target, LIMITS[target].of_a_block)
    rows = [k for k in plan.kernels_for(OPS[op], dtype, dtype, False, False, machine) if k.regime == "rows"]
    assert {k.geometry.threads for k in rows} == {1 << i for i in range(9)}
    for kernel in rows:
        if not kernel.geometry.ragged:
            barriers = len(re.findall(r"\bbar(?:rier)?(?:\.cta)?\.(?:sync|red|arrive)\b", ptx_of(kernel, target)))
            assert barriers == (kernel.geometry.threads > 32), geometry(kernel)


# --------------------------------------------------------------------- without a GPU

NO_DRIVER = """
from cuda.bindings import driver as bindings
asked = []
bindings.cuInit = lambda *_: asked.append(True) or (100,)
from numba_softmax.backends.cuda import driver, kernels, plan
from numba_softmax.ops import OPS
machine = plan.Machine((9, 0), 227 << 10)
kernel = plan.kernels_for(OPS["softmax"], "float32", "float32", False, False, machine)[0]
assembled = kernels.assembled_kernel(kernel, (9, 0))
assert assembled.cubin.startswith(b"\\x7fELF")
assert assembled.entry.encode() in assembled.cubin
assert not asked
try:
    driver.count()
except driver.CudaError:
    assert asked  # that is how it would have shown
else:
    raise AssertionError
"""


def test_compiling_and_assembling_asks_no_driver(run_python, tmp_path):
    run_python(NO_DRIVER, XDG_CACHE_HOME=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert len(list(tmp_path.rglob("*.kernel"))) == 1
