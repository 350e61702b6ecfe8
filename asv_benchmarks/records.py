"""Results that asv has recorded, read for comparisons and plots."""

import ast
import datetime
import functools
import itertools
import json
import math
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import NamedTuple

from asv import results

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

MACHINE = "zen4-2-cores"
"""The one that merges are measured on, and shown of."""

OF_COPY = "cpu.OfCopy.track_of_copy"
BANDWIDTH = "cpu.OfCopy.track_copy_bandwidth"
PEERS = "peers.Float32.time_call"
ERRORS = "accuracy.Ulp.track_largest_error"

SHARES = (OF_COPY, "cpu.OfCopyOthers.track_of_copy", "cuda.OfCopy.track_of_copy")
"""What has shares of a copy's speed."""


def noise_of(shares):
    """The name of the benchmark that has the noise of such shares."""
    return shares.replace("track_of_copy", "track_noise")


class Record(NamedTuple):
    """What was measured of a commit on a machine, with one set of versions."""

    machine: dict[str, str]
    environment: str
    commit: str
    date: int  # of the commit, in milliseconds
    results: results.Results

    def values(self, benchmark):
        """Numbers by the benchmark's parameters, without those that are missing or of another version of it."""
        if self.results.benchmark_version.get(benchmark) != _version_of(benchmark):
            return {}
        names = self.results.get_result_params(benchmark)
        keys = itertools.product(*([ast.literal_eval(value) for value in values] for values in names))
        numbers = self.results.get_result_value(benchmark, names)
        pairs = zip(keys, numbers, strict=True)
        return {key: value for key, value in pairs if value is not None and not math.isnan(value)}


@functools.cache
def _versions():
    described = json.loads((RESULTS / "benchmarks.json").read_text())
    return {name: benchmark["version"] for name, benchmark in described.items() if name != "version"}


def _version_of(benchmark):
    """The version of a benchmark that is run today."""
    return _versions().get(benchmark, "none")


def load(machine=None):
    """All records, of one machine if its folder is named; the oldest commit first, then what was measured first."""
    found = results.iter_results_for_machine(RESULTS, machine) if machine else results.iter_results(RESULTS)
    by_time = sorted(found, key=lambda result: (result.date, max(result.started_at.values(), default=0)))
    return [Record(r.params, r.env_name, r.commit_hash, r.date, r) for r in by_time]


def timeline(machine):
    """The records that have shares of a copy's speed, in the environment that has most of them."""
    whole = [record for record in load(machine) if record.values(OF_COPY)]
    environments = [record.environment for record in whole]
    return [record for record in whole if record.environment == statistics.mode(environments)]


def day_of(record):
    """The day of the commit."""
    return datetime.datetime.fromtimestamp(record.date / 1e3, datetime.UTC).strftime("%Y-%m-%d")


def machine_of(record):
    """The machine, and what the package stood on, in words."""
    threads = record.values("cpu.track_threads").get((), math.nan)
    layer = record.results.env_vars.get("NUMBA_THREADING_LAYER", "of Numba's choice")
    versions = ", ".join(f"{name} {record.machine[name]}" for name in ("python", "numba", "numpy", "scipy"))
    return f"{record.machine['cpu']}, {threads:.0f} threads (layer {layer}), {versions}"


def commit_of(name):
    """The full hash of a commit.

    Raises
    ------
    ValueError
        There is no such commit.
    """
    hash_ = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not hash_:
        raise ValueError(f"{name} is no commit here, or this is no git repository")
    return hash_


def subject_of(commit):
    """The first line of a commit's message; nothing where there is no repository."""
    return _git("log", "-1", "--format=%s", commit)


def _git(*arguments):
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True).stdout.strip()
