"""PTX text as a `Module`: functions with their parameters, variables and instructions.

The grammar is that of what compilers print, which is less than PTX ISA 9 allows: a statement ends with a semicolon,
and each name is declared before its use. See NVIDIA, *Parallel Thread Execution ISA*, chapters 4 and 5.
"""

import functools
import re
import struct
from dataclasses import dataclass, field

from .errors import ParseError

SIZES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4,
         "f32": 4, "f16x2": 4, "bf16x2": 4, "f32x2": 8, "b64": 8, "u64": 8, "s64": 8, "f64": 8,
         "b128": 16, "pred": 1}  # fmt: skip
"""Bytes of a number, by the name of its type."""

LINKING = {"visible", "extern", "weak", "common", "attribute", "managed"}
IGNORED_LINES = re.compile(r"^\s*\.(version|target|address_size|file|loc|section)\b[^\n]*$", re.MULTILINE)
COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
NAME = r"[%$\w]+"
LABEL = re.compile(rf"({NAME})\s*:(?!:)")
HEAD = re.compile(
    rf"(?:\((?P<returns>[^()]*)\)\s*)?(?P<name>{NAME})\s*(?:\((?P<parameters>[^()]*)\))?(?P<limits>[^{{;]*)"
)
DECLARED = re.compile(rf"^(?P<words>(?:\.\w+\s+|\.align\s+\d+\s+)*)(?P<name>{NAME})\s*(?P<dims>(?:\[\d*\])*)\s*$")


@dataclass(eq=False)
class Variable:
    """A named piece of memory; `size` is None for the dynamic array of shared memory."""

    name: str
    space: str
    type: str
    size: int | None
    align: int
    initial: bytes | None = None


@dataclass(slots=True)
class Instruction:
    """One instruction; `guard` is the register of its predicate and whether that must be false."""

    opcode: str
    operands: list[str]
    guard: tuple[str, bool] | None
    text: str

    def __str__(self):
        return self.text


@dataclass
class Function:
    """A kernel or a device function. `labels` are indices into `code`."""

    name: str
    is_entry: bool
    parameters: list[Variable]
    returns: list[Variable]
    limits: dict[str, tuple[int, ...]]
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)


@dataclass(eq=False)
class Module:
    """All that one PTX text defines; `variables` lie outside the functions."""

    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    programs: dict = field(default_factory=dict, repr=False)

    @property
    def entries(self):
        """The kernels, by name."""
        return {name: f for name, f in self.functions.items() if f.is_entry}


def parse(text):
    """The `Module` of a PTX text."""
    text = IGNORED_LINES.sub("", COMMENTS.sub("", text))
    module, at = Module(), 0
    while at := _skip_space(text, at):
        at -= 1
        if text[at] == ";":  # after a declaration of a function
            at += 1
            continue
        stop = _end_of_statement(text, at)
        words, rest = _leading_words(text[at:stop])
        if "entry" in words or "func" in words:
            at = _function(module, text, at + len(text[at:stop]) - len(rest), "entry" in words)
        else:
            for v in _variables(text[at:stop]):
                module.variables[v.name] = v
            at = stop + 1
    return module


def _skip_space(text, at):
    """One more than the place of the next character that is not a space; 0 at the end."""
    found = re.compile(r"\S").search(text, at)
    return found.start() + 1 if found else 0


def _leading_words(statement):
    """The set of the directives that a statement starts with, and what follows."""
    words = set()
    while found := re.match(r"\s*\.(\w+)\s*", statement):
        words.add(found[1])
        statement = statement[found.end() :]
        if found[1] in ("entry", "func"):
            break
    return words, statement


def _end_of_statement(text, at):
    """Where the statement's semicolon is."""
    stop = text.find(";", at)
    if stop < 0:
        raise ParseError(f"no end to {text[at : at + 80]!r}")
    return stop


def _function(module, text, at, is_entry):
    """Read a function from behind its `.entry` or `.func`; gives where it ends."""
    head = HEAD.match(text, at)
    if not head:
        raise ParseError(f"not a function: {text[at : at + 80]!r}")
    limits = {
        word: tuple(int(n) for n in numbers.split(","))
        for word, numbers in re.findall(r"\.(\w+)\s+(\d+(?:\s*,\s*\d+)*)", head["limits"])
    }
    parameters = [_parameter(p) for p in (head["parameters"] or "").split(",") if p.strip()]
    returns = [_parameter(p) for p in (head["returns"] or "").split(",") if p.strip()]
    at = head.end()
    if text[at] == ";":
        return at + 1
    function = Function(head["name"], is_entry, parameters, returns, limits)
    end = _body(function, text, at + 1)
    module.functions[function.name] = function
    return end


def _parameter(text):
    (variable,) = _variables(text)
    return variable


