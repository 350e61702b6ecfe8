"""`lanewise`: functions of numbers, written once in Python, for floats and for `Vec` alike.

A function under ``@lanewise`` can be called in jitted code, on the CPU and on
CUDA. It is not compiled by itself: where a kernel is compiled, it runs in
Python on `Value` objects, and each operation on those emits an instruction into
the kernel. So it costs no compilation of its own and is always inlined, and it
may call others of its kind; but it has no branches or loops at run time: its
``if`` and ``for`` run at compile time, on types and on None.
Numbers from Python take the type of the operand beside them.

>>> import numba
>>> from numba_softmax.math.lanewise import lanewise
>>> @lanewise
... def square_plus(x, extra):
...     return x * x if extra is None else x * x + extra
>>> @numba.njit
... def f(x):
...     return square_plus(x, None), square_plus(x, 1)
>>> f(3.0)
(9.0, 10.0)
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template, signature
from numba.extending import models, register_model

from .. import kernel_code

kernel_code.register()

NEEDS_COMPILER = "numba_softmax is made of code that Numba compiles: unset NUMBA_DISABLE_JIT"


class Vec(types.Type):
    """The Numba type of `lanes` numbers of type `element` in SIMD registers.

    Parameters
    ----------
    element : numba type
        A Numba float or integer type, or boolean for a mask.
    lanes : int
        The number of lanes; a power of two.
    """

    def __init__(self, element: types.Type, lanes: int) -> None:
        if not isinstance(element, (types.Float, types.Integer, types.Boolean)):
            raise TypeError(f"element is {element!r}: it must be a float or integer type of Numba, or boolean")
        if not isinstance(lanes, int) or lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"lanes is {lanes!r}: it must be a power of two")
        self.element: Any = element
        self.lanes = lanes
        super().__init__(f"Vec({element}, {lanes})")

    def of(self, element: types.Type) -> Vec:
        """The type with the same number of lanes of another `element`."""
        return Vec(element, self.lanes)


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    """A Vec is an LLVM vector."""

    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def element(v: types.Type) -> types.Type:
    """The number type of a Vec's lanes; of a plain number, its own."""
    return v.element if isinstance(v, Vec) else v


def with_element(v: types.Type, new: types.Type) -> types.Type:
    """The type with the lanes of `v`, if it has any, of another element."""
    return v.of(new) if isinstance(v, Vec) else new


def llvm_type(v: types.Type) -> ir.Type:
    """The LLVM type of a number type or a Vec."""
    if isinstance(v, Vec):
        return ir.VectorType(llvm_type(v.element), v.lanes)
    if isinstance(v, types.Boolean):
        return ir.IntType(1)
    if isinstance(v, types.Integer):
        return ir.IntType(v.bitwidth)
    return {16: ir.HalfType, 32: ir.FloatType, 64: ir.DoubleType}[v.bitwidth]()


def llvm_suffix(t: ir.Type) -> str:
    """The suffix by which LLVM names an intrinsic for a type."""
    if isinstance(t, ir.VectorType):
        return f"v{t.count}{llvm_suffix(t.element)}"
    if isinstance(t, ir.IntType):
        return f"i{t.width}"
    return {ir.HalfType: "f16", ir.FloatType: "f32", ir.DoubleType: "f64"}[type(t)]


def constant(t: ir.Type, value: float) -> ir.Constant:
    """The number in a scalar type, or in all lanes of a vector type."""
    return ir.Constant(t, [value] * t.count) if isinstance(t, ir.VectorType) else ir.Constant(t, value)


def shuffle_order(lanes: list[int]) -> ir.Constant:
    """The lane numbers in the form that LLVM's shuffles take."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def call_llvm(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic or a C function by its name."""
    function = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


