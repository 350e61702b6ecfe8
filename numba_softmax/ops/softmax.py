"""softmax: ``exp(x - m) / l``, each weight over the sum of all."""

from .. import kernel_code
from ..math.folds import ALL
from .declare import WHERE, Elements, Op, X, result

kernel_code.register()

SOFTMAX = Op("softmax", (X, WHERE, result(masked=0.0)), ALL, Elements(of_softmax=True))
