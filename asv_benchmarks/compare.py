"""Compare two commits by what asv recorded of them: name what became slower, against the speed of a copy.

    python asv_benchmarks/compare.py OLD NEW

The figure is a call's speed as a share of a copy's, measured beside it in one process: absolute times on shared
machines change by more than what is looked for. A case is named if it changed by more than the threshold (10 %) beyond
the noise of both figures, as it was seen in their rounds. Where that is too large to see a loss of half the speed,
nothing can be told. The exit status is 1 if a case became slower, 2 if there is nothing to compare.
"""

import argparse
import json
import math
import statistics
import sys
from typing import NamedTuple

import records
from records import SHARES

HOPELESS = 0.5
"""With so much threshold and noise together, nothing is told: a change for the worse is never more than 1."""


class Change(NamedTuple):
    """A case's share of a copy's speed, before and after."""

    benchmark: str
    key: tuple[str, ...]
    old: float
    new: float
    noise: float  # of the change; half the width of the interval of 95 of 100 cases

    @property
    def change(self):
        """As a part of the old share; below 0: slower."""
        return self.new / self.old - 1

    def verdict(self, threshold):
        """What became of it."""
        if threshold + self.noise > HOPELESS:
            return "cannot tell"
        if abs(self.change) <= threshold + self.noise:
            return "same"
        return "slower" if self.change < 0 else "faster"


def changes(old, new):
    """All cases that both records have, with their noise."""
    for shares, noise in SHARES.items():
        before, after, noise_before, noise_after = (r.values(name) for name in (shares, noise) for r in (old, new))
        for key in before:
            if key in after and key in noise_before and key in noise_after:
                noise_of_change = math.hypot(noise_before[key], noise_after[key])
                yield Change(shares, key, before[key], after[key], noise_of_change)


def lines(compared, threshold):
    """For people."""
    width = max(len(_words(change)) for change in compared)
    verdicts = [change.verdict(threshold) for change in compared]
    for verdict in ("slower", "faster"):
        those = [change for change, found in zip(compared, verdicts, strict=True) if found == verdict]
        yield f"{verdict} by more than {threshold:.0%} beyond the noise: {len(those) or 'none'}"
        for change in sorted(those, key=lambda change: -abs(change.change)):
            shares = f"{change.old:.3f} -> {change.new:.3f} of copy, {change.change:+.0%}, noise {change.noise:.0%}"
            yield f"    {_words(change):<{width}}  {shares}"
    middle = statistics.median(change.change for change in compared)
    noise = statistics.median(change.noise for change in compared)
    yield f"{len(compared)} cases, of which {verdicts.count('cannot tell')} too noisy to tell"
    yield f"the median of all changes is {middle:+.1%}, of the noise {noise:.1%}"


def _words(change):
    return ", ".join(change.key) + (", GPU" if change.benchmark.startswith("cuda") else "")


def pair(old, new, machine=None):
    """The records of two commits that were measured on one machine with the same versions; the last such ones.

    Raises
    ------
    ValueError
        There are none.
    """
    recorded = records.records(machine)
    of_each = []
    for name in (old, new):
        commit = records.commit_of(name)
        of_each.append([record for record in recorded if record.commit == commit])
        if not of_each[-1]:
            raise ValueError(f"no results for {name}: cd asv_benchmarks && asv run --machine NAME {commit[:8]}^!")
    for before in reversed(of_each[0]):
        for after in reversed(of_each[1]):
            if (before.machine["machine"], before.environment) == (after.machine["machine"], after.environment):
                return before, after
    raise ValueError("these commits were measured on different machines or with different versions")


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", help="a commit")
    parser.add_argument("--machine", help="the folder in results/ (default: any that has both)")
    parser.add_argument("--threshold", type=float, default=0.1, help="as a part of the old figure (default: 0.1)")
    parser.add_argument("--json", action="store_true", help="print all cases as JSON")
    options = parser.parse_args(arguments)
    try:
        compared = list(changes(*pair(options.old, options.new, options.machine)))
        if not compared:
            raise ValueError("these commits have no case in common")
    except ValueError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    verdicts = [change.verdict(options.threshold) for change in compared]
    if options.json:
        cases = zip(compared, verdicts, strict=True)
        print(json.dumps([{**c._asdict(), "change": c.change, "verdict": v} for c, v in cases], indent=2))
    else:
        print("\n".join(lines(compared, options.threshold)))
    return 1 if "slower" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
