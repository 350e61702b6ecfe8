"""The code that kernels are made from, as it was imported: a part of their key in the disk cache.

Each module that kernels are made from calls `register` while it is imported. The
code that runs then is what counts, wherever it came from (a source file, a .pyc
file, a zip, an executable) and even if that file has changed since.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

_registered: list[tuple[str, CodeType]] = []


def register() -> None:
    """Add the module whose top level calls this to those that kernels are made from."""
    frame = sys._getframe(1)
    _registered.append((frame.f_globals["__name__"], frame.f_code))
    digest.cache_clear()


@functools.cache
def digest(module: str) -> str:
    """A hash of the code that kernels of a module's backend are made from: the backend's own, and the shared code.

    A reloaded module counts with all its versions, as functions of the old ones are still in use.
    """
    parts = {
        (name, hashlib.sha256(repr(_comparable(code)).encode()).hexdigest())
        for name, code in _registered
        if _backend_of(name) in (None, _backend_of(module))
    }
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()


@functools.cache
def digest_of(op: Any) -> str:
    """A hash of an op: its fields, and the code of all functions among them.

    Functions of registered modules are identified by name. For others, everything they refer to counts too, wherever
    it was defined.
    """
    return hashlib.sha256(repr(_described(op, ())).encode()).hexdigest()


def _described(value: Any, within: tuple[Any, ...]) -> Any:
    """An op's field in a form whose `repr` identifies it; `within` are the functions that refer to it."""
    if isinstance(value, tuple):
        return type(value).__name__, *(_described(field, within) for field in value)
    if not isinstance(value, FunctionType) or value in within:
        return repr(value) if not callable(value) else getattr(value, "__qualname__", repr(value))
    inside = (*within, value)
    code, cells = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
    names = [name for name in code.co_names if name in value.__globals__]
    if value.__module__ in {name for name, _ in _registered}:
        names = []
    used = [value.__globals__[name] for name in names]
    referred = [_described(v, inside) for v in (*cells, *used, value.__defaults__) if not isinstance(v, ModuleType)]
    return value.__qualname__, _comparable(code), referred


def _backend_of(module: str) -> str | None:
    """The backend that a module belongs to; None for shared modules, wherever they are."""
    package, _, inside = module.partition(".backends.")
    return inside.partition(".")[0] if package == __package__ and "." in inside else None


def _comparable(constant: Any) -> Any:
    """Code as tuples without the path, names for tracebacks and line numbers; other constants unchanged.

    `marshal` may give different bytes for the same code: they depend on the other references to a constant.
    """
    if isinstance(constant, CodeType):
        code = constant
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars
        return code.co_code, code.co_exceptiontable, counts, names, _comparable(code.co_consts)
    if isinstance(constant, tuple):
        return tuple(map(_comparable, constant))
    if isinstance(constant, frozenset):
        return sorted(map(repr, constant))  # a set's own order depends on the process's hash seed
    return constant


register()
