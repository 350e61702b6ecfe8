"""The interpreter for PTX runs what the PTX ISA says, counts what happens, and notices what must not."""

import gc
import weakref
from collections import Counter

import numpy as np
import ptx
import pytest
from ptx.handwritten import kernel, launch
from ptx.warps import source_lanes


def words(n=64, dtype="u4"):
    return np.arange(n, dtype=dtype)


MY_WORD = "add.s64 %rd1, %rd10, %rd0;"  # of array p0
SHARED = ".shared .align 16 .b8 tile[1024];"
MY_CELL = "mov.u32 %r5, tile; mad.lo.u32 %r6, %r1, 4, %r5;"


# ------------------------------------------------------------------------ control


def test_threads_that_diverge_meet_again():
    body = f"""{MY_WORD} and.b32 %r4, %r0, 1; setp.eq.u32 %p1, %r4, 0;
    @%p1 bra EVEN;
    mov.u32 %r5, 100; bra.uni JOIN;
    EVEN: mov.u32 %r5, 200;
    JOIN: activemask.b32 %r6; popc.b32 %r6, %r6; add.u32 %r5, %r5, %r6; st.global.u32 [%rd1], %r5;"""
    _, out = launch(body, words())
    assert out[:32].tolist() == [232, 132] * 16


def test_threads_loop_as_often_as_each_needs():
    body = f"""{MY_WORD} mov.u32 %r4, 0; mov.u32 %r5, 0;
    LOOP: add.u32 %r5, %r5, %r4; add.u32 %r4, %r4, 1; setp.le.u32 %p1, %r4, %r0; @%p1 bra LOOP;
    st.global.u32 [%rd1], %r5;"""
    counts, out = launch(body, words(96), grid=3)
    assert out.tolist() == [i * (i + 1) // 2 for i in range(96)]
    assert counts.instructions["bra"] == sum(range(1, 97))


def test_threads_that_end_early_are_not_waited_for():
    body = f"""{MY_WORD} setp.ge.u32 %p1, %r1, 40; @%p1 ret;
    {MY_CELL} st.shared.u32 [%r6], %r0; bar.sync 0;
    xor.b32 %r7, %r1, 1; mad.lo.u32 %r6, %r7, 4, %r5; ld.shared.u32 %r8, [%r6]; st.global.u32 [%rd1], %r8;"""
    _, out = launch(body, np.full(128, 7, "u4"), grid=2, block=64, head=SHARED)
    first = [i ^ 1 for i in range(40)] + [7] * 24
    assert out.tolist() == first + [i + 64 if i != 7 or k < 40 else 7 for k, i in enumerate(first)]


def test_barriers_at_two_places_are_one_barrier():
    body = """setp.lt.u32 %p1, %r1, 32; @%p1 bra LOW; bar.sync 0; bra.uni END; LOW: bar.sync 0; END:"""
    assert launch(body, words(), block=64, grid=5)[0].barriers_per_block == 1


def test_threads_that_wait_for_each_other_at_two_places_are_noticed():
    body = "setp.eq.u32 %p1, %r1, 0; @%p1 bra OTHER; bar.sync 0; bra.uni END; OTHER: bar.sync 1; END:"
    with pytest.raises(ptx.DeadlockError, match=r"thread \(0, 0, 0\) of block \(0, 0, 0\) is at barrier 1"):
        launch(body, words())


def test_blocks_may_wait_for_others_that_run_behind_them():
    body = """setp.ne.u32 %p1, %r2, 0; @%p1 bra RAISE;
    WAIT: ld.acquire.gpu.global.u32 %r4, [%rd10]; setp.eq.u32 %p2, %r4, 0; @%p2 bra WAIT;
    mov.u32 %r5, 9; st.global.u32 [%rd11], %r5; bra.uni END;
    RAISE: mov.u32 %r5, 1; st.release.gpu.global.u32 [%rd10], %r5; END:"""
    assert launch(body, np.zeros(1, "u4"), np.zeros(1, "u4"), grid=2, block=1)[2] == 9


def test_a_loop_without_end_is_noticed():
    with pytest.raises(ptx.EndlessError):
        launch("LOOP: bra.uni LOOP;", words(), max_steps=1000)


def test_branches_may_go_by_a_table():
    body = f"""{MY_WORD} and.b32 %r4, %r0, 3;
    TABLE: .branchtargets A, B, A, C;
    brx.idx %r4, TABLE;
    A: mov.u32 %r5, 10; bra.uni END; B: mov.u32 %r5, 11; bra.uni END; C: mov.u32 %r5, 12;
    END: st.global.u32 [%rd1], %r5;"""
    assert launch(body, words(8), block=8)[1].tolist() == [10, 11, 10, 12] * 2


def test_functions_take_parameters_and_give_results():
    head = """.func (.param .b64 result) twice(.param .b64 x, .param .b32 y) {
    .reg .f64 %fd<3>; .reg .f32 %f<2>;
    ld.param.f64 %fd1, [x]; ld.param.f32 %f1, [y]; cvt.f64.f32 %fd2, %f1;
    fma.rn.f64 %fd1, %fd1, 0d4000000000000000, %fd2; st.param.f64 [result+0], %fd1; ret; }"""
    body = f"""{MY_WORD} ld.global.f32 %f1, [%rd1]; cvt.f64.f32 %fd1, %f1; setp.gt.f32 %p1, %f1, 0f40800000;
    @%p1 bra END;
    {{ .param .b64 param0; st.param.f64 [param0+0], %fd1; .param .b32 param1; st.param.f32 [param1+0], %f1;
    .param .b64 retval0; call.uni (retval0), twice, (param0, param1); ld.param.f64 %fd2, [retval0+0]; }}
    cvt.rn.f32.f64 %f2, %fd2; st.global.f32 [%rd1], %f2;
    END:"""
    assert launch(body, words(8, "f4"), block=8, head=head)[1].tolist() == [0, 3, 6, 9, 12, 5, 6, 7]


@pytest.mark.parametrize("warps", ["together", "forward", "reverse"])
@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_blocks_and_warps_run_in_the_order_wanted(order, warps):
    body = """mov.u32 %r4, 1; atom.global.add.u32 %r5, [%rd11], %r4; add.s64 %rd1, %rd10, %rd0;
    st.global.u32 [%rd1], %r5;"""
    _, out, _ = launch(body, words(30 * 1024), np.zeros(1, "u4"), grid=30, block=1024, order=order, warps=warps)
    assert sorted(out) == list(range(30 * 1024))
    assert (out[-1] > out[0]) == (order == "forward") or order == "shuffled"
    assert (out[32] > out[0]) == (warps != "reverse") or order == "shuffled"


# ---------------------------------------------------------------------- exchanges


@pytest.mark.parametrize(("mode", "b"), [("bfly", 5), ("down", 3), ("up", 3), ("idx", 7)])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles_read_from_other_lanes(mode, b, width):
    clamp = (32 - width << 8) | (0 if mode == "up" else 31)
    body = f"""{MY_WORD} shfl.sync.{mode}.b32 %r5|%p1, %r0, {b}, {clamp}, -1;
    selp.u32 %r6, 1000, 0, %p1; add.u32 %r5, %r5, %r6; st.global.u32 [%rd1], %r5;"""
    _, out = launch(body, words())
    lane = np.arange(32)
    source = {"bfly": lane ^ b, "down": lane + b, "up": lane - b, "idx": lane // width * width + b % width}[mode]
    valid = source // width == lane // width
    assert out[:32].tolist() == np.where(valid, source + 1000, lane).tolist()


def test_source_lanes_agree_with_the_definition():
    lane = np.arange(32)
    source, valid = source_lanes("bfly", lane, np.int64(16), np.int64(15))
    assert source.tolist() == [*range(16), *range(16)]
    assert valid.tolist() == [False] * 16 + [True] * 16


def test_lanes_wait_for_the_others_of_their_mask():
    body = f"""{MY_WORD} setp.lt.u32 %p1, %r1, 16; @%p1 bra.uni GO; bra.uni LATE;
    GO: shfl.sync.bfly.b32 %r5, %r0, 16, 31, -1; st.global.u32 [%rd1], %r5; ret;
    LATE: bra.uni GO;"""
    assert launch(body, words(32))[1].tolist() == [i ^ 16 for i in range(32)]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("setp.lt.u32 %p1, %r1, 7; @%p1 ret; shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;", "ended"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bra END; shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1; END: bar.sync 0;", "waits"),
        ("shfl.sync.bfly.b32 %r5, %r0, 1, 31, 0xFFFF;", "not in its own mask"),
        ("setp.lt.u32 %p1, %r1, 8; @!%p1 bra END; shfl.sync.idx.b32 %r5, %r0, 9, 31, 0xFF; END:", "lane 9"),
    ],
)
def test_shuffles_with_lanes_that_are_missing_raise(body, what):
    with pytest.raises(ptx.ShuffleError, match=what):
        launch(body, words())


def test_votes_are_counted_among_the_mask():
    body = f"""{MY_WORD} setp.lt.u32 %p1, %r1, 5; vote.sync.ballot.b32 %r5, %p1, -1; vote.sync.any.pred %p2, %p1, -1;
    vote.sync.all.pred %p3, %p1, -1; selp.u32 %r6, 256, 0, %p2; selp.u32 %r7, 512, 0, %p3; or.b32 %r5, %r5, %r6;
    or.b32 %r5, %r5, %r7; redux.sync.add.u32 %r8, %r1, -1; shl.b32 %r8, %r8, 16; or.b32 %r5, %r5, %r8;
    st.global.u32 [%rd1], %r5;"""
    assert set(launch(body, words(32))[1].tolist()) == {31 | 256 | 496 << 16}


# ------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("ld.global.u32 %r4, [%rd10+256];", ptx.OutOfBoundsError),
        ("ld.global.u32 %r4, [%rd10+-4];", ptx.OutOfBoundsError),
        ("ld.global.u64 %rd4, [%rd10+252];", ptx.MisalignedError),
        ("cvt.u32.u64 %r4, %rd10; cvt.u64.u32 %rd4, %r4; ld.global.u32 %r4, [%rd4];", ptx.OutOfBoundsError),
        ("mov.u64 %rd4, 0; ld.u32 %r4, [%rd4];", ptx.OutOfBoundsError),
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd10+8];", ptx.MisalignedError),
        ("ld.shared.u32 %r4, [tile+1024];", ptx.OutOfBoundsError),
        ("ld.shared.u32 %r4, [tile+2];", ptx.MisalignedError),
        ("ld.shared.u32 %r4, [tile];", ptx.UninitialisedError),
        ("st.shared.u32 [tile], %r1;", ptx.SharedRaceError),
        (f"{MY_CELL} st.shared.u32 [%r6], %r1; ld.shared.u32 %r4, [tile+8];", ptx.SharedRaceError),
        (f"{MY_CELL} st.shared.u32 [%r6], %r1; bar.sync 0; ld.shared.u32 %r4, [tile+8]; st.shared.u32 [%r6], %r1;",
         ptx.SharedRaceError),
        ("st.global.u32 [%rd10], %r0;", ptx.GlobalRaceError),
        ("mov.u64 %rd4, tile; cvta.shared.u64 %rd4, %rd4; ld.global.u32 %r4, [%rd4];", ptx.OutOfBoundsError),
    ],
)  # fmt: skip
def test_what_must_not_happen_raises(body, error):
    with pytest.raises(error, match=r"(ld|st)\..*thread \(\d+, 0, 0\) of block \(0, 0, 0\): address 0x"):
        launch(body, words(), head=SHARED)


