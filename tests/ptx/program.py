"""A kernel and the functions that it calls, decoded once: basic blocks of Python functions."""

from dataclasses import dataclass, field

import numpy as np

from . import access, arithmetic, bits, comparisons, conversions, warps  # noqa: F401 - they fill the table of decoders
from .decoding import DECODERS, DTYPES, Opcode, Scope
from .errors import UnknownInstructionError
from .memory import FIRST_OFFSET

EXIT = 1 << 30
"""The block that a thread which has ended is at."""

BRANCHES = ("bra", "brx", "ret", "exit", "call")
MEETINGS = ("bar", "barrier", "shfl", "vote", "activemask", "redux", "match")


@dataclass
class Block:
    """Instructions that run one after the other for all lanes that enter together.

    `meet` is None, or decides which lanes go on where a barrier or a warp's exchange starts the block; `end` gives
    the number of the next block, or an array of them for the lanes.
    """

    steps: list = field(default_factory=list)
    opcodes: list = field(default_factory=list)
    meet: object = None
    end: object = None


class Program:
    """A kernel as a list of blocks; see `Block`."""

    def __init__(self, module, entry):
        self.entry = entry  # and not the module, which keeps this: they would outlive their last use
        self.slots, self.dtypes = {}, []
        self.blocks, self.starts = [], {}
        self.returns = {}
        self.params, self.layout = {}, {}
        self.symbols = {}
        self.shared_size = self.local_size = 0
        self.dynamic = None
        self.parameter_size = self._lay_out_parameters()
        waiting = {entry.name: entry}
        while new := [f for name, f in waiting.items() if name not in self.starts]:
            self.starts[new[0].name] = len(self.blocks)
            waiting |= self._decode(module, new[0])

    # ------------------------------------------------------------------- names

    def slot(self, function, name, type_):
        """The number and the dtype of a function's register."""
        if (function, name) not in self.slots:
            self.slots[function, name] = len(self.dtypes)
            self.dtypes.append(DTYPES[type_])
        return self.slots[function, name], DTYPES[type_]

    def symbol(self, module, function, name):
        """Enter a variable whose address is used; gives the key of the batch's addresses."""
        variable = function.variables.get(name) or module.variables.get(name)
        key = (function.name if name in function.variables else "", name)
        if function.is_entry and (parameter := self.layout.get(name)) is not None:
            self.symbols[key] = "param", parameter
        elif variable is None:
            raise UnknownInstructionError(f"the operand {name} is unknown")
        elif key not in self.symbols:
            self.symbols[key] = variable.space, self._place(variable)
        return key

    def _place(self, variable):
        """The offset of a new shared or local variable; another variable itself."""
        if variable.space == "shared" and variable.size is None:
            self.dynamic = max(self.dynamic or 16, variable.align)
            return None
        if variable.space == "shared":
            offset = -(-self.shared_size // variable.align) * variable.align
            self.shared_size = offset + variable.size
            return FIRST_OFFSET + offset
        if variable.space == "local":
            offset = -(-self.local_size // variable.align) * variable.align
            self.local_size = offset + variable.size
            return FIRST_OFFSET + offset
        return variable

    def _lay_out_parameters(self):
        size = 0
        for p in self.entry.parameters:
            size = -(-size // p.align) * p.align
            self.layout[p.name] = size
            size += p.size
        return size

    def param(self, function, name):
        """The number of a param variable of a device function's, or of a call; None if it is no such variable."""
        formal = {} if function.is_entry else {p.name: p for p in (*function.parameters, *function.returns)}
        variable = formal.get(name) or function.variables.get(name)
        if variable is None or variable.space != "param":
            return None
        return self.params.setdefault((function.name, name), (len(self.params), variable.size))[0]

    # ------------------------------------------------------------------ blocks

    def _decode(self, module, function):
        """Append the blocks of a function; gives the functions that it calls, by name."""
        scope = Scope(self, module, function)
        first = len(self.blocks)
        where = self._block_numbers(function, first)
        called = {}
        for i, instruction in enumerate(function.code):
            number = where[i]
            if number == len(self.blocks):
                self.blocks.append(Block(end=_goes_on(number + 1)))
            block = self.blocks[number]
            op = Opcode(instruction)
            block.opcodes.append(instruction.opcode)
            try:
                if op.head in BRANCHES:
                    block.end = self._branch(scope, op, number, lambda label: where[function.labels[label]], called)
                else:
                    self._step(scope, op, block)
            except UnknownInstructionError as error:
                if instruction.text in str(error):
                    raise
                raise UnknownInstructionError(f"{instruction}: {error}") from None
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise UnknownInstructionError(f"{instruction}: cannot be decoded ({error!r})") from error
        self.blocks.append(Block(end=self._returning(function)))
        return called

    @staticmethod
    def _block_numbers(function, first):
        """The number of each instruction's block, and of the end of the function."""
        starts = set(function.labels.values())
        for i, instruction in enumerate(function.code):
            head = instruction.opcode.split(".")[0]
            if head in MEETINGS:
                starts |= {i, i + 1} if head.startswith("bar") else {i}
            elif head in BRANCHES:
                starts.add(i + 1)
        numbers = np.cumsum([i in starts and i > 0 for i in range(len(function.code) + 1)]) + first
        if len(function.code) not in starts:
            numbers[-1] += 1
        return [int(n) for n in numbers]

    def _step(self, scope, op, block):
        instruction = op.instruction
        if op.head not in DECODERS:
            op.unknown()
        step = DECODERS[op.head](scope, op)
        op.finish()
        if isinstance(step, tuple):
            if instruction.guard:
                op.unknown("cannot be under a predicate")
            block.meet, step = step
        if step is None:
            return
        if instruction.guard:
            step = _guarded(step, _condition(scope, instruction.guard))
        block.steps.append(step)

    def _branch(self, scope, op, number, block_of, called):
        """The end of a block with a branch instruction."""
        instruction = op.instruction
        op.take("uni")
        following = number + 1
        if op.head == "bra":
            target = block_of(instruction.operands[0])
            taken = _goes_on(target)
        elif op.head == "brx":
            op.take("idx")
            targets = np.array([block_of(t) for t in scope.function.targets[instruction.operands[1]]])
            index = scope.reader(instruction.operands[0], "u32")
            taken = lambda batch, active: targets[index(batch, active.lanes)]  # noqa: E731
        elif op.head == "call":
            taken = self._call(scope, instruction, following, called)
        elif op.head == "exit":
            taken = _goes_on(EXIT)
        else:
            taken = self._returning(scope.function)
        op.finish()
        if not instruction.guard:
            return taken
        return _either(_condition(scope, instruction.guard), taken, following)

    def _returning(self, function):
        if function.is_entry:
            return _goes_on(EXIT)
        name = function.name
        return lambda batch, active: batch.returns[name][active.lanes]

    def _call(self, scope, instruction, following, called):
        """Hand the arguments over, and go to the function; `following` is where it returns to."""
        *results, name, arguments = (
            instruction.operands if len(instruction.operands) > 1 else (*instruction.operands, "()")
        )
        callee = scope.module.functions[name]
        if callee is self.entry or callee is scope.function:
            raise UnknownInstructionError("recursion is not supported")
        called[name] = callee
        pairs = list(zip(_names(arguments), callee.parameters, strict=True))
        copies = [(self.param(callee, formal.name), self.param(scope.function, actual)) for actual, formal in pairs]
        back = list(zip(_names(results[0]) if results else [], callee.returns, strict=True))
        # A call's results go to the caller's variables when the function returns; that those are the same does.
        for actual, formal in back:
            self.params[scope.function.name, actual] = self.params[callee.name, formal.name] = self.params.get(
                (callee.name, formal.name)
            ) or (len(self.params), formal.size)

        def call(batch, active):
            for formal, actual in copies:
                batch.params[formal][active.lanes] = batch.params[actual][active.lanes]
            batch.returns[name][active.lanes] = following
            return self.starts[name]

        return call


def _names(text):
    return [n.strip() for n in text.strip("()").split(",") if n.strip()]


def _goes_on(number):
    return lambda batch, active: number


def _condition(scope, guard):
    """A function that gives where a guard's instruction is executed."""
    name, negated = guard
    read = scope.reader(name, "pred")
    return (lambda batch, at: ~read(batch, at)) if negated else read


def _guarded(step, condition):
    def guarded(batch, active):
        some = active.where(condition(batch, active.at))
        if some is not None:
            step(batch, some)

    return guarded


def _either(condition, taken, following):
    def branch(batch, active):
        some = active.where(condition(batch, active.at))
        if some is None:
            return following
        target = taken(batch, some)
        if some is active:
            return target
        result = np.full(batch.n, following)
        result[some.lanes] = target
        return result[active.lanes]

    return branch
