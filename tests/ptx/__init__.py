"""An interpreter for PTX, in NumPy: runs compiled CUDA kernels where there is no GPU, and checks what they do.

>>> import numpy as np, ptx
>>> text = '''
... .visible .entry double(.param .u64 x) {
...     .reg .b32 %r<2>; .reg .b64 %rd<4>; .reg .f32 %f<3>;
...     ld.param.u64 %rd1, [x];
...     mov.u32 %r1, %tid.x;
...     mul.wide.u32 %rd2, %r1, 4;
...     add.s64 %rd3, %rd1, %rd2;
...     ld.global.f32 %f1, [%rd3];
...     add.f32 %f2, %f1, %f1;
...     st.global.f32 [%rd3], %f2;
...     ret;
... }'''
>>> memory = ptx.Memory()
>>> x = memory.put(np.arange(4, dtype="f4"))
>>> counts = ptx.run(ptx.parse(text), grid=1, block=4, args=[x], memory=memory)
>>> memory.get(x, 4, "f4").tolist(), counts.loads.bytes, counts.loads.sectors
([0.0, 2.0, 4.0, 6.0], 16, 1)
"""

from .counts import Counts, Requests
from .errors import (
    DeadlockError,
    EndlessError,
    GlobalRaceError,
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    ParseError,
    PtxError,
    SharedRaceError,
    ShuffleError,
    UninitialisedError,
    UnknownInstructionError,
)
from .launch import run
from .memory import Memory
from .parser import Module, parse

__all__ = [
    "Counts", "DeadlockError", "EndlessError", "GlobalRaceError", "LaunchError", "Memory", "MisalignedError",
    "Module", "OutOfBoundsError", "ParseError", "PtxError", "Requests", "SharedRaceError", "ShuffleError",
    "UninitialisedError", "UnknownInstructionError", "parse", "run",
]  # fmt: skip
