"""Packages that are missing or do not go together: the error of a call and `info` name them, and what to install."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_fakes import NO_DEVICE
from numba import int64

import numba_softmax as ns
from numba_softmax import cli
from numba_softmax.backends.cuda import driver

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

INSTALL = "pip install 'numba-softmax[cu13]', or [cu12] for a driver of CUDA 12"

# A process in which something is wrong: what its first call on a GPU says, its second one, and `info`.
SAYS = """
import contextlib, io, sys
import numpy as np
import numba_softmax as ns
from numba_softmax import cli
from numba_softmax.backends.cuda import driver, installed
from gpu_fakes import Driver

bindings, driver._bindings = driver._bindings, Driver
exec(sys.argv[1])
for _ in range(2):
    try:
        ns.softmax(np.ones((2, 3)), device="cuda")
    except driver.CudaError as error:
        print(error)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert cli.main(["info"]) == 0
print(printed.getvalue().partition("not usable: ")[2].splitlines()[0])
"""

ABSENT = """
sys.meta_path = [finder for finder in sys.meta_path if type(finder).__name__ != "NumbaCudaFinder"]
sys.modules["numba_cuda"] = None
driver._bindings = bindings
"""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "import numpy.ma; del np.vstack",
            r"numba-cuda [\d.]+ does not work with numpy [\d.]+ \(AttributeError: .*'vstack'\)",
        ),
        (
            "from numba.cuda.cudadrv import nvvm; del nvvm.set_launch_bounds",
            r"numba-softmax( [\d.]+)? does not work with numba-cuda [\d.]+ \(AttributeError: .*'set_launch_bounds'\)",
        ),
        (
            "import numba.cuda.compiler; del numba.cuda.compiler.kernel_fixup",
            r"numba-softmax( [\d.]+)? does not work with numba-cuda [\d.]+ \(ImportError: .*'kernel_fixup'.*\)",
        ),
        (
            "import numba.cuda.extending; del numba.cuda.extending.register_model",
            r"numba-softmax( [\d.]+)? does not work with numba-cuda [\d.]+ \(ImportError: .*'register_model'.*\)",
        ),
        (
            "from numba.cuda.cudadrv import nvvm; nvvm.NVVM = lambda: {}['no compiler']",
            r"CUDA cannot be used with numba-softmax.*, numba-cuda [\d.]+, .*, numpy [\d.]+, .*'no compiler'\)",
        ),
        (ABSENT, "CUDA needs numba-cuda, which is not installed"),
    ],
)
def test_a_process_whose_packages_do_not_go_together_says_so_each_time(run_python, tmp_path, wrong, said):
    lines = run_python(SAYS, wrong, XDG_CACHE_HOME=str(tmp_path)).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(f"{said}: {re.escape(INSTALL)}", line), line


def test_missing_bindings_are_said(run_python):
    wrong = "sys.modules['cuda'] = None; driver._bindings = bindings"
    first, *_ = run_python(SAYS, wrong).splitlines()
    assert first == f"CUDA needs cuda-bindings, which is not installed: {INSTALL}"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (SimpleNamespace(), "needs an NVIDIA driver, and none was found"),
        (SimpleNamespace(cuInit=lambda flags: (NO_DEVICE,)), "finds no GPU .*CUDA_ERROR_NO_DEVICE"),
    ],
)
def test_a_missing_driver_or_gpu_is_said(monkeypatch, module, said, capsys):
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    monkeypatch.setattr(driver, "_bindings", lambda: module)
    for x in ([1.0], np.ones((2, 3), np.float32)):
        with pytest.raises(RuntimeError, match=said):
            ns.softmax(x, device="cuda")
    assert ns.logsumexp([0.0]) == 0
    assert cli.main(["info"]) == 0
    assert re.search(said, capsys.readouterr().out)


def test_a_kernel_that_is_wrong_is_not_blamed_on_packages():
    from numba_softmax.backends.cuda import kernels

    kernel = SimpleNamespace(signature=(int64,), threads=32, function=lambda address: address.no_such_thing)
    with pytest.raises(Exception, match="no_such_thing") as raised:
        kernels.compile_kernel(kernel, (8, 0))
    assert not isinstance(raised.value, driver.CudaError)
