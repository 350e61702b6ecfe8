"""From an instruction's text to a Python function: its operands, its modifiers, and the tables that decoders fill."""

import functools
import re

import numpy as np

from .errors import UnknownInstructionError
from .memory import UNSIGNED
from .parser import NAME, SIZES, immediate

DTYPES = {"pred": np.dtype(bool), "f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}
DTYPES |= {f"s{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)}
DTYPES |= {f"{letter}{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8) for letter in "bu"}
DTYPES |= {
    "bf16": np.dtype(np.uint16),
    "bf16x2": np.dtype(np.uint32),
    "f16x2": np.dtype(np.uint32),
    "f32x2": np.dtype(np.uint64),
}

DECODERS = {}
"""What makes a step of an instruction, by the first word of its opcode: a function of a `Scope` and an `Opcode`."""


def decodes(*heads):
    """Enter a function into `DECODERS`."""

    def enter(function):
        DECODERS.update(dict.fromkeys(heads, function))
        return function

    return enter


@functools.cache
def _words(opcode):
    """The words of an opcode, without hints on caching."""
    return [w for w in opcode.split(".") if not w.startswith(("L1::", "L2::"))]


class Opcode:
    """An opcode's words while it is decoded: each must be taken by somebody."""

    def __init__(self, instruction):
        self.instruction = instruction
        self.head, *self.words = _words(instruction.opcode)

    def take(self, *names, default=None):
        """The one of these modifiers that the opcode has."""
        for name in names:
            if name in self.words:
                self.words.remove(name)
                return name
        return default

    def type(self):
        """The next type among the modifiers."""
        return self.take(*[w for w in self.words if w in SIZES][:1]) or self.unknown("has no type")

    def finish(self):
        """Raise if a modifier is left."""
        if self.words:
            self.unknown(f"has the unknown modifier .{self.words[0]}")

    def unknown(self, why="is unknown"):
        """Raise the error that names the instruction."""
        raise UnknownInstructionError(f"{self.instruction}: {why}")


class Scope:
    """What the names in a function stand for."""

    def __init__(self, program, module, function):
        self.program, self.module, self.function = program, module, function
        self._readers, self._writers = {}, {}  # most operands occur more than once

    def slot(self, name):
        """The number and the dtype of a register."""
        return self.program.slot(self.function.name, name, self.function.registers[name])

    def is_register(self, name):
        """Whether a register has this name."""
        return name in self.function.registers

    def reader(self, text, type_):
        """A function of a batch and lane numbers, or None for all, that gives an operand's numbers in a type."""
        if (text, type_) not in self._readers:
            self._readers[text, type_] = self._new_reader(text, type_)
        return self._readers[text, type_]

    def _new_reader(self, text, type_):
        dtype = DTYPES[type_]
        if self.is_register(text):
            return _register_reader(*self.slot(text), dtype)
        number = immediate(text, type_)
        if number is not None:
            constant = _constant(number, dtype)
            return lambda batch, at: constant
        if text == "WARP_SZ":
            return lambda batch, at: dtype.type(32)
        if text.startswith("%"):
            return self._special(text[1:], dtype)
        symbol = self.program.symbol(self.module, self.function, text)
        return lambda batch, at: np.int64(batch.addresses[symbol]).astype(dtype)

    def _special(self, name, dtype):
        if name not in SPECIAL:
            raise UnknownInstructionError(f"the operand %{name} is unknown")

        def read(batch, at):
            value = batch.special(name)
            return (value if at is None or value.ndim == 0 else value[at]).astype(dtype)

        return read

    def writer(self, text, type_):
        """A function that writes an array of a type to a register, at lane numbers or, for None, at all lanes.

        It takes an array that nobody else keeps.
        """
        if (text, type_) not in self._writers:
            self._writers[text, type_] = self._new_writer(text, type_)
        return self._writers[text, type_]

    def _new_writer(self, text, type_):
        if text == "_":
            return lambda batch, at, value: None
        if not self.is_register(text):
            raise UnknownInstructionError(f"{text} is no register")
        return _register_writer(*self.slot(text), DTYPES[type_])

    def address(self, text):
        """A function that gives the addresses, as int64, that an operand in brackets stands for."""
        found = re.fullmatch(rf"\[\s*({NAME})\s*(?:\+\s*(-?\w+))?\s*\]", text)
        if not found:
            raise UnknownInstructionError(f"the address {text} is unknown")
        base, offset = found[1], immediate(found[2] or "0", "s64")
        if not self.is_register(base):
            read = self.reader(base, "s64")
            return lambda batch, at: np.full(batch.n if at is None else len(at), read(batch, at) + offset)
        slot, _ = self.slot(base)

        def addresses(batch, at):
            r = batch.registers[slot]
            return (r if at is None else r[at]).astype(np.int64) + offset

        return addresses


SPECIAL = {f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {
    "laneid", "warpid", "nwarpid", "smid", "clock", "clock64", "globaltimer", "lanemask_eq", "lanemask_le",
    "lanemask_lt", "lanemask_ge", "lanemask_gt", "dynamic_smem_size", "total_smem_size",
}  # fmt: skip
"""The special registers, without the percent sign."""


def _constant(number, dtype):
    if dtype.kind in "iu":
        return np.array(int(number) % (1 << 8 * dtype.itemsize), UNSIGNED[dtype.itemsize]).view(dtype)[()]
    return dtype.type(number)


def _register_reader(slot, own, dtype):
    if own == dtype:
        return lambda batch, at: batch.registers[slot] if at is None else batch.registers[slot][at]
    if own.itemsize == dtype.itemsize:
        return lambda batch, at: (batch.registers[slot] if at is None else batch.registers[slot][at]).view(dtype)
    if own.itemsize < dtype.itemsize:
        raise UnknownInstructionError(f"a register of {own.itemsize} bytes is too small for {dtype}")
    bits = UNSIGNED[own.itemsize], UNSIGNED[dtype.itemsize]

    def low_part(batch, at):
        r = batch.registers[slot]
        return (r if at is None else r[at]).view(bits[0]).astype(bits[1]).view(dtype)

    return low_part


def _register_writer(slot, own, dtype):
    extended = np.dtype(f"{'i' if dtype.kind == 'i' else 'u'}{own.itemsize}")

    def write(batch, at, value):
        if value.dtype != own:
            if value.dtype.itemsize != own.itemsize:
                value = value.astype(extended)
            value = value.view(own)
        if at is not None:
            r = batch.registers[slot]
            if not r.flags.writeable:  # nobody has written to it so far
                r = batch.registers[slot] = r.copy()
            r[at] = value
        else:
            batch.registers[slot] = value if value.ndim else np.full(batch.n, value)

    return write
