"""Barriers, and exchanges among the lanes of a warp."""

import numpy as np

from .arithmetic import number
from .decoding import decodes
from .errors import ShuffleError
from .parser import immediate

WARP = 32


def meeting(read_mask, text):
    """What lets lanes go on when all lanes of their masks have arrived at a block, and wait until then."""

    def meet(batch, block, active):
        lanes = active.lanes
        if len(lanes) == batch.n and np.all(read_mask(batch, None) == 0xFFFFFFFF):
            return active
        waiting = np.flatnonzero(batch.waits_at == block)
        if len(waiting):
            lanes = np.union1d(lanes, waiting)
        mask = np.broadcast_to(read_mask(batch, lanes), len(lanes))
        _check_masks(batch, lanes, mask, text)
        missing = mask & ~_present(batch, lanes)[lanes // WARP]
        going = lanes[missing == 0]
        batch.park(lanes[missing != 0], block)
        if not len(going):
            return None
        if len(going) == len(active.lanes) and not len(waiting):
            return active
        batch.waits_at[going] = -1
        return type(active)(going, len(going) == len(batch.everybody), batch.n)

    return meet


def _present(batch, lanes):
    """For each warp, the bits of those of its lanes that are among `lanes`."""
    present = np.zeros(batch.n, bool)
    present[lanes] = True
    return np.packbits(present.reshape(-1, WARP), axis=1, bitorder="little").view(np.uint32).reshape(-1)


def _check_masks(batch, lanes, mask, text):
    outside = mask >> (lanes % WARP).astype(np.uint32) & 1 == 0
    if outside.any():
        raise ShuffleError(f"{text}: {batch.name(lanes[np.argmax(outside)])} is not in its own mask")
    gone = mask & ~_present(batch, batch.everybody)[lanes // WARP]
    if gone.any():
        i = np.argmax(gone != 0)
        raise ShuffleError(f"{text}: {batch.name(lanes[i])} names lanes that have ended: {int(gone[i]):#x}")


@decodes("bar", "barrier")
def _barrier(scope, op):
    operands = op.instruction.operands
    if op.take("warp"):
        op.take("sync")
        wait = meeting(scope.reader(operands[0], "b32"), op.instruction)

        def ordered(batch, active):
            batch.warp_epoch[np.unique(active.lanes // WARP)] += 1

        return wait, ordered
    op.take("cta")
    if not op.take("sync") or len(operands) != 1:
        op.unknown()
    op.take("aligned")
    name = number(operands[0])
    return (lambda batch, block, active: batch.barrier(block, active, name)), None


@decodes("membar", "fence")
def _fence(scope, op):
    """Nothing to do: memory is sequentially consistent here."""
    op.take("sc", "acq_rel", "acquire", "release")
    op.take("cta", "gl", "gpu", "sys", "cluster")


@decodes("shfl")
def _shuffle(scope, op):
    op.take("sync") or op.unknown()
    mode, type_ = op.take("bfly", "down", "up", "idx"), op.type()
    result, source, b, c, mask = op.instruction.operands
    result, _, flag = result.partition("|")
    write, write_flag = scope.writer(result, type_), scope.writer(flag or "_", "pred")
    reads = [scope.reader(o, "u32") for o in (b, c, mask)]
    read = scope.reader(source, type_)

    def sources(batch, lanes):
        """The numbers of the lanes that these read from, and whether those are in range."""
        b, c, mask = (np.asarray(r(batch, lanes)).astype(np.int64) for r in reads)
        from_lane, valid = source_lanes(mode, lanes % WARP, b, c)
        missing = mask >> from_lane & 1 == 0
        if missing.any():
            i = int(np.argmax(missing))
            name = batch.name(lanes[i])
            raise ShuffleError(
                f"{op.instruction}: {name} reads from lane {int(from_lane[i])}, which does not take part"
            )
        return lanes - lanes % WARP + from_lane, valid

    constant = all(immediate(o, "u32") is not None for o in (b, c, mask))
    of_all = {}  # where all lanes take part, by their number

    def step(batch, active):
        lanes = active.lanes
        if not constant or active.exact is not None:
            source, valid = sources(batch, lanes)
        else:
            if batch.n not in of_all:
                of_all[batch.n] = sources(batch, lanes)
            source, valid = of_all[batch.n]
        values = np.asarray(read(batch, None))
        values = values[source] if values.ndim else np.full(len(lanes), values)
        write(batch, active.exact, values)
        write_flag(batch, active.exact, valid.copy())

    return meeting(reads[2], op.instruction), step


def source_lanes(mode, lane, b, c):
    """The lane that each lane reads from, itself if out of range, and whether it is not (PTX ISA, shfl.sync)."""
    b, clamp, segment = b & 31, c & 31, c >> 8 & 31
    low = lane & segment
    high = low | (clamp & ~segment)
    if mode == "up":
        source, valid = lane - b, lane - b >= high
    elif mode == "idx":
        source = low | (b & ~segment)
        valid = source <= high
    else:
        source = lane + b if mode == "down" else lane ^ b
        valid = source <= high
    return np.where(valid, source, lane), np.broadcast_to(valid, lane.shape).copy()


def _of_warps(batch, active, bits):
    """For each active lane, the bits of its warp's lanes for which `bits`, an array over them, is set."""
    return _present(batch, active.lanes[bits])[active.lanes // WARP]


@decodes("activemask")
def _active_mask(scope, op):
    write = scope.writer(op.instruction.operands[0], op.type())

    def step(batch, active):
        write(batch, active.exact, _of_warps(batch, active, np.ones(len(active.lanes), bool)))

    return step


@decodes("vote")
def _vote(scope, op):
    op.take("sync") or op.unknown()
    mode, type_ = op.take("all", "any", "uni", "ballot") or op.unknown(), op.type()
    result, source, mask = op.instruction.operands
    write, read_mask = scope.writer(result, type_), scope.reader(mask, "u32")
    negated = source.startswith("!")
    read = scope.reader(source.lstrip("!"), "pred")

    def step(batch, active):
        votes = np.broadcast_to(read(batch, active.lanes) != negated, len(active.lanes))
        mask = read_mask(batch, active.lanes)
        ballot = _of_warps(batch, active, votes) & mask
        results = {"ballot": ballot, "any": ballot != 0, "all": ballot == mask, "uni": (ballot == 0) | (ballot == mask)}
        write(batch, active.exact, results[mode].copy())

    return meeting(read_mask, op.instruction), step


@decodes("redux")
def _redux(scope, op):
    op.take("sync") or op.unknown()
    mode, type_ = op.take("add", "min", "max", "and", "or", "xor") or op.unknown(), op.type()
    result, source, mask = op.instruction.operands
    write, read, read_mask = scope.writer(result, type_), scope.reader(source, type_), scope.reader(mask, "u32")
    names = {"min": "minimum", "max": "maximum", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
    reduce = getattr(np, names.get(mode, mode))

    def step(batch, active):
        lanes = active.lanes
        values = np.broadcast_to(read(batch, lanes), len(lanes))
        mask = np.broadcast_to(read_mask(batch, lanes), len(lanes)).astype(np.int64)
        groups = (lanes // WARP << 32) | mask  # lanes of one warp with one mask
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
        totals = np.empty_like(values)
        totals[order] = np.repeat(
            reduce.reduceat(values[order], starts, dtype=values.dtype), np.diff(np.r_[starts, len(lanes)])
        )
        write(batch, active.exact, totals)

    return meeting(read_mask, op.instruction), step