def test_an_error_names_the_thread_and_the_address():
    body = f"{MY_WORD} ld.global.u32 %r4, [%rd1];"
    with pytest.raises(
        ptx.OutOfBoundsError, match=r"ld.global.u32 %r4, \[%rd1\]: thread \(6, 0, 0\) of block \(2, 0, 0\)"
    ):
        launch(body, words(70), grid=3)


def test_global_memory_that_nobody_wrote_is_not_read():
    memory = ptx.Memory()
    address = memory.allocate(256)
    with pytest.raises(ptx.UninitialisedError):
        ptx.run(kernel(f"{MY_WORD} ld.global.u32 %r4, [%rd1];", 1), 1, 32, [address], memory)
    ptx.run(kernel(f"{MY_WORD} st.global.u32 [%rd1], %r1;", 1), 1, 32, [address], memory)
    assert memory.get(address, 32, "u4").tolist() == list(range(32))
    with pytest.raises(ptx.UninitialisedError):
        memory.get(address, 33, "u4")


def test_arrays_may_start_anywhere_and_be_mapped():
    memory, array = ptx.Memory(), words(32)
    shifted, mapped = memory.put(array, offset=4), memory.map(array)
    assert shifted % 256 == 4
    assert mapped % 256 == 0
    body = "add.s64 %rd1, %rd10, %rd0; ld.global.u32 %r4, [%rd1]; add.s64 %rd2, %rd11, %rd0; add.u32 %r4, %r4, 1;"
    ptx.run(kernel(f"{body} st.global.u32 [%rd2], %r4;", 2), 1, 32, [shifted, mapped], memory)
    assert array.tolist() == list(range(1, 33))
    with pytest.raises(ptx.MisalignedError):
        ptx.run(kernel("ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd10];", 1), 1, 32, [shifted], memory)
    ptx.run(kernel("ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd10+12];", 1), 1, 32, [shifted], memory)


