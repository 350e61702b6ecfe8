"""Small kernels around instructions that a test is about."""

import math

import numpy as np

from .launch import run
from .memory import Memory
from .parser import parse

TYPES = {"f16": "f2", "f32": "f4", "f64": "f8", "s32": "i4", "u32": "u4", "b32": "u4", "s64": "i8", "u64": "u8",
         "b64": "u8", "u16": "u2", "s16": "i2", "b16": "u2", "u8": "u1", "s8": "i1"}  # fmt: skip
SIZES = {t: np.dtype(d).itemsize for t, d in TYPES.items()}


def kernel(body, parameters=4, head="", limits=""):
    """A kernel with 64-bit parameters, which are in %rd10, %rd11, ..., and the thread's number in %r0."""
    names = ", ".join(f".param .u64 p{i}" for i in range(parameters))
    loads = "".join(f"ld.param.u64 %rd{10 + i}, [p{i}];\n" for i in range(parameters))
    return parse(f"""
    .version 8.0
    .target sm_80
    {head}
    .visible .entry kernel({names}) {limits} {{
    .reg .pred %p<10>; .reg .b16 %rs<10>; .reg .b32 %r<20>; .reg .b64 %rd<30>; .reg .f32 %f<20>; .reg .f64 %fd<20>;
    {loads}
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r0, %r2, %r3, %r1;
    mul.wide.u32 %rd0, %r0, 4;
    {body}
    ret;
    }}""")


def computed(instruction, result, *operands, types=None, **options):
    """What an instruction on d and a, b, c makes of arrays, each of its own type."""
    types = types or [{v: k for k, v in TYPES.items() if k[0] != "b"}[o.dtype.str[1:]] for o in operands]
    registers = " ".join(f".reg .b{8 * SIZES[t]} {x};" for x, t in zip("dabc", [result, *types], strict=False))
    body, n = registers, len(operands[0])
    for i, (x, t) in enumerate(zip("abc", types, strict=False)):
        body += (
            f"mul.wide.u32 %rd0, %r0, {SIZES[t]}; add.s64 %rd1, %rd1{i}, %rd0; ld.global.b{8 * SIZES[t]} {x}, [%rd1];"
        )
    body += f"{instruction} mul.wide.u32 %rd0, %r0, {SIZES[result]}; add.s64 %rd1, %rd13, %rd0;"
    body += f"st.global.b{8 * SIZES[result]} [%rd1], d;"
    memory = Memory()
    block = math.gcd(n, 256)
    addresses = [memory.put(o) for o in operands] + [0] * (3 - len(operands))
    out = memory.allocate(n * SIZES[result])
    run(kernel(f"{{ {body} }}"), n // block, block, [*addresses, out], memory, **options)
    return memory.get(out, n, TYPES[result])


def launch(body, *arrays, grid=1, block=32, head="", limits="", **options):
    """Run a kernel on copies of arrays; gives its counts and what is in the arrays then."""
    memory = Memory()
    addresses = [memory.put(a, name=f"p{i}") for i, a in enumerate(arrays)]
    module = kernel(body, len(arrays), head, limits)
    counts = run(module, grid, block, addresses, memory, **options)
    return counts, *(memory.get(a, b.shape, b.dtype) for a, b in zip(addresses, arrays, strict=True))
