"""Results that asv has recorded, read for comparisons and plots."""

import ast
import functools
import itertools
import subprocess
from pathlib import Path
from typing import NamedTuple

from asv import results

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

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