def test_barriers_order_shared_memory():
    rotate = "add.u32 %r7, %r1, 33; and.b32 %r7, %r7, 63; mad.lo.u32 %r7, %r7, 4, %r5;"
    body = f"""{MY_WORD} {MY_CELL} {rotate} st.shared.u32 [%r6], %r0; bar.sync 0; ld.shared.u32 %r8, [%r7]; bar.sync 0;
    st.shared.u32 [%r6], %r8; bar.sync 0; ld.shared.u32 %r8, [%r7]; st.global.u32 [%rd1], %r8;"""
    _, out = launch(body, words(128), grid=2, block=64, head=SHARED)
    assert out[:64].tolist() == [(i + 66) % 64 for i in range(64)]


def test_syncing_a_warp_orders_the_shared_memory_of_its_lanes_only():
    body = f"""{MY_CELL} st.shared.u32 [%r6], %r0; bar.warp.sync -1; xor.b32 %r7, %r6, %s; ld.shared.u32 %r8, [%r7];
    bar.warp.sync -1; st.shared.u32 [%r6], %r8;"""
    launch(body.replace("%s", "4"), words(128), block=64, head=SHARED)
    with pytest.raises(ptx.SharedRaceError):
        launch(body.replace("%s", "128"), words(128), block=64, head=SHARED)


