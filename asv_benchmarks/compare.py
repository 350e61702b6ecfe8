"""Compare two commits by what asv recorded of them: name what became slower, against the speed of a copy.

    python asv_benchmarks/compare.py main HEAD

The figure is a call's speed as a share of a copy's, measured beside it in one process: absolute times on shared
machines change by more than what is looked for. A case is named if it lost more than the threshold (10 %) beyond the
noise, which is the width of the middle half of its rounds, in the noisier commit. The exit status is 1 if one became
slower, 2 if there is nothing to compare.
"""

import argparse
import json
import math
import statistics
import sys
from typing import NamedTuple

import records
from records import NOISE, OF_COPY


class Change(NamedTuple):
    """A case's share of a copy's speed, before and after."""

    key: tuple[str, ...]
    old: float
    new: float
    noise: float

    @property
    def change(self):
        """As a part of the old share; below 0: slower."""
        return self.new / self.old - 1

    def verdict(self, threshold):
        """What became of it."""
        if abs(self.change) <= threshold + self.noise:
            return "same"
        return "slower" if self.change < 0 else "faster"


def changes(old, new):
    """All cases that both records have."""
    made = []
    for states in ("", records.STATES):
        of_copy, noise = (name.replace("OfCopy", f"OfCopy{states}") for name in (OF_COPY, NOISE))
        before, after = old.values(of_copy), new.values(of_copy)
        noises = [record.values(noise) for record in (old, new)]
        made += [
            Change(key, before[key], after[key], max(found.get(key, math.nan) for found in noises))
            for key in before
            if key in after
        ]
    return made


def lines(compared, threshold):
    """For people."""
    width = max(len(", ".join(change.key)) for change in compared)
    for verdict in ("slower", "faster"):
        those = [change for change in compared if change.verdict(threshold) == verdict]
        yield f"{verdict} by more than {threshold:.0%} beyond the noise: {len(those) or 'none'}"
        for change in sorted(those, key=lambda change: -abs(change.change)):
            shares = f"{change.old:.3f} -> {change.new:.3f} of copy, {change.change:+.0%}, noise {change.noise:.0%}"
            yield f"    {', '.join(change.key):<{width}}  {shares}"
    middle = statistics.median(change.change for change in compared)
    noise = statistics.median(change.noise for change in compared)
    yield f"{len(compared)} cases; the median of all changes is {middle:+.1%}, of the noise {noise:.1%}"


def found(name, machine):
    """The record of a commit on a machine, or on the one measured last."""
    commit = records.commit_of(name)
    there = [record for record in records.records(machine) if record.commit == commit]
    if not there:
        raise ValueError(f"no results for {name}: cd asv_benchmarks && asv run {commit[:8]}^!")
    return there[-1]


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", help="a commit")
    parser.add_argument("--machine", help="the folder in results/ (default: that of the old commit's results)")
    parser.add_argument("--threshold", type=float, default=0.1, help="as a part of the old figure (default: 0.1)")
    parser.add_argument("--json", action="store_true", help="print all cases as JSON")
    options = parser.parse_args(arguments)
    try:
        old = found(options.old, options.machine)
        new = found(options.new, old.machine["machine"])
        compared = changes(old, new)
        if not compared:
            raise ValueError("these commits have no case in common")
    except ValueError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    verdicts = [change.verdict(options.threshold) for change in compared]
    if options.json:
        pairs = zip(compared, verdicts, strict=True)
        print(json.dumps([{**c._asdict(), "change": c.change, "verdict": v} for c, v in pairs], indent=2))
    else:
        print("\n".join(lines(compared, options.threshold)))
    return 1 if "slower" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
