"""Instructions that access memory, and those that move values without changing them."""

from dataclasses import dataclass

import numpy as np

from .decoding import DTYPES, SPECIAL, decodes
from .memory import LOCAL_WINDOW, SHARED_WINDOW, UNSIGNED
from .parser import SIZES, split_operands

SPACES = ("global", "shared", "local", "const", "param")
CACHING = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "weak", "volatile", "L1", "L2")
STRONG = ("relaxed", "acquire", "release", "acq_rel", "sc")
SCOPES = ("cta", "cluster", "gpu", "sys")


@dataclass
class Site:
    """An instruction and the state space it names: what an error says of where it happened."""

    instruction: object
    space: str

    def __str__(self):
        return str(self.instruction)


def _modifiers(op):
    """The space, whether the access is one that may race, and how many numbers it moves."""
    space = op.take(*SPACES, default="generic")
    op.take("cta") if space == "shared" and "shared::cta" in op.instruction.opcode else None
    strong = op.take(*STRONG) is not None
    while op.take(*CACHING, *SCOPES):
        pass
    count = {"v2": 2, "v4": 4, "v8": 8, None: 1}[op.take("v2", "v4", "v8")]
    return space, strong, count


def _numbers(operand):
    """The registers of a vector operand, or the one that it is."""
    return split_operands(operand[1:-1]) if operand.startswith("{") else [operand]


@decodes("ld", "ldu")
def _load(scope, op):
    space, strong, count = _modifiers(op)
    type_ = op.type()
    dtype = DTYPES[type_]
    results, address = op.instruction.operands[:2]
    writers = [scope.writer(r, type_) for r in _numbers(results)]
    if space == "param" and (variable := _param(scope, address)) is not None:
        return _load_param(variable, SIZES[type_], dtype, writers)
    read_address, site = scope.address(address), Site(op.instruction, space)

    def step(batch, active):
        lanes, into = active.lanes, active.exact
        at = read_address(batch, into)
        values = batch.spaces.load(batch, site, lanes, at, dtype.itemsize, count, strong)
        for write, value in zip(writers, values, strict=True):
            write(batch, into, value.view(dtype))

    return step


@decodes("st")
def _store(scope, op):
    space, strong, count = _modifiers(op)
    type_ = op.type()
    dtype = DTYPES[type_]
    address, values = op.instruction.operands[:2]
    readers = [scope.reader(v, type_) for v in _numbers(values)]
    if space == "param":
        return _store_param(*_param(scope, address), SIZES[type_], readers)
    read_address, site = scope.address(address), Site(op.instruction, space)
    raw = UNSIGNED[dtype.itemsize]
    if len(readers) != count:
        op.unknown("has another number of operands")

    def step(batch, active):
        lanes = active.lanes
        at = read_address(batch, active.exact)
        numbers = [np.broadcast_to(r(batch, active.exact), len(lanes)).view(raw) for r in readers]
        batch.spaces.store(batch, site, lanes, at, numbers, dtype.itemsize, strong)

    return step


def _param(scope, address):
    """The number of a device function's param variable and the offset in it; None for a kernel's parameter."""
    name, _, offset = address.strip("[] ").partition("+")
    number = scope.program.param(scope.function, name.strip())
    return None if number is None else (number, int(offset or 0))


def _load_param(variable, size, dtype, writers):
    number, offset = variable

    def step(batch, active):
        rows = batch.params[number][active.lanes]
        for i, write in enumerate(writers):
            piece = rows[:, offset + i * size : offset + (i + 1) * size]
            write(batch, active.exact, np.ascontiguousarray(piece).view(dtype).reshape(-1))

    return step


def _store_param(number, offset, size, readers):
    def step(batch, active):
        for i, read in enumerate(readers):
            values = np.ascontiguousarray(np.broadcast_to(read(batch, active.exact), len(active.lanes)))
            piece = slice(offset + i * size, offset + (i + 1) * size)
            batch.params[number][active.lanes, piece] = values.view(np.uint8).reshape(-1, size)

    return step


@decodes("prefetch", "prefetchu", "discard", "applypriority")
def _prefetch(scope, op):
    """Nothing to do."""
    op.words.clear()