def test_races_need_not_be_checked():
    launch("st.shared.u32 [tile], %r1; st.global.u32 [%rd10], %r1;", words(), head=SHARED,
           shared_races=False, global_races=False)  # fmt: skip


@pytest.mark.parametrize(
    "instruction",
    ["wmma.load.a.sync.x %r1;", "add.rq.f32 %f1, %f2, %f3;", "cvt.f32.f64 %f1;", "add.f32 %f1, %f2, nowhere;",
     "mul.lo.foo.u32 %r1, %r2, %r3;", "add.cc.u32 %r1, %r2, %r3;"],
)  # fmt: skip
def test_unknown_instructions_are_named_before_anything_runs(instruction):
    memory = ptx.Memory()
    address = memory.put(words())
    with pytest.raises(ptx.UnknownInstructionError, match=instruction[:8]):
        ptx.run(kernel(f"{MY_WORD} st.global.u32 [%rd1], 0; {instruction}", 1), 1, 32, [address], memory)
    assert memory.get(address, 64, "u4").tolist() == words().tolist()


def test_launches_that_do_not_fit_raise():
    module, memory = kernel("", 1, limits=".maxntid 64, 1, 1"), ptx.Memory()
    for block, args in [(65, [0]), (64, []), (64, [b"1234"]), (0, [0])]:
        with pytest.raises(ptx.LaunchError):
            ptx.run(module, 1, block, args, memory)
    ptx.run(module, 1, (8, 8), [0], memory)


def test_grids_and_blocks_have_three_dimensions():
    body = """mov.u32 %r4, %tid.y; mov.u32 %r5, %tid.z; mov.u32 %r6, %ctaid.y; mov.u32 %r8, %nctaid.x;
    mad.lo.u32 %r4, %r4, 4, %r1; mad.lo.u32 %r4, %r5, 8, %r4; mad.lo.u32 %r9, %r6, %r8, %r2;
    mad.lo.u32 %r9, %r9, 24, %r4; mul.wide.u32 %rd1, %r9, 4; add.s64 %rd1, %rd10, %rd1; st.global.u32 [%rd1], %r9;"""
    _, out = launch(body, np.zeros(144, "u4"), grid=(3, 2), block=(4, 2, 3))
    assert out.tolist() == list(range(144))


# ------------------------------------------------------------------------- counts


