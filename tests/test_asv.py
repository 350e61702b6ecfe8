"""Every benchmark of asv runs; commits are compared as the command says."""

import importlib
import inspect
import itertools
import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "asv_benchmarks"
HELPERS = ("__init__", "common")
NAME = re.compile(r"(time|timeraw|track|peakmem)_\w+")


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def some_of(params):
    """Combinations in which every value of every parameter occurs: the first ones, and one other at a time."""
    first = tuple(values[0] for values in params)
    yield first
    for i, values in enumerate(params):
        for value in values[1:]:
            yield (*first[:i], value, *first[i + 1 :])


def benchmarks():
    """Names of modules, of classes ("" for functions) and of benchmarks."""
    modules = set((FOLDER / "benchmarks").glob("*.py")) - {FOLDER / "benchmarks" / f"{name}.py" for name in HELPERS}
    for path in sorted(modules):
        text = path.read_text()
        yield from ((path.stem, "", name) for name in re.findall(r"^def (\w+)", text, re.MULTILINE) if NAME.match(name))
        yield from ((path.stem, name, "") for name in re.findall(r"^class (\w+)", text, re.MULTILINE))


@pytest.fixture
def at_smallest(monkeypatch):
    """A module of benchmarks, whose arrays are small and which measures once."""
    from benchmarks import accuracy, cold, common, cpu, cuda

    monkeypatch.setattr(common, "smallest", True)
    monkeypatch.setattr(cpu.OfCopy, "ROUNDS", 3)
    monkeypatch.setattr(accuracy.Ulp, "ELEMENTS", 1 << 10)
    monkeypatch.setattr(cold.FirstCall, "REPEATS", 1)
    monkeypatch.setattr(cuda.Registers, "params", (("float32",), cuda.REGIMES))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(("module", "kind", "name"), list(benchmarks()))
def test_every_benchmark_runs(module, kind, name, at_smallest, monkeypatch, run_python):
    found = at_smallest(module)
    if not kind:
        result = getattr(found, name)()
        if name.startswith("timeraw"):
            run_python(result)
        return
    benchmark = getattr(found, kind)()
    params = list(some_of(benchmark.params))
    assert benchmark.version, "without it, results are lost when the benchmark is edited"
    assert len(benchmark.param_names) == len(benchmark.params)
    cache = ()
    if hasattr(benchmark, "setup_cache"):
        if hasattr(found, "KEYS"):
            monkeypatch.setattr(found, "KEYS", params)
        cache = (benchmark.setup_cache(),)
    names = [name for name, _ in inspect.getmembers(benchmark, callable) if NAME.fullmatch(name)]
    assert names
    ran = 0
    for values in params:
        try:
            if hasattr(benchmark, "setup"):
                benchmark.setup(*cache, *values)
        except NotImplementedError:
            continue
        for name in names:
            result = getattr(benchmark, name)(*cache, *values)
            assert not name.startswith("track") or result >= 0, (name, values)
            ran += 1
    if not ran:
        pytest.skip("this machine has nothing that it could measure")


def test_cases_are_of_the_regimes_that_they_name(monkeypatch):
    from benchmarks import common

    from numba_softmax import arrays
    from numba_softmax.backends import cpu
    from numba_softmax.ops import OPS

    words = {"short rows": "short_rows", "rows": "rows", "long rows": "long_rows", "one row": "long_rows"}
    words |= {"columns": "columns", "narrow columns": "packed_columns", "every other element": "gathered"}
    seen = set()
    for smallest, (label, case) in itertools.product((False, True), common.CASES.items()):
        monkeypatch.setattr(common, "smallest", smallest)
        x, y = common.arrays_of("softmax", label, "float32")
        axis = case.axis % x.ndim
        layout = arrays.layout_of(x.shape, (axis,), x.dtype, x.strides, y.dtype, y.strides, None)
        regime = cpu.plan(OPS["softmax"], layout, False, False, False).kernel[0]
        assert regime == words[label.split(",")[0].removesuffix(" in cache")], (label, smallest)
        seen.add(regime)
    assert seen == set(words.values())


# ---------------------------------------------------------------------- comparing


@pytest.fixture
def recorded(monkeypatch):
    """The results of commits: the share of a copy's speed, and the noise, by case."""
    import records

    class Made(records.Record):
        def values(self, benchmark):
            return self.found.get(benchmark, {})

    made = []

    def record(commit, shares, noise=0.02, machine="this"):
        found = {records.OF_COPY: shares, records.NOISE: dict.fromkeys(shares, noise)}
        made.append(Made({"machine": machine}, commit, len(made), found))

    monkeypatch.setattr(
        records, "records", lambda machine=None: [r for r in made if machine in (None, r.machine["machine"])]
    )
    monkeypatch.setattr(records, "commit_of", lambda name: name)
    return record


def test_what_lost_more_than_a_tenth_beyond_the_noise_is_named(recorded, capsys):
    import compare

    keys = [("softmax", case, "float32") for case in ("lost", "kept", "noisy", "won")]
    recorded("old", dict(zip(keys, (1.0, 1.0, 1.0, 0.5), strict=True)))
    recorded("new", dict(zip(keys, (0.87, 0.89, 0.89, 0.6), strict=True)))
    assert compare.main(["old", "new"]) == 1
    out = capsys.readouterr().out
    slower, faster = out.split("faster")
    assert "slower by more than 10% beyond the noise: 1" in slower
    assert "softmax, lost, float32" in slower
    assert "1.000 -> 0.870 of copy, -13%, noise 2%" in slower
    assert "softmax, won, float32" in faster
    assert "4 cases" in out


def test_noise_of_either_commit_counts(recorded, capsys):
    import compare

    recorded("old", {("a", "b", "c"): 1.0}, noise=0.3)
    recorded("new", {("a", "b", "c"): 0.65})
    recorded("newer", {("a", "b", "c"): 0.55})
    assert compare.main(["old", "new"]) == 0
    assert compare.main(["old", "newer"]) == 1
    assert compare.main(["old", "newer", "--threshold", "0.2"]) == 0


def test_json_has_all_cases(recorded, capsys):
    import compare

    recorded("old", {("a", "b", "c"): 1.0, ("a", "b", "gone"): 1.0})
    recorded("new", {("a", "b", "c"): 0.5})
    assert compare.main(["old", "new", "--json"]) == 1
    (case,) = json.loads(capsys.readouterr().out)
    assert case == {"key": ["a", "b", "c"], "old": 1.0, "new": 0.5, "noise": 0.02, "change": -0.5, "verdict": "slower"}


def test_commits_without_results_are_named_with_the_command_that_makes_them(recorded, capsys):
    import compare

    recorded("old", {("a", "b", "c"): 1.0})
    assert compare.main(["old", "0123456789"]) == 2
    assert "no results for 0123456789: cd asv_benchmarks && asv run 01234567^!" in capsys.readouterr().err


def test_commits_are_compared_on_one_machine(recorded, capsys):
    import compare

    recorded("old", {("a", "b", "c"): 1.0})
    recorded("new", {("a", "b", "c"): 1.0}, machine="other")
    assert compare.main(["old", "new"]) == 2


def test_names_that_are_no_commits_are_refused():
    import records

    with pytest.raises(ValueError, match="nowhere is no commit"):
        records.commit_of("nowhere")
