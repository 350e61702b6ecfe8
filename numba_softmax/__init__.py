"""Softmax, log_softmax and logsumexp for NumPy and CUDA arrays, compiled by Numba; and their state, block by block.

>>> import numba_softmax as ns
>>> ns.softmax([1.0, 2.0, 3.0]).round(4)
array([0.09  , 0.2447, 0.6652])
"""

from __future__ import annotations

from . import refusals
from .api import log_softmax, logsumexp, softmax, warmup
from .streaming.states import OnlineSoftmax

__all__ = ["OnlineSoftmax", "__version__", "log_softmax", "logsumexp", "softmax", "warmup"]
__version__ = "0.1.0"

refusals.register()