def test_counts_are_those_of_the_access_pattern():
    body = """mul.wide.u32 %rd0, %r0, 16; add.s64 %rd1, %rd10, %rd0;
    ld.global.nc.L1::no_allocate.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];
    mul.wide.u32 %rd0, %r0, 64; add.s64 %rd2, %rd11, %rd0; st.global.u32 [%rd2], %r7;"""
    counts, _, out = launch(body, words(1024), words(4096), grid=4, block=64)
    assert out[::16].tolist() == list(range(3, 1024, 4))
    assert (counts.loads.requests, counts.loads.sectors, counts.loads.bytes) == (8, 128, 4096)
    assert (counts.stores.requests, counts.stores.sectors, counts.stores.bytes) == (8, 256, 1024)
    assert (counts.loads.share(16), counts.stores.share(16)) == (1.0, 0.0)
    assert set(counts.traffic["p0"].read) == {1}
    assert Counter(counts.traffic["p1"].written.tolist()) == {1: 1024, 0: 4096 * 4 - 1024}
    assert counts.of_class("ld") == 3 * 256
    assert counts.instructions["st.global.u32"] == 256


@pytest.mark.parametrize(("stride", "conflicts"), [(0, 0), (1, 0), (2, 1), (3, 0), (4, 3), (8, 7)])
def test_bank_conflicts_are_passes_beyond_the_first(stride, conflicts):
    body = f"""{MY_CELL} setp.eq.u32 %p1, %r1, 0; mov.u32 %r9, 0; mov.u32 %r4, %r5;
    @!%p1 bra READ; LOOP: st.shared.u32 [%r4], 1; add.u32 %r4, %r4, 4; add.u32 %r9, %r9, 1;
    setp.lt.u32 %p2, %r9, 256; @%p2 bra LOOP; READ: bar.sync 0; mul.lo.u32 %r7, %r1, {4 * stride};
    add.u32 %r7, %r7, %r5; ld.shared.u32 %r8, [%r7];"""
    assert launch(body, words(), head=SHARED)[0].conflicts == conflicts


@pytest.mark.parametrize(("vector", "size"), [(".v2.u32 {%r8, %r9}", 8), (".v4.u32 {%r8, %r9, %r10, %r11}", 16)])
def test_wide_accesses_in_order_have_no_bank_conflicts(vector, size):
    type_, registers = vector.split(" ", 1)
    body = f"""mov.u32 %r5, tile; mad.lo.u32 %r6, %r1, {size}, %r5; mov.u32 %r8, 0; mov.u32 %r9, 0; mov.u32 %r10, 0;
    mov.u32 %r11, 0; st.shared{type_} [%r6], {registers};"""
    counts, _ = launch(body, words(), head=SHARED)
    assert (counts.conflicts, counts.shared_accesses) == (0, 32)


# ------------------------------------------------------------------- memory spaces


def test_generic_addresses_reach_every_space():
    body = f"""{MY_WORD} .local .align 8 .b8 depot[16]; mov.u64 %rd2, depot; cvta.local.u64 %rd3, %rd2;
    st.u32 [%rd3+4], %r0; ld.local.u32 %r4, [%rd2+4];
    {MY_CELL} cvt.u64.u32 %rd4, %r6; cvta.shared.u64 %rd5, %rd4; st.u32 [%rd5], %r4; ld.shared.u32 %r5, [%r6];
    and.b32 %r7, %r1, 1; setp.eq.u32 %p1, %r7, 0; selp.b64 %rd6, %rd5, %rd3, %p1; @!%p1 add.s64 %rd6, %rd6, 4;
    ld.u32 %r8, [%rd6]; add.u32 %r8, %r8, %r5; cvta.to.shared.u64 %rd7, %rd5; sub.s64 %rd7, %rd7, %rd4;
    cvt.u32.u64 %r9, %rd7; add.u32 %r8, %r8, %r9; st.u32 [%rd1], %r8;"""
    assert launch(body, words(32), head=SHARED)[1].tolist() == list(range(0, 64, 2))


def test_spaces_are_told_apart():
    body = f"""{MY_WORD} mov.u64 %rd2, tile; cvta.shared.u64 %rd2, %rd2;
    isspacep.shared %p1, %rd2; isspacep.global %p2, %rd2; isspacep.global %p3, %rd1;
    selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 2, 0, %p2; selp.u32 %r6, 4, 0, %p3;
    or.b32 %r4, %r4, %r5; or.b32 %r4, %r4, %r6; st.global.u32 [%rd1], %r4;"""
    assert set(launch(body, words(32), head=SHARED)[1].tolist()) == {5}


