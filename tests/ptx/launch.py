"""A launch: arguments, the order of blocks, and where variables lie."""

from collections import Counter

import numpy as np

from .counts import Counts
from .errors import LaunchError
from .machine import WARP, Batch, Settings
from .memory import FIRST_OFFSET
from .parser import SIZES
from .program import Program
from .spaces import Spaces

LANES = 16384
"""So many threads are in flight together, in as many blocks as that makes."""

STATIC_SHARED = 48 << 10
"""Bytes of shared memory that a kernel can declare; more must be dynamic."""


def run(module, grid, block, args, memory, *, entry=None, shared_bytes=0, **settings):
    """Launch a kernel, and give the `Counts` of what it did.

    Parameters
    ----------
    module : Module
        From `parse`.
    grid, block : int or tuple of ints
        How many blocks, and threads in each.
    args : sequence
        A number, or bytes, for each parameter of the kernel.
    memory : Memory
        Global memory.
    entry : str, optional
        The kernel's name, or how it starts or ends; needed if there are several.
    shared_bytes : int, optional
        The size of dynamic shared memory.
    approximation : float or "mixed", optional
        How far off approximate instructions are, from -1 to 1 times what PTX allows; "mixed" varies it by the bits
        of the argument.
    order : "forward", "reverse" or "shuffled", optional
        That of the blocks.
    warps : "together", "forward" or "reverse", optional
        Whether the warps of a block run side by side or, as long as they can, one after the other.
    shared_races, global_races : bool, optional
        Whether to raise on races in shared memory, and on two threads that write one byte of global memory.
    max_steps : int, optional
        How many basic blocks a batch of blocks may run before it counts as endless.

    Raises
    ------
    PtxError
        One of its kinds, if the kernel or the launch is wrong.
    """
    settings = Settings(**settings)
    program = _program(module, entry)
    grid, block = _three(grid), _three(block)
    threads = block[0] * block[1] * block[2]
    _check_launch(program, grid, block, threads)
    parameters = _packed(program, args)
    for allocation in memory.allocations:
        allocation.start()
    addresses = _addresses(program, memory)
    counts = Counts(threads * int(np.prod(grid)), int(np.prod(grid)), instructions=Counter())
    shared_size = program.shared_size
    if program.dynamic:
        shared_size = -(-shared_size // program.dynamic) * program.dynamic + shared_bytes
    ids = _ordered(counts.blocks, settings.order)
    at_once = max(1, LANES // (-(-threads // WARP) * WARP))
    for first in range(0, len(ids), at_once):

        def spaces(blocks, lanes):
            return Spaces(memory, parameters, blocks, lanes, shared_size, program.local_size, settings, counts)

        batch = Batch(program, ids[first : first + at_once], grid, block, spaces, addresses, settings, counts)
        batch.run()
    counts.traffic = {a.name: a.traffic for a in memory.allocations}
    return counts


def _program(module, name):
    """The decoded kernel; it is kept with the module."""
    entries = module.entries
    found = [n for n in entries if name is None or n == name] or [n for n in entries if n.startswith(name)]
    if len(found) != 1:
        raise LaunchError(f"{len(found)} kernels are called {name}: {sorted(entries)}")
    if found[0] not in module.programs:
        module.programs[found[0]] = Program(module, entries[found[0]])
    return module.programs[found[0]]


def _three(sizes):
    sizes = (sizes,) if np.isscalar(sizes) else tuple(sizes)
    return tuple(int(s) for s in (*sizes, 1, 1)[:3])


def _check_launch(program, grid, block, threads):
    limits = program.entry.limits
    if not 1 <= threads <= 1024 or min(grid) < 1:
        raise LaunchError(f"a grid of {grid} blocks of {block} threads")
    if threads > np.prod(limits.get("maxntid", (1024,))):
        raise LaunchError(f"{threads} threads in a block are more than .maxntid {limits['maxntid']}")
    if program.shared_size > STATIC_SHARED:
        raise LaunchError(f"{program.shared_size} bytes of static shared memory are more than {STATIC_SHARED}")
    if "reqntid" in limits and block != _three(limits["reqntid"]):
        raise LaunchError(f"a block of {block} threads is not .reqntid {limits['reqntid']}")


def _packed(program, args):
    """The bytes of the kernel's parameters."""
    parameters = program.entry.parameters
    if len(args) != len(parameters):
        raise LaunchError(f"{len(args)} arguments for {len(parameters)} parameters")
    result = bytearray(program.parameter_size)
    for p, value in zip(parameters, args, strict=True):
        if not isinstance(value, bytes):
            letter = "f" if p.type.startswith("f") or isinstance(value, float) else "iu"[value >= 0]
            value = np.array(value, f"{letter}{SIZES[p.type]}").tobytes()
        if len(value) != p.size:
            raise LaunchError(f"{len(value)} bytes for the parameter {p.name} of {p.size}")
        result[program.layout[p.name] : program.layout[p.name] + p.size] = value
    return bytes(result)


def _addresses(program, memory):
    """Where the program's variables lie; those in global memory are put there at their first launch."""
    result = {}
    for key, (space, place) in program.symbols.items():
        if space == "shared" and place is None:
            place = FIRST_OFFSET + -(-program.shared_size // program.dynamic) * program.dynamic
        elif space in ("global", "const"):
            if place not in memory.symbols:
                initial = place.initial or bytes(place.size)
                memory.symbols[place] = memory.put(np.frombuffer(initial, np.uint8), name=place.name)
            place = memory.symbols[place]
        result[key] = place
    return result


def _ordered(blocks, order):
    ids = np.arange(blocks)
    if order == "reverse":
        return ids[::-1]
    return np.random.default_rng(blocks).permutation(ids) if order == "shuffled" else ids
