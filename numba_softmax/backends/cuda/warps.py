"""Reductions of maxima, sums and states over the threads along a row: the lanes of a warp, then the warps."""

from __future__ import annotations

from ... import kernel_code
from ...math.folds import contributions, only
from ...math.lanewise import Value
from ...math.simd import halvings, larger, like
from . import device
from .folding import Folding, Scale, State, Sums, added_by
from .geometry import Geometry

kernel_code.register()


class Warps:
    """Reductions over the threads of a row, all of which get the result."""

    def __init__(self, folding: Folding, geometry: Geometry) -> None:
        self.folding, self.geometry = folding, geometry

    def maximum(self, m: Value, lanes: int) -> Value:
        """The maximum over `lanes` lanes of a warp."""
        for step in halvings(lanes):
            m = larger(m, device.exchange(m, step))
        return m

    def sums(self, sums: Sums, lanes: int) -> Sums:
        """The sums over `lanes` lanes of a warp."""
        return added_by(device.exchange, lanes, self.folding.fold.sums, sums)

    def merge_lanes(self, state: State, lanes: int, scale: Scale) -> State:
        """The merged state of `lanes` lanes of a warp."""
        fold = self.folding.fold
        m = self.maximum(state[0], lanes)
        sums = added_by(device.exchange, lanes, contributions(fold), fold.rescaled(state, m, scale))
        return fold.state_of(m, *sums)

    def merge_warps(self, state: State, row: Value, thread: Value, scale: Scale) -> State:
        """The merged state of a row's warps; `row` is the row's number in the block.

        Each warp stores its state in shared memory. After the barrier each warp reads all of them, one a lane.
        """
        warps, number = self.geometry.warps, self.folding.number
        if warps == 1:
            return state
        numbers = only(state)
        slots = [
            device.shared_memory(thread, f"slots_{i}", number, self.geometry.rows_per_block * warps)
            for i in range(len(numbers))
        ]
        warp, lane_number = device.quotient_and_rest(thread, device.WARP)
        with thread.builder.if_then((lane_number == 0).ir):
            for slot, v in zip(slots, numbers, strict=True):
                device.write_shared(slot, row * warps + warp, v)
        device.barrier(thread)
        mine = row * warps + (lane_number & (warps - 1))
        theirs = self.folding.restored([device.read_shared(number, slot, mine) for slot in slots])
        return self.merge_lanes(theirs, warps, scale)

    def merge(self, state: State, thread: Value, scale: Scale) -> State:
        """The merged state of all threads of a block, which has one row."""
        return self.merge_warps(self.merge_lanes(state, device.WARP, scale), like(thread, 0), thread, scale)
