"""A kernel is used by the version of the package that compiled it, however that was installed, and by no other."""

import compileall
import marshal
import os
import shutil
from pathlib import Path

import pytest
from test_layers import kernel_modules, modules

import numba_softmax
from numba_softmax import kernel_code

PACKAGE = Path(numba_softmax.__file__).parent

CALL = """
import numpy as np, numba_softmax as ns
from naive import assert_right
x = np.arange(6.0) % 5 * np.ones((2, 1))
assert_right("softmax", ns.softmax(x), x)
"""

SWAPPED = {
    "ROWS, N, ROW_DIMS": "N, ROWS, ROW_DIMS",
    "[layout.rows, layout.n,": "[layout.n, layout.rows,",
    "return (1, n, 1,": "return (n, 1, 1,",
}
"""Two words of the layout change places: as right as before, but kernels from before read the wrong ones."""


def copied(source, target):
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders with the package as it is, and with another layout."""
    top = tmp_path_factory.mktemp("versions")
    for name in ("old", "new"):
        copied(PACKAGE, top / name / "numba_softmax")
    layout = top / "new" / "numba_softmax" / "backends" / "cpu" / "layout.py"
    text = layout.read_text()
    for before, after in SWAPPED.items():
        assert before in text
        text = text.replace(before, after)
    layout.write_text(text)
    return top / "old", top / "new"


@pytest.fixture
def run_from(tmp_path, run_python):
    """Run code in a new process that imports the package from there."""

    def run(place, code=CALL, *args, **env):
        paths = os.pathsep.join([str(place), str(Path(__file__).parent)])
        # A .pyc file is taken for an edited source of the same size, within the same second.
        env = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **env}
        return run_python(code, *args, root=tmp_path, **env)

    return run


@pytest.fixture
def cache(versions, tmp_path, tmp_path_factory, run_from):
    """A cache folder with a kernel of each version."""
    kept = tmp_path_factory.getbasetemp() / "kernels_of_both_versions"
    if not kept.exists():
        for version in versions:
            run_from(version, XDG_CACHE_HOME=str(kept))
    shutil.copytree(kept, tmp_path / "cache")
    assert len(kernels(tmp_path / "cache")) == 2
    return tmp_path / "cache"


def kernels(folder):
    return sorted(path.name for path in (folder / "numba_softmax").glob("*.kernel"))


def zipped(version, folder):
    return shutil.make_archive(folder / version.name, "zip", version), CALL


def without_sources(version, folder):
    copied(version, folder / version.name)
    compileall.compile_dir(folder / version.name, quiet=1, legacy=True)
    for module in modules():
        (folder / version.name / "numba_softmax" / f"{module}.py").unlink()
    return folder / version.name, CALL


FROZEN = """
import importlib.abc, importlib.util, marshal, sys


class Frozen(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def __init__(self, path):
        with open(path, "rb") as file:
            self.codes = marshal.load(file)

    def find_spec(self, name, path=None, target=None):
        for key, folders in ((name, None), (f"{name}.__init__", [])):
            if key in self.codes:
                nowhere = "/nowhere/" + key.replace(".", "/") + ".pyc"
                return importlib.util.spec_from_file_location(
                    name, nowhere, loader=self, submodule_search_locations=folders
                )

    def get_code(self, name):
        return self.codes.get(name) or self.codes[f"{name}.__init__"]

    def get_source(self, name):
        return None


sys.meta_path.insert(0, Frozen(sys.argv[1]))
"""


def frozen(version, folder):
    """The package as PyInstaller's loader has it: code, but neither sources nor files."""
    package = version / "numba_softmax"
    codes = {
        f"numba_softmax.{module.replace('/', '.')}": compile((package / f"{module}.py").read_text(), module, "exec")
        for module in modules()
    }
    path = folder / f"{version.name}.codes"
    path.write_bytes(marshal.dumps(codes))
    return path, FROZEN + CALL


@pytest.mark.parametrize("installed", [zipped, without_sources, frozen])
def test_a_version_uses_its_own_kernels_however_it_is_installed(installed, versions, cache, tmp_path, run_from):
    before = kernels(cache)
    for version in versions:
        place, code = installed(version, tmp_path)
        run_from(place, code, place, XDG_CACHE_HOME=str(cache))
    assert kernels(cache) == before


UPGRADED = """
import importlib, shutil, sys
importlib.import_module(sys.argv[3])
shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)
"""


@pytest.mark.parametrize("imported", ["numba_softmax", "numba_softmax.jit"])
def test_a_process_that_outlives_an_upgrade_stays_with_its_version(imported, versions, cache, tmp_path, run_from):
    before = kernels(cache)
    old, new = versions
    copied(old, tmp_path / "site")
    run_from(tmp_path / "site", UPGRADED + CALL, new, tmp_path / "site", imported, XDG_CACHE_HOME=str(cache))
    run_from(tmp_path / "site", XDG_CACHE_HOME=str(cache))
    assert kernels(cache) == before


RELOADED = """
import importlib, shutil, sys
from numba_softmax.backends import disk
from numba_softmax.backends.cpu import cache, layout

keys = [disk.key_of("rows", cache.__name__)]
shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)
importlib.reload(layout)
print(keys[0], disk.key_of("rows", cache.__name__))
"""


def test_a_mixture_of_versions_has_kernels_of_its_own(versions, tmp_path, run_from):
    old, new = versions
    copied(old, tmp_path / "site")
    first, mixed = run_from(tmp_path / "site", RELOADED, new, tmp_path / "site").split()
    again, same = run_from(tmp_path / "site", RELOADED, new, tmp_path / "site").split()
    assert again == same
    assert len({first, mixed, again}) == 3


def test_an_edit_of_what_kernels_are_not_made_of_keeps_them(versions, cache, tmp_path, run_from):
    before = kernels(cache)
    copied(versions[0], tmp_path / "site")
    for module in modules():
        with open(tmp_path / "site" / "numba_softmax" / f"{module}.py", "a") as file:
            file.write("# edited\n" if module in kernel_modules() else "edited = True\n")
    run_from(tmp_path / "site", XDG_CACHE_HOME=str(cache))
    assert kernels(cache) == before


WITH_CUDA = "from numba_softmax.backends.cuda import kernels\n"


def test_kernels_of_the_cpu_do_not_ask_whether_those_of_cuda_were_imported(versions, cache, run_from):
    pytest.importorskip("numba_cuda", reason="the CUDA kernels import it")
    before = kernels(cache)
    run_from(versions[0], WITH_CUDA + CALL, XDG_CACHE_HOME=str(cache))
    assert kernels(cache) == before


@pytest.mark.parametrize(
    ("changed", "counts"),
    [("call.layout", True), ("backends.spec", True), ("backends.cpu.rows", True), ("backends.cuda.rows", False)],
)
def test_kernels_of_a_backend_are_named_by_its_own_code_and_by_all_that_backends_share(changed, counts, monkeypatch):
    monkeypatch.setattr(kernel_code, "_registered", kernel_code._registered.copy())
    digest, module = kernel_code.digest.__wrapped__, "numba_softmax.backends.cpu.cache"  # nothing of this is kept
    before = digest(module)
    exec("kernel_code.register()", {"__name__": f"numba_softmax.{changed}", "kernel_code": kernel_code})
    assert (digest(module) != before) == counts
