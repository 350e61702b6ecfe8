"""Compare two commits by what asv recorded of them: name what became slower, against the speed of a copy.

    python asv_benchmarks/compare.py OLD NEW

The figure is a call's speed as a share of a copy's, measured beside it in one process: absolute times on shared
machines change by more than what is looked for. A case is named if it changed by more than the threshold (10 %) beyond
the noise of both figures, which is half of a 95 % confidence interval. The exit status is 1 if a case became slower or
could not be measured any more, 2 if there is nothing to compare.
"""

import argparse
import json
import math
import statistics
import sys
from typing import NamedTuple

import records
from records import SHARES, noise_of

TOO_NOISY = 0.5
"""With more threshold and noise than that, a case that seems to be the same may well not be."""


class Change(NamedTuple):
    """A case's share of a copy's speed, before and after."""

    benchmark: str
    key: tuple[str, ...]
    old: float
    new: float  # NaN: it could not be measured
    noise: float  # of the relative change

    @property
    def relative(self):
        """The change as a part of the old share; below 0: slower."""
        return self.new / self.old - 1

    def verdict(self, threshold):
        """What became of it."""
        if math.isnan(self.new):
            return "gone"
        if abs(self.relative) > threshold + self.noise:
            return "slower" if self.relative < 0 else "faster"
        return "same" if threshold + self.noise <= TOO_NOISY else "cannot tell"


def changes(old, new):
    """All cases of the old record whose benchmark the new one has, with their noise."""
    for shares in SHARES:
        before, after = old.values(shares), new.values(shares)
        noise_before, noise_after = (record.values(noise_of(shares)) for record in (old, new))
        for key in (key for key in before if after and key in noise_before):
            share = after.get(key, math.nan)
            noise = math.hypot(noise_before[key], noise_after.get(key, math.nan)) * share / before[key]
            yield Change(shares, key, before[key], share, noise)


def report(compared, threshold):
    """Lines for people."""
    width = max(len(_label(change)) for change in compared)
    by_verdict = {}
    for change in compared:
        by_verdict.setdefault(change.verdict(threshold), []).append(change)
    for verdict in ("slower", "faster"):
        named = sorted(by_verdict.get(verdict, []), key=lambda change: -abs(change.relative))
        yield f"{verdict} by more than {threshold:.0%} beyond the noise: {len(named) or 'none'}"
        for change in named:
            shares = f"{change.old:.3f} -> {change.new:.3f} of copy, {change.relative:+.0%}, noise {change.noise:.0%}"
            yield f"    {_label(change):<{width}}  {shares}"
    for change in sorted(by_verdict.get("gone", [])):
        yield f"could not be measured any more: {_label(change)}"
    yield f"{len(compared)} cases, of which {len(by_verdict.get('cannot tell', []))} too noisy to tell"
    there = [change for change in compared if not math.isnan(change.new)]
    if there:
        middle, noise = (statistics.median(getattr(change, name) for change in there) for name in ("relative", "noise"))
        yield f"the median of all changes is {middle:+.1%}, of the noise {noise:.1%}"


def _label(change):
    return ", ".join(change.key) + (", GPU" if change.benchmark.startswith("cuda") else "")


def _as_json(change, verdict):
    named = dict(zip(("op", "case", "dtype"), change.key, strict=True))
    numbers = {name: getattr(change, name) for name in ("old", "new", "noise", "relative")}
    known = {name: None if math.isnan(number) else number for name, number in numbers.items()}
    return {"benchmark": change.benchmark, **named, **known, "verdict": verdict}


def pair(old, new, machine=None):
    """The records of two commits that were measured on one machine with the same versions; the last such ones.

    Raises
    ------
    ValueError
        There are none.
    """
    recorded = records.load(machine)
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
        print(json.dumps([_as_json(*case) for case in zip(compared, verdicts, strict=True)], indent=2))
    else:
        print("\n".join(report(compared, options.threshold)))
    return 1 if {"slower", "gone"} & set(verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
