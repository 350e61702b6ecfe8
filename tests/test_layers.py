"""Which module may import which: the table of docs/architecture.md, held against the code."""

import ast
import functools
import graphlib
import sys
from pathlib import Path

import pytest

import numba_softmax

PACKAGE = Path(numba_softmax.__file__).parent
NUMBA, NUMPY = {"numba"}, {"numpy"}
MATH = {
    "math.lanewise",
    "math.simd",
    "math.memory",
    "math.expmath",
    "math.pairs",
    "math.weights",
    "math.online",
    "math.folds",
}
HOST_SIDE = {"backends.cuda.driver", "backends.cuda.allocation", "backends.cuda.interop.libraries"}

# A module or a folder: what it may import of the package, and of other libraries.
ALLOWED = {
    "__init__": ({"api", "refusals", "streaming.states"}, set()),
    "__main__": ({"cli"}, set()),
    "api": (
        {"building", "ops", "streaming.mapped", "dask", "call.arguments", "call.devices", "call.host_libraries"}
        | {"call.layout", "call.request", "call.whole_arrays"},
        {"numpy", "tqdm"},
    ),
    "refusals": ({"api", "streaming.states"}, NUMBA),
    "streaming": (set(), set()),
    "streaming.states": ({"ops", "call.adapters", "call.arguments", "call.host_libraries", "call.row_states"}, NUMPY),
    "streaming.mapped": (
        {"ops", "call.adapters", "call.arguments", "call.devices", "call.layout", "call.overlap", "call.request"}
        | {"call.row_states", "call.whole_arrays"},
        NUMPY,
    ),
    "dask": (
        {"ops", "math.folds", "streaming.dask_arguments", "call.adapters", "call.request", "call.row_states"}
        | {"call.whole_arrays"},
        {"dask", "numba", "numpy"},
    ),
    "streaming.dask_arguments": (
        {"ops", "call.arguments", "call.devices", "call.request", "call.row_states"},
        {"dask", "numpy"},
    ),
    "call": (set(), set()),
    "call.row_states": (
        {"ops", "math.folds", "call.adapters", "call.arguments", "call.layout", "call.memory", "call.overlap"}
        | {"call.plan", "call.request"},
        NUMPY,
    ),
    "call.whole_arrays": (
        {"ops", "call.adapters", "call.arguments", "call.devices", "call.host_libraries", "call.memory"}
        | {"call.overlap", "call.plan", "call.request"},
        NUMPY,
    ),
    "call.plan": (
        {"ops", "call.adapters", "call.arguments", "call.devices", "call.layout", "call.overlap", "call.request"},
        NUMPY,
    ),
    "call.adapters": (
        {"building", "ops", "backends.cuda.interop.streams", "call.arguments", "call.devices", "call.host_libraries"}
        | {"call.layout", "call.memory"},
        NUMPY,
    ),
    "call.devices": (
        {"building", "backends.cpu", "backends.cuda", "backends.cuda.interop.staging"}
        | {"call.dlpack", "call.host_libraries"},
        NUMPY,
    ),
    "call.request": ({"ops", "call.arguments"}, NUMPY),
    "call.host_libraries": ({"call.arguments", "call.dlpack", "call.layout", "call.memory"}, NUMPY),
    "call.dlpack": ({"call.arguments", "call.layout", "call.memory"}, NUMPY),
    "call.overlap": ({"ops", "call.layout", "call.memory"}, NUMPY),
    "call.arguments": ({"ops", "call.layout"}, {"numpy", "ml_dtypes"}),
    "call.memory": (set(), NUMPY),
    "call.layout": ({"ops"}, NUMPY),
    "building": (set(), {"numba", "llvmlite"}),
    "ops": (MATH | {"ops"}, NUMBA),
    "simd": ({"math.simd", "math.memory"}, set()),
    "math": (set(), set()),
    "math.folds": (MATH - {"math.folds"}, NUMBA),
    "math.online": (MATH - {"math.online", "math.folds"}, NUMBA),
    "math.weights": ({"math.lanewise", "math.simd", "math.pairs", "math.expmath"}, NUMBA),
    "math.pairs": ({"math.lanewise", "math.simd"}, NUMBA),
    "math.memory": ({"math.lanewise", "math.simd"}, {"numba", "llvmlite"}),
    "math.expmath": ({"math.lanewise", "math.simd", "math.pairs"}, NUMBA),
    "math.simd": ({"math.lanewise"}, {"numba", "llvmlite"}),
    "math.lanewise": (set(), {"numba", "llvmlite"}),
    "kernel_code": (set(), set()),
    "backends": (set(), set()),
    "backends.disk": (set(), {"numba", "llvmlite"}),
    "backends.spec": (
        {"call.layout", "ops", "math.folds", "math.lanewise", "math.simd", "math.memory", "math.weights"},
        NUMBA,
    ),
    "backends.cpu": (
        {"call.layout", "call.memory", "building", "ops", *MATH, "backends.cpu", "backends.disk", "backends.spec"},
        {"numba", "numpy", "llvmlite"},
    ),
    "backends.cuda": (
        {"call.layout", "building", "ops", *MATH, "backends.disk", "backends.spec"}
        | {"backends.cuda", "backends.cuda.driver", "backends.cuda.allocation", "backends.cuda.installed"},
        {"numba", "llvmlite", "numba_cuda"},
    ),
    "backends.cuda.allocation": ({"backends.cuda.driver"}, set()),
    "backends.cuda.driver": ({"building", "backends.cuda.installed"}, set()),
    "backends.cuda.installed": (set(), set()),
    "backends.cuda.interop.libraries": (
        {"building", "call.arguments", "call.dlpack", "call.host_libraries", "call.layout", *HOST_SIDE},
        {"numpy", "numba"},
    ),
    "backends.cuda.interop.streams": ({"call.memory", *HOST_SIDE}, NUMPY),
    "backends.cuda.interop.staging": (
        {"call.layout", "call.memory", "ops", "backends", "backends.cuda", *HOST_SIDE},
        NUMPY,
    ),
    "jit": (
        {"ops", *MATH, "jit", "backends", "backends.cpu", "backends.cuda", "backends.spec"},
        {"numba", "numpy", "llvmlite", "scipy"},
    ),
    "bench": (
        {"bench", "bench.timing", "bench.reference", "bench.new_process"}
        | {"api", "call.arguments", "call.layout", "call.plan", "dask", "ops", "__init__"}
        | {*HOST_SIDE, "backends.cuda.interop.streams"},
        {"numba", "numpy", "tqdm", "triton", "matplotlib", "dask", "distributed"},
    ),
    "bench.timing": (set(), {"numba", "numpy", "tqdm"}),
    "bench.reference": (set(), NUMPY),
    "bench.new_process": (set(), set()),
    "cli": (
        {"cli", "bench", "bench.reference", "api", "streaming.mapped", "ops", "__init__"}
        | {"call.arguments", "call.devices", "call.layout"}
        | {"backends.cpu", "backends.disk", "backends.cuda", "backends.cuda.driver"},
        {"numba", "numpy", "llvmlite", "tqdm"},
    ),
}
LAZY = {"ml_dtypes", "scipy", "torch", "matplotlib", "dask", "distributed"}
"""Libraries that are imported inside functions alone, where they are needed; the modules `dask` are such places."""