@pytest.mark.parametrize(
    ("vector", "registers"),
    [
        ("v2.b64", "{%rd4, %rd5}"),
        ("v4.b32", "{%r4, %r5, %r6, %r7}"),
        ("v4.u16", "{%rs1, %rs2, %rs3, %rs4}"),
        ("v2.f64", "{%fd1, %fd2}"),
    ],
)
def test_vectors_are_loaded_and_stored_whole(vector, registers):
    size = int(vector[1]) * int(vector[-2:]) // 8
    body = f"""mul.wide.u32 %rd1, %r0, {size}; add.s64 %rd2, %rd10, %rd1; add.s64 %rd3, %rd11, %rd1;
    ld.global.{vector} {registers}, [%rd2]; st.global.{vector} [%rd3], {registers};"""
    x = np.random.default_rng(0).integers(0, 256, 32 * size, "u1")
    counts, _, y = launch(body, x, np.zeros_like(x))
    assert np.array_equal(x, y)
    assert (counts.loads.share(size), counts.stores.share(size)) == (1, 1)


def test_warps_that_wait_for_later_ones_get_what_they_wait_for():
    body = """setp.ge.u32 %p1, %r1, 32; @%p1 bra RAISE;
    WAIT: ld.volatile.global.u32 %r4, [%rd10]; setp.eq.u32 %p2, %r4, 0; @%p2 bra WAIT; bra.uni END;
    RAISE: setp.ne.u32 %p3, %r1, 32; @%p3 bra END; st.volatile.global.u32 [%rd10], 1; END:"""
    for warps in ("together", "forward", "reverse"):
        launch(body, np.zeros(1, "u4"), block=64, warps=warps)


def test_constants_and_dynamic_shared_memory_are_there():
    head = """.extern .shared .align 16 .b8 dynamic[]; .const .align 4 .u32 weights[4] = {1, 2, 0x10, 7};
    .global .align 8 .b8 bytes[8] = {255, 1};"""
    body = f"""{MY_WORD} and.b32 %r4, %r1, 3; mul.wide.u32 %rd2, %r4, 4; mov.u64 %rd3, weights;
    add.s64 %rd3, %rd3, %rd2; ld.const.u32 %r5, [%rd3]; ld.global.u16 %rs1, [bytes]; cvt.u32.u16 %r6, %rs1;
    add.u32 %r5, %r5, %r6; mov.u32 %r7, dynamic; mad.lo.u32 %r7, %r1, 4, %r7;
    st.shared.u32 [%r7], %r5; ld.shared.u32 %r5, [%r7];
    mov.u32 %r8, %dynamic_smem_size;
    add.u32 %r5, %r5, %r8; st.global.u32 [%rd1], %r5;"""
    _, out = launch(body, words(32), head=head, shared_bytes=128)
    assert out[:4].tolist() == [511 + 128 + w for w in (1, 2, 16, 7)]
    with pytest.raises(ptx.OutOfBoundsError):
        launch(body, words(32), head=head, shared_bytes=124)


def test_atomics_take_turns():
    body = """add.s64 %rd1, %rd10, %rd0; atom.global.add.f32 %f1, [%rd11], 0f3F800000; st.global.f32 [%rd1], %f1;
    red.global.max.u32 [%rd12], %r0; atom.global.cas.b32 %r4, [%rd13], 0, 5; mov.u32 %r5, tile;
    setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r5], 0; bar.sync 0; atom.shared.inc.u32 %r6, [%r5], 9;"""
    counts, first, total, largest, swapped = launch(
        body, words(64, "f4"), np.zeros(1, "f4"), np.zeros(1, "u4"), np.zeros(1, "u4"), grid=2, head=SHARED
    )
    assert first.tolist() == list(range(64))
    assert (total[0], largest[0], swapped[0], counts.atomics) == (64, 63, 5, 256)


def test_a_module_that_ran_goes_with_its_last_user():
    """No search for cycles is needed: those between tests leave out what earlier files made."""
    module = kernel(f"{MY_WORD} st.global.u32 [%rd1], %r0;", 1)
    memory = ptx.Memory()
    ptx.run(module, 1, 32, [memory.put(words(32))], memory)
    gone = weakref.ref(module)
    gc.disable()
    try:
        del module
        assert gone() is None
    finally:
        gc.enable()
