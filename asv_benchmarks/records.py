"""Results that asv has recorded, read for comparisons and plots."""

import ast
import datetime
import functools
import itertools
import subprocess
from pathlib import Path
from typing import NamedTuple

from asv import results

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

MACHINE = "zen4-2-cores"
"""The one that all merges are measured on."""

OF_COPY, NOISE, SECONDS = "cpu.OfCopy.track_of_copy", "cpu.OfCopy.track_noise", "cpu.Time.time_call"
PEERS, ULP = "peers.Float32.time_call", "accuracy.Ulp.track_largest_error"
STATES = "States"
"""What the names of classes end in that measure the same of states."""


class Record(NamedTuple):
    """What was measured of a commit on a machine."""

    machine: dict[str, str]
    commit: str
    date: int  # of the commit, in milliseconds
    found: results.Results

    def values(self, benchmark):
        """Numbers by the benchmark's parameters; those that were not measured are left out."""
        if benchmark not in self.found.get_all_result_keys():
            return {}
        params = [[ast.literal_eval(value) for value in values] for values in self.found.get_result_params(benchmark)]
        numbers = self.found.get_result_value(benchmark, self.found.get_result_params(benchmark))
        pairs = zip(itertools.product(*params), numbers, strict=True)
        return {key: value for key, value in pairs if value is not None and value == value}


def records(machine=None):
    """All records, the oldest commit first; of one machine, if its folder's name is given."""
    found = results.iter_results_for_machine(RESULTS, machine) if machine else results.iter_results(RESULTS)
    newest = {}  # where a commit was measured in several environments
    for result in sorted(found, key=lambda result: max(result.started_at.values(), default=0)):
        newest[result.params["machine"], result.commit_hash] = result
    made = (Record(result.params, result.commit_hash, result.date, result) for result in newest.values())
    return sorted(made, key=lambda record: (record.date, record.commit))


def day_of(record):
    """The day of the commit."""
    return datetime.datetime.fromtimestamp(record.date / 1e3, datetime.UTC).strftime("%Y-%m-%d")


def machine_of(record):
    """The machine, and what the package stood on, in words."""
    threads = record.values("cpu.track_threads").get((), 0)
    versions = ", ".join(f"{name} {record.found._requirements[name]}" for name in ("numba", "numpy", "scipy"))
    layer = record.found.env_vars.get("NUMBA_THREADING_LAYER", "default")
    return f"{record.machine['cpu']}, {threads:.0f} threads ({layer}), {versions}"


def commit_of(name):
    """The full hash of a commit.

    Raises
    ------
    ValueError
        There is no such commit.
    """
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} is no commit of this repository")
    return done.stdout.strip()


@functools.cache
def subject_of(commit):
    """The first line of a commit's message."""
    command = ["git", "log", "-1", "--format=%s", commit]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True).stdout.strip()
