"""What a new process waits for."""

import statistics
import tempfile

from .common import tool


def timeraw_import_numba():
    """Numba alone: to be subtracted from the next one."""
    return "import numba"


def timeraw_import_numba_softmax():
    """With the imports of Numba and NumPy."""
    return "import numba_softmax"


for _import in (timeraw_import_numba, timeraw_import_numba_softmax):
    _import.version, _import.rounds, _import.repeat, _import.number = "1", 1, 7, 1


class FirstCall:
    """Seconds of the first softmax in a new process, of small arrays and of arrays for all threads."""

    version = "1"
    unit = "seconds"
    params = ((1, 1024), ("nothing cached", "kernel cached"))
    param_names = ("rows of 1024", "cache")
    timeout = 300
    REPEATS = 3

    def track_first_call(self, rows, cache):
        start, seconds = tool("new_process").in_new_process, []
        for _ in range(self.REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                if cache == "kernel cached":
                    start(folder, (rows, 1024))
                _, _, first_call, _ = start(folder, (rows, 1024))
            seconds.append(first_call)
        return statistics.median(seconds)
