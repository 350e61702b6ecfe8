"""The command line: ``numba-softmax run``, ``info``, ``selftest``, ``bench`` and ``kernels``.

Results go to stdout; messages and progress to stderr. Exit codes: 0, 1 for a
failed check, 2 for bad input, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..backends.cpu import threads
from ..call.devices import DEVICES
from ..ops import OPS, STATE_OPS
from .common import DTYPES, NAME, UserError
from .occupancy import LIMITS

__all__ = ["DTYPES", "UserError", "main"]


class _Terminated(BaseException):
    """The process was told to end, by SIGTERM."""


class _Parser(argparse.ArgumentParser):
    """A parser whose usage errors are one line, with the same beginning for all commands."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{NAME}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code.
    """
    if argv is None and isinstance(sys.stdout, io.TextIOWrapper):  # the process is ours
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that the terminal cannot show
    arguments = _parser().parse_args(argv)
    if argv is None:
        signal.signal(signal.SIGTERM, _terminate)  # so that files are cleaned up
    try:
        threads.check()
        command = importlib.import_module(f"{__name__}.{arguments.command}").command
        code = command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, _Terminated) as interrupt:
        code = 128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT)
        if argv is None:
            os._exit(code)  # another thread may be compiling a kernel: the clean-up of an ordinary exit would crash
    except BrokenPipeError:
        _silence_stdout()
        return 141  # 128 + SIGPIPE; not every system defines that
    except (UserError, threads.UnusableError, OSError, MemoryError) as error:
        print(f"{NAME}: error: {_in_one_line(error)}", file=sys.stderr)
        _silence_stdout()
        return 2
    return code


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: it would fail again, and say so."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename if error.filename is not None else "cannot write the result"
        return f"{where}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _file(text: str) -> str:
    """The name of a file. It may not be empty, as it would be from an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def _axis(text: str) -> int | tuple[int, ...] | None:
    """An axis as users write it: ``1``, ``0,1`` or ``none``."""
    if text.lower() == "none":
        return None
    numbers = tuple(int(part) for part in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


_axis.__name__ = "axis"  # argparse names it in its message


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=NAME, description="softmax, log_softmax and logsumexp for NumPy arrays, compiled by Numba")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)

    info = commands.add_parser(
        "info", help="versions, CPU, threads, cache", description="The hardware and software to compute with."
    )
    info.add_argument("--json", action="store_true", help="print JSON")

    text = "check on this machine what the documentation promises"
    selftest = commands.add_parser("selftest", help=text, description=f"{_sentence(text)}: exit code 1 if it fails.")
    selftest.add_argument("--json", action="store_true", help="print JSON")

    _add_bench(commands)
    _add_kernels(commands)
    return parser


def _add_run(commands: Any) -> None:
    text = "compute on a .npy file of any size, or on a sample without one"
    description = (
        f"{_sentence(text)}. The file may be larger than memory. Without IN, the sample is attention scores "
        "that a small transformer computed for a sentence; nothing is written then."
    )
    run = commands.add_parser("run", help=text, description=description)
    run.add_argument("input", type=_file, nargs="?", metavar="IN", help="an array in a .npy file")
    text = "where to write the result (default: beside IN, named IN's stem.OP.npy); may be IN"
    run.add_argument("output", type=_file, nargs="?", metavar="OUT", help=text)
    run.add_argument("--op", choices=tuple(OPS), default="softmax", help="the operation (default: %(default)s)")
    text = "an axis, several as in --axis=0,1, or none for all (default: %(default)s)"
    run.add_argument("--axis", type=_axis, default=-1, help=text)
    text = "what the elements are in a file that does not say it: NumPy saves bfloat16 as bytes, V2"
    run.add_argument("--as", dest="read_as", choices=("bfloat16",), help=text)
    text = "of the result (default: that of IN if it is a float, else float64)"
    run.add_argument("--dtype", choices=("float16", "float32", "float64"), help=text)
    run.add_argument("--scale", type=float, metavar="S", help="multiplies the input: one over the temperature")
    run.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_bench(commands: Any) -> None:
    text = "measure this machine against a parallel copy, NumPy, SciPy and torch"
    bench = commands.add_parser("bench", help=text, description=f"{_sentence(text)}, as far as these are installed.")
    text = "what to measure; cuda: arrays on a GPU, beside torch, Triton and CuPy (default: %(default)s)"
    bench.add_argument("--device", choices=DEVICES, default="cpu", help=text)
    bench.add_argument("--json", type=_file, metavar="FILE", help="write all numbers to a file")
    bench.add_argument("--plot", type=_file, metavar="FILE", help="draw them (.png, .svg or .pdf; needs matplotlib)")
    kind = bench.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="a few small cases only")
    text = "softmax over row lengths from 1 to 100000 and over inner axes, with the points that are slow for no reason"
    kind.add_argument("--sweep", action="store_true", help=text)
    text = "new processes: import, first call with and without the kernel on disk, second call"
    kind.add_argument("--cold", action="store_true", help=text)
    text = "files through memory maps, and Dask arrays on worker processes, against a model of what large ones cost"
    bench.add_argument("--scaling", action="store_true", help=text)  # goes with --quick


def _add_kernels(commands: Any) -> None:
    text = "registers, shared memory, spills and occupancy of the CUDA kernels"
    description = (
        f"{_sentence(text)}. They are compiled, if they are not on disk yet, which takes numba-cuda but no GPU. "
        "The exit code is 1 if one of them uses more than registers."
    )
    kernels = commands.add_parser("kernels", help=text, description=description)
    text = "a compute capability, of %(choices)s (default: that of the GPU, or else 9.0); may be given several times"
    known = [f"{major}.{minor}" for major, minor in LIMITS]
    kernels.add_argument("--capability", action="append", choices=known, metavar="X.Y", help=text)
    text = "an operation (default: all); may be given several times"
    kernels.add_argument("--op", action="append", choices=(*OPS, *STATE_OPS), help=text)
    text = "of arrays and results (default: all); may be given several times"
    kernels.add_argument("--dtype", action="append", choices=DTYPES, help=text)
    kernels.add_argument("--where", action="store_true", help="the kernels of calls with a mask")
    kernels.add_argument("--scale", action="store_true", help="those of calls with a scale")
    kernels.add_argument("--all", action="store_true", help="those with and without")
    kernels.add_argument("--json", action="store_true", help="print JSON")