def _body(function, text, at):
    """Read the statements up to the closing brace; names of inner scopes get a number, so that all differ."""
    scopes, numbered = [{}], 0
    while scopes:
        at = _skip_space(text, at) - 1
        if text[at] in "{}":
            if text[at] == "{":
                scopes.append({})
            else:
                scopes.pop()
            at += 1
            continue
        if label := LABEL.match(text, at):
            at = label.end()
            targets = re.compile(r"\s*\.branchtargets\s+([^;]*);").match(text, at)
            if targets:
                function.targets[label[1]] = [t.strip() for t in targets[1].split(",")]
                at = targets.end()
            else:
                function.labels[label[1]] = len(function.code)
            continue
        stop = _end_of_statement(text, at)
        statement = " ".join(text[at:stop].split())
        at = stop + 1
        if statement.startswith(".pragma"):
            continue
        if statement.startswith("."):
            for name, declared in _declarations(statement):
                numbered += 1
                unique = name if len(scopes) == 1 else f"{name}@{numbered}"
                scopes[-1][name] = unique
                if isinstance(declared, str):
                    function.registers[unique] = declared
                else:
                    declared.name = unique
                    function.variables[unique] = declared
        elif statement:
            function.code.append(_instruction(statement, scopes))
    return at


def _declarations(statement):
    """The names that a statement in a function declares, with a register's type or a `Variable`."""
    if not statement.startswith(".reg"):
        return [(v.name, v) for v in _variables(statement)]
    words = statement.split(None, 2)
    result = []
    for name in words[2].split(","):
        many = re.fullmatch(rf"({NAME})<(\d+)>", name.strip())
        names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name.strip()]
        result += [(n, words[1][1:]) for n in names]
    return result


def _variables(statement):
    """The variables that a declaration declares."""
    declared, _, initial = statement.partition("=")
    first, *more = declared.split(",")
    words = None
    for text in (first, *more):
        found = DECLARED.match(text.strip())
        if not found:
            raise ParseError(f"not a declaration: {statement.strip()!r}")
        words = words or re.findall(r"\.(\w+)(?:\s+(\d+))?", found["words"])
        names = [w for w, _ in words if w not in LINKING and w not in ("align", "ptr", "v2", "v4")]
        space = next((w for w in names if w in ("global", "const", "shared", "local", "param")), "param")
        type_ = next(w for w in names if w in SIZES)
        align = next((int(n) for w, n in words if w == "align"), SIZES[type_])
        count = 1
        for n in re.findall(r"\[(\d*)\]", found["dims"]):
            count = count * int(n) if n and count is not None else None
        size = None if count is None else count * SIZES[type_]
        yield Variable(found["name"], space, type_, size, align, _initial(initial, type_, size))


def _initial(text, type_, size):
    """The bytes of an initialiser, filled up with zeros."""
    if not text.strip() or size is None:
        return None
    numbers = [immediate(n.strip(), type_) for n in text.replace("{", "").replace("}", "").split(",") if n.strip()]
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[SIZES[type_]]
    if type_.startswith("f"):
        letter = {2: "e", 4: "f", 8: "d"}[SIZES[type_]]
    else:
        numbers = [n % (1 << 8 * SIZES[type_]) for n in numbers]
    return struct.pack(f"<{len(numbers)}{letter}", *numbers).ljust(size, b"\0")


@functools.lru_cache(10_000)
def immediate(text, type_):
    """The number that an operand is, or None; a float in an integer's place stands for its bits."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if "f" not in type_ and re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", digits):
        return sign * struct.unpack(">f", bytes.fromhex(digits[2:]))[0]
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", digits):
        return sign * struct.unpack(">d", bytes.fromhex(digits[2:]))[0]
    if re.fullmatch(r"0[xX][0-9a-fA-F]+U?", digits):
        return sign * int(digits.rstrip("U"), 16)
    if re.fullmatch(r"\d+U?", digits):
        digits = digits.rstrip("U")
        octal = len(digits) > 1 and digits.startswith("0")
        return sign * int(digits, 8 if octal else 10)
    if re.fullmatch(r"\d+\.\d*([eE][-+]?\d+)?", digits):
        return sign * float(digits)
    return None


def _instruction(statement, scopes):
    guard = None
    text = statement
    if found := re.match(rf"@(!?)({NAME})\s+", statement):
        guard = _in_scope(found[2], scopes), bool(found[1])
        statement = statement[found.end() :]
    opcode, _, rest = statement.partition(" ")
    operands = [_in_scope(operand, scopes) for operand in split_operands(rest)]
    return Instruction(opcode, operands, guard, text)


def split_operands(text):
    """The operands between the commas that lie in no bracket."""
    operands, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            operands.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*operands, last] if last else operands


def _in_scope(operand, scopes):
    """The operand with the unique names of what it names."""

    def unique(found):
        return next((s[found[0]] for s in reversed(scopes) if found[0] in s), found[0])

    return operand if len(scopes) == 1 else re.sub(NAME, unique, operand)
