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
    """Seconds of the first softmax in a new process, of a small array and of one for all threads."""

    version = "1"
    unit = "seconds"
    params = ((1, 1024), ("nothing cached", "kernel cached"))
    param_names = ("rows of 1024", "cache")
    REPEATS = 3

    def setup_cache(self):
        seconds = {}
        for rows in self.params[0]:
            for _ in range(self.REPEATS):
                with tempfile.TemporaryDirectory() as folder:
                    for cache in self.params[1]:  # the second process finds what the first one compiled
                        _, _, first_call, _ = tool("new_process").in_new_process(folder, (rows, 1024))
                        seconds.setdefault((rows, cache), []).append(first_call)
        return seconds

    setup_cache.timeout = 600

    def track_first_call(self, seconds, *key):
        return statistics.median(seconds[key])
