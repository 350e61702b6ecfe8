"""The ops, one in each file, and the table of them.

The ops share the recurrence; each declares the arrays that it reads and writes (its operands), what it gathers of a
row (its fold), and what its results are made of.
"""

from .. import kernel_code
from .declare import WHERE, Elements, Op, Operand, X
from .log_softmax import LOG_SOFTMAX
from .logsumexp import LOGSUMEXP
from .softmax import SOFTMAX
from .states import NUMBER_OPS, finishing, folding, identity, merging, moving, reading, summing

kernel_code.register()

__all__ = [
    "OPS", "STATE_OPS", "WHERE", "Elements", "Op", "Operand", "X", "finishing", "folding", "identity", "merging",
    "moving", "reading", "summing",
]  # fmt: skip

OPS = {op.name: op for op in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)}
"""The public functions."""

STATE_OPS = NUMBER_OPS | {op.name: op for op in (m(SOFTMAX) for m in (folding, merging, identity, moving, summing))}
"""The ops on states that outlive a call, except those that give an op's results."""