@decodes("cvta")
def _convert_address(scope, op):
    to = op.take("to")
    space, type_ = op.take(*SPACES), op.type()
    result, source = op.instruction.operands
    write, read = scope.writer(result, type_), scope.reader(source, type_)
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)
    shift = DTYPES[type_].type(window)

    def step(batch, active):
        value = read(batch, active.at)
        write(batch, active.at, value - shift if to else value + shift)

    return step


UPDATES = {
    "add": lambda old, b, c: old + b,
    "min": lambda old, b, c: np.fmin(old, b),
    "max": lambda old, b, c: np.fmax(old, b),
    "and": lambda old, b, c: old & b,
    "or": lambda old, b, c: old | b,
    "xor": lambda old, b, c: old ^ b,
    "exch": lambda old, b, c: b,
    "cas": lambda old, b, c: c if old == b else old,
    "inc": lambda old, b, c: old * 0 if old >= b else old + old.dtype.type(1),
    "dec": lambda old, b, c: b if old == 0 or old > b else old - old.dtype.type(1),
}
"""What atomics make of the old number and their operands."""


@decodes("atom", "red")
def _atomic(scope, op):
    space = op.take(*SPACES, default="generic")
    while op.take(*STRONG, *SCOPES):
        pass
    update = UPDATES[op.take(*UPDATES)]
    op.take("noftz")
    type_ = op.type()
    dtype = DTYPES[type_]
    operands = list(op.instruction.operands)
    write = scope.writer(operands.pop(0), type_) if op.head == "atom" else None
    read_address, site = scope.address(operands[0]), Site(op.instruction, space)
    readers = [scope.reader(o, type_) for o in operands[1:]]

    def step(batch, active):
        lanes = active.lanes
        at = read_address(batch, active.exact)
        numbers = [np.broadcast_to(r(batch, active.exact), len(lanes)) for r in readers]
        b, c = numbers[0], numbers[-1]
        old = batch.spaces.atomic(batch, site, lanes, at, lambda old, i: update(old, b[i], c[i]), dtype)
        if write:
            write(batch, active.exact, old)

    return step


@decodes("mov")
def _move(scope, op):
    type_ = op.type()
    result, source = op.instruction.operands
    if source.startswith("{"):
        return _pack(scope, type_, result, _numbers(source))
    if result.startswith("{"):
        return _unpack(scope, type_, _numbers(result), source)
    write, read = scope.writer(result, type_), scope.reader(source, type_)
    if source.lstrip("%") in SPECIAL:
        return lambda batch, active: write(batch, active.at, np.array(read(batch, active.at)))
    if scope.is_register(source):
        return lambda batch, active: write(batch, active.at, read(batch, active.at).copy())
    return lambda batch, active: write(batch, active.at, read(batch, active.at))


def _part_type(type_, n):
    return f"b{8 * SIZES[type_] // n}"


def _pack(scope, type_, result, sources):
    part = _part_type(type_, len(sources))
    write, readers = scope.writer(result, type_), [scope.reader(s, part) for s in sources]
    dtype = DTYPES[type_]

    def step(batch, active):
        parts = [r(batch, active.at) for r in readers]
        n = batch.n if active.at is None else len(active.at)
        packed = np.empty((n, len(parts)), DTYPES[part])
        for i, p in enumerate(parts):
            packed[:, i] = p
        write(batch, active.at, packed.view(dtype).reshape(-1))

    return step


def _unpack(scope, type_, results, source):
    part = _part_type(type_, len(results))
    writers = [(i, scope.writer(r, part)) for i, r in enumerate(results) if r != "_"]
    read = scope.reader(source, type_)

    def step(batch, active):
        value = np.atleast_1d(read(batch, active.at))
        parts = np.ascontiguousarray(value).view(DTYPES[part]).reshape(len(value), -1)
        for i, write in writers:
            write(batch, active.at, parts[:, i].copy())

    return step


@decodes("nop", "pragma", "griddepcontrol")
def _nothing(scope, op):
    op.words.clear()


@decodes("isspacep")
def _is_space(scope, op):
    space = op.take(*SPACES) or op.unknown()
    result, source = op.instruction.operands
    write, read = scope.writer(result, "pred"), scope.reader(source, "s64")

    def step(batch, active):
        window = read(batch, active.at) >> 32
        kinds = {"shared": SHARED_WINDOW >> 32, "local": LOCAL_WINDOW >> 32}
        is_one = window == kinds[space] if space in kinds else ~np.isin(window, list(kinds.values()))
        write(batch, active.at, is_one)

    return step