class Value:
    """A number, or a Vec of them, while the instructions of a kernel are emitted."""

    def __init__(self, builder: ir.IRBuilder, type_: types.Type, ir_value: ir.Value) -> None:
        self.builder, self.type, self.ir = builder, type_, ir_value

    def __repr__(self) -> str:
        return f"<{self.type}>"

    def emit(self, type_: types.Type, ir_value: ir.Value) -> Value:
        """A new value from an instruction that this value's builder has emitted."""
        return Value(self.builder, type_, ir_value)

    def cast(self, type_: types.Type) -> Value:
        """The value in another type, rounded to nearest, or to integers toward zero; broadcast to a Vec's lanes."""
        value = self.ir
        was, will = element(self.type), element(type_)
        one_lane = will if not isinstance(self.type, Vec) else self.type.of(will)
        target = llvm_type(one_lane)
        if was == will:
            pass
        elif isinstance(was, types.Float) and isinstance(will, types.Float):
            value = (self.builder.fpext if was.bitwidth < will.bitwidth else self.builder.fptrunc)(value, target)
        elif isinstance(was, types.Boolean):
            convert = self.builder.uitofp if isinstance(will, types.Float) else self.builder.zext
            value = convert(value, target)
        elif isinstance(will, types.Float):
            value = (self.builder.sitofp if was.signed else self.builder.uitofp)(value, target)
        elif isinstance(will, types.Boolean):
            raise TypingError(f"{self.type} is no mask: compare it with 0")
        elif isinstance(was, types.Float):
            value = (self.builder.fptosi if will.signed else self.builder.fptoui)(value, target)
        else:
            value = (self.builder.sext if was.bitwidth < will.bitwidth else self.builder.trunc)(value, target)
        if isinstance(type_, Vec) and not isinstance(self.type, Vec):
            vector = llvm_type(type_)
            undefined = ir.Constant(vector, ir.Undefined)
            first = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
            value = self.builder.shuffle_vector(first, undefined, shuffle_order([0] * type_.lanes))
        return self.emit(type_, value)

    def _arithmetic(self, other: Any, on_float: str, on_integer: str | None = None, reverse: bool = False) -> Value:
        a, b = alike(self, other)
        if reverse:
            a, b = b, a
        name = on_float if isinstance(element(a.type), types.Float) else on_integer
        if name is None:
            raise TypingError(f"{on_float.removeprefix('f')} is for floats, not {a.type}: convert it")
        return self.emit(a.type, getattr(self.builder, name)(a.ir, b.ir))

    def _compare(self, symbol: str, other: Any) -> Value:
        a, b = alike(self, other)
        number = element(a.type)
        if not isinstance(number, types.Float):
            signed = isinstance(number, types.Integer) and number.signed
            compare = self.builder.icmp_signed if signed else self.builder.icmp_unsigned
        else:
            compare = self.builder.fcmp_unordered if symbol == "!=" else self.builder.fcmp_ordered
        return self.emit(with_element(a.type, types.boolean), compare(symbol, a.ir, b.ir))

    def __add__(self, other: Any) -> Value:
        return self._arithmetic(other, "fadd", "add")

    def __sub__(self, other: Any) -> Value:
        return self._arithmetic(other, "fsub", "sub")

    def __rsub__(self, other: Any) -> Value:
        return self._arithmetic(other, "fsub", "sub", reverse=True)

    def __mul__(self, other: Any) -> Value:
        return self._arithmetic(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> Value:
        return self._arithmetic(other, "fdiv")

    def __rtruediv__(self, other: Any) -> Value:
        return self._arithmetic(other, "fdiv", reverse=True)

    def __lshift__(self, other: Any) -> Value:
        return self._arithmetic(other, "shl", "shl")

    def __and__(self, other: Any) -> Value:
        return self._arithmetic(other, "and_", "and_")

    def __or__(self, other: Any) -> Value:
        return self._arithmetic(other, "or_", "or_")

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Value:
        # not LLVM's fneg, which the compiler for older GPUs does not know
        return self.emit(self.type, self.builder.fsub(constant(self.ir.type, -0.0), self.ir))

    def __lt__(self, other: Any) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare(">=", other)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self._compare("!=", other)

    def __bool__(self) -> bool:
        raise TypingError(f"{self!r} is not known while a kernel is compiled: choose by select, not by if")

    __hash__ = None  # type: ignore[assignment]


def alike(*operands: Any) -> list[Value]:
    """The operands in one type: the Vec type if one of them is a Vec, else the type of the first `Value`."""
    values = [v for v in operands if isinstance(v, Value)]
    vectors = [v for v in values if isinstance(v.type, Vec)]
    lead = (vectors or values)[0]
    for v in vectors:
        if v.type != lead.type:
            raise TypeError(f"operands differ: {lead.type} and {v.type}")
    if isinstance(element(lead.type), types.Integer):
        for v in operands:
            if isinstance(v, Value) and isinstance(element(v.type), types.Float):
                raise TypingError(f"{v.type} does not go with {lead.type}: convert one of them")
    return [
        v.cast(lead.type) if isinstance(v, Value) else lead.emit(lead.type, constant(llvm_type(lead.type), v))
        for v in operands
    ]


def _value_of(builder: ir.IRBuilder, numba_type: types.Type, ir_value: Any) -> Any:
    """A jitted function's argument in the form that a `lanewise` function gets."""
    if isinstance(numba_type, types.Literal):
        numba_type = types.unliteral(numba_type)
    if numba_type is types.none or isinstance(numba_type, types.Omitted):
        return None
    if isinstance(numba_type, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, ir_value, len(numba_type.types))
        return tuple(_value_of(builder, t, v) for t, v in zip(numba_type.types, parts, strict=True))
    if isinstance(numba_type, (types.TypeRef, types.NumberClass)):
        return numba_type.instance_type
    return Value(builder, numba_type, ir_value)


def _type_of(result: Any) -> types.Type:
    if result is None:
        return types.none
    if isinstance(result, tuple):
        return types.Tuple([_type_of(r) for r in result])
    return result.type


def _dummy(numba_type: types.Type) -> Any:
    """A placeholder argument, on which a function is tried to find the type of its result."""
    if isinstance(numba_type, types.BaseTuple):
        elements = [_dummy(t) for t in numba_type.types]
        known = [ir.Constant(ir.IntType(1), 0) if e is None else e for e in elements]
        return ir.Constant(ir.LiteralStructType([e.type for e in known]), ir.Undefined)
    if isinstance(numba_type, (types.Float, types.Integer, types.Boolean, Vec)):
        return ir.Constant(llvm_type(types.unliteral(numba_type)), ir.Undefined)
    return None


def lanewise(function: Callable, key: Any = None, accepts: Callable[..., bool] = lambda *args: True) -> Callable:
    """Make a function of numbers callable in jitted code; see this module.

    Parameters
    ----------
    function : callable
        Python code on `Value` objects, None, types and tuples of these. It
        returns a `Value` or a tuple of them.
    key : object, optional
        The object that calls it in jitted code, if not `function` itself.
    accepts : callable, optional
        True if it takes arguments of these Numba types.
    """
    key = key or function
    parameters = list(inspect.signature(function).parameters.values())

    def define(typingctx: Any, *arg_types: types.Type) -> Any:
        if not accepts(*arg_types):
            return None
        scratch = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "typing")
        builder = ir.IRBuilder(scratch.append_basic_block())
        result = function(*(_value_of(builder, t, _dummy(t)) for t in arg_types))

        def generate(ctx: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return pack(
                function(*(_value_of(builder, t, a) for t, a in zip(sig.args, args, strict=True))), ctx, builder
            )

        return signature(_type_of(result), *arg_types), generate

    def pack(result: Any, ctx: Any, builder: ir.IRBuilder) -> ir.Value:
        if result is None:
            return ctx.get_dummy_value()
        if isinstance(result, tuple):
            return ctx.make_tuple(builder, _type_of(result), [pack(r, ctx, builder) for r in result])
        return result.ir

    first = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    define.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    template = make_intrinsic_template(key, define, function.__name__)
    infer(template)
    infer_global(key, types.Function(template))
    return function


def _vec_among(*args: types.Type) -> bool:
    return any(isinstance(a, Vec) for a in args)


def _vec_operator(op: Callable, arity: int) -> None:
    def apply_to_two(a, b):
        return op(a, b)

    def apply_to_one(a):
        return op(a)

    lanewise(apply_to_one if arity == 1 else apply_to_two, op, _vec_among)


for _op in (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.and_, operator.or_,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
):  # fmt: skip
    _vec_operator(_op, 2)
_vec_operator(operator.neg, 1)
