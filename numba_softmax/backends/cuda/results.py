"""Results of elements and of rows, from the states of rows, and from weights or elements that were kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from ... import kernel_code
from ...math.expmath import rounded
from ...math.lanewise import Value
from ...math.simd import convert
from ...math.weights import shift_of
from ..spec import Spec, make_finisher
from .access import Access, Element, Line, Numbers
from .folding import Folded, Folding, Scale, State, Sums

kernel_code.register()

Vectors = tuple[Value, ...]


class Known(NamedTuple):
    """The state, numbers and scale of a row that is folded."""

    state: State
    row: tuple[Numbers, ...]  # those that the op reads a row
    scale: Scale


class Results:
    """Makes an op's results, and writes them."""

    def __init__(self, spec: Spec, access: Access, folding: Folding) -> None:
        self.spec, self.access, self.folding = spec, access, folding
        elements, self._rows = spec.op.elements, spec.op.rows
        self.of_elements = elements is not None
        self.uses_others = elements is not None and elements.finish is not None
        self.keeps_weights = spec.of_softmax and not spec.narrow  # for 16 bits, computing them again is as fast
        self._finisher = make_finisher(spec)

    def load_and_store(self, line: Line, start: Value, stop: Value, known: Known) -> None:
        """Load a thread's elements start to stop, and write their results."""
        parts = self.access.load(line, start, stop)
        self.access.store(line, parts, self.from_elements(self.access.elements(parts, known.scale), known))

    def from_elements(self, elements: list[Element], known: Known) -> list[Vectors]:
        """The results of a thread's elements."""
        of_softmax, folding, state, scale = self.spec.of_softmax, self.folding, known.state, known.scale
        share = None
        if of_softmax:
            frame, unit = folding.frame_of(shift_of(state[0]), scale)
            share = folding.share_of_state(state, unit)
        prepared = self._finisher.prepare(share, state, self._row(known))
        return [
            self._finisher.results(
                rounded(folding.weigh(x, frame, scale)) if of_softmax else x, others, prepared, scale, None
            )
            for x, others in elements
        ]

    def from_weights(self, folded: Folded, others: list[Vectors], sums: Sums, known: Known) -> list[Vectors]:
        """The results of weights relative to the row's maximum, from the row's sums."""
        return self._from_weights(folded, others, self.folding.share_of_sums(sums), known, None)

    def from_far_weights(self, folded: Folded, others: list[Vectors], known: Known) -> list[Vectors]:
        """The results of weights relative to the maximum of a part of the row."""
        # A small factor makes weights subnormal only in the second multiplication.
        share = self.folding.share_of_folded(folded, known.state, known.scale)
        return self._from_weights(folded, others, share, known, 1.0 / self.folding.up)

    def _from_weights(
        self, folded: Folded, others: list[Vectors], share: Any, known: Known, down: float | None
    ) -> list[Vectors]:
        prepared = self._finisher.prepare(share, known.state, self._row(known))
        return [
            self._finisher.results(w, of_w, prepared, known.scale, down)
            for w, of_w in zip(folded.weights, others, strict=True)
        ]

    def _row(self, known: Known) -> tuple[Numbers, ...]:
        """The numbers of the row, in the type of its state."""
        number = self.folding.number
        return tuple(tuple(convert(number, v) for v in numbers) for numbers in known.row)

    def store_row(self, line: Line, known: Known, here: Value) -> None:
        """Write the row's results, if the op has any, in one of its threads."""
        if self._rows is not None:
            self.access.store_row(line.placed(), self._rows(known.state, self._row(known), known.scale), here)