def modules():
    return sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def row_of(module):
    """The row of the table for a module: its own, or that of its folder."""
    parts = module.removesuffix("/__init__").split("/")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in ALLOWED:
            return ".".join(parts[:end])
    raise AssertionError(f"{module} is not in the table")


def imports_of(module):
    """What a module imports: pairs of a name from its root and whether that is done at import time."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    folder = module.split("/")[:-1]
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        at_import = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ["numba_softmax", *folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                below = PACKAGE.joinpath(*base[1:], alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").exists()
                yield ".".join([*base, alias.name] if is_module else base), at_import
        elif isinstance(node, ast.ImportFrom):
            yield node.module, at_import


def module_of(name):
    """The module that an import gives: a file, or the `__init__` of a folder."""
    path = name.partition(".")[2].replace(".", "/")
    return path if path in modules() else f"{path}/__init__".lstrip("/")


@functools.cache
def kernel_modules():
    """What kernels are made of: the modules that compile them, and all of the package that those import."""
    found, new = set(), {"backends/cpu/kernels", "backends/cuda/kernels"}
    while new:
        found |= new
        own = {f"{name}." for module in new for name, _ in imports_of(module) if name.startswith("numba_softmax")}
        paths = {name.partition(".")[2].replace(".", "/") for name in own}  # each ends with a slash, unless it is empty
        new = ({path.rstrip("/") for path in paths} | {f"{path}__init__" for path in paths}) & set(modules()) - found
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_are_those_of_the_table(module):
    own, libraries = ALLOWED[row_of(module)]
    own = own | ({"kernel_code"} if module in kernel_modules() else set())
    for name, at_import in imports_of(module):
        top, _, rest = name.partition(".")
        if top == "numba_softmax":
            target = row_of(rest.replace(".", "/")) if rest else "__init__"
            assert target in own, f"{module} imports {name}"
        elif top in libraries:
            assert not at_import or top not in LAZY or f"/{top}" in f"/{module}", f"{module} imports {name} at once"
        else:
            assert top in sys.stdlib_module_names, f"{module} imports {name}"


def test_the_table_names_modules_that_exist():
    assert set(map(row_of, modules())) == set(ALLOWED)


def test_no_module_imports_itself_through_others():
    """Nor do functions, when they are called."""
    own = {module: {n for n, _ in imports_of(module) if n.partition(".")[0] == "numba_softmax"} for module in modules()}
    imports = {module: set(map(module_of, names)) for module, names in own.items()}
    graphlib.TopologicalSorter(imports).prepare()  # its error has the circle


def test_gpus_and_what_computes_part_by_part_are_imported_when_they_are_used():
    later = tuple(f"numba_softmax.{name}" for name in ("backends.cuda", "streaming.mapped", "dask"))
    imports = (pair for module in ("api", "call/adapters", "call/devices") for pair in imports_of(module))
    assert all(not at_import for name, at_import in imports if name.startswith(later))


@pytest.mark.parametrize("module", modules())
def test_kernels_on_disk_are_named_by_all_that_they_are_made_of(module):
    """A module that is forgotten would have its kernels run by other versions of it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    calls = [ast.unparse(statement.value) for statement in tree.body if isinstance(statement, ast.Expr)]
    registers = "kernel_code.register()" in calls or module == "kernel_code"
    assert registers == (module in kernel_modules())
    if registers:
        assert all(at_import for name, at_import in imports_of(module) if name.startswith("numba_softmax"))


IMPORT = """
import sys
import numba
before = set(sys.modules)  # Numba loads SciPy where it is installed
import numba_softmax
optional = {"matplotlib", "tqdm", "scipy", "torch", "ml_dtypes", "cuda", "numba.cuda", "numba_cuda"}
optional |= {"dask", "distributed"}
optional |= {f"numba_softmax.{name}" for name in ("bench", "cli", "jit", "backends.cuda")}
unwanted = optional & (set(sys.modules) - before)
assert not unwanted, unwanted
"""

COMPILES = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from numba_softmax.call.plan import plan_call
    from numba_softmax.backends import cpu
assert not recorder.buffer, recorder.buffer
assert not plan_call.cache_info().currsize
"""


def test_importing_the_package_loads_no_optional_library(run_python):
    run_python(IMPORT)


def test_importing_the_package_compiles_nothing(run_python):
    run_python(COMPILES)
