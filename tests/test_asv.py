"""Every benchmark of asv runs; commits are compared as the command says."""

import importlib
import inspect
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
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
        benchmark = getattr(found, kind)()  # asv gives each combination a process
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
        assert module == "cuda"
        pytest.skip("it takes a GPU, or numba-cuda")


def test_cases_are_of_the_regimes_that_they_name(monkeypatch):
    from benchmarks import common

    from numba_softmax.backends import cpu
    from numba_softmax.backends.spec import operands_for
    from numba_softmax.call.layout import layout_of
    from numba_softmax.ops import OPS

    words = {"short rows": "short_rows", "rows": "rows", "long rows": "long_rows", "one row": "long_rows"}
    words |= {"columns": "columns", "narrow columns": "packed_columns", "every other element": "gathered"}
    seen = set()
    for smallest, (label, case) in itertools.product((False, True), common.CASES.items()):
        monkeypatch.setattr(common, "smallest", smallest)
        x, y = common.arrays_of("softmax", label, "float32")
        axis = case.axis % x.ndim
        operands = operands_for(OPS["softmax"], x.dtype.name, y.dtype.name, False)
        layout = layout_of(operands, x.shape, (axis,), [x.strides, y.strides])
        regime = cpu.plan(OPS["softmax"], layout, False, False, False).kernel[0]
        assert regime == words[label.split(",")[0].removesuffix(" in cache")], (label, smallest)
        seen.add(regime)
    assert seen == set(words.values())


# ------------------------------------------------------------- recorded results


@pytest.fixture
def recorded(monkeypatch):
    """Adds to the records: numbers of one commit, by benchmark and key."""
    import records

    class Made(records.Record):
        def values(self, benchmark):
            return self.results.get(benchmark, {})

    made = []

    def add(commit, numbers, machine="this", environment="today's"):
        facts = {"machine": machine, "cpu": "some", "python": "3", "numba": "1", "numpy": "2", "scipy": "1"}
        made.append(Made(facts, environment, commit, len(made), numbers))
        return made[-1]

    def of_machine(machine=None):
        return [record for record in made if machine in (None, record.machine["machine"])]

    monkeypatch.setattr(records, "load", of_machine)
    monkeypatch.setattr(records, "commit_of", lambda name: name)
    return add


def shares(numbers, noise=0.02):
    """Results with shares of a copy's speed, and the noise of all of them."""
    import records

    return {records.OF_COPY: numbers, records.noise_of(records.OF_COPY): dict.fromkeys(numbers, noise)}


CASE = ("softmax", "rows", "float32")


def test_what_lost_more_than_a_tenth_beyond_the_noise_is_named(recorded, capsys):
    import compare

    keys = [("softmax", case, "float32") for case in ("lost", "kept", "nearly lost", "won")]
    recorded("old", shares(dict(zip(keys, (1.0, 1.0, 1.0, 0.5), strict=True)), noise=0.03))
    recorded("new", shares(dict(zip(keys, (0.85, 0.91, 0.875, 0.6), strict=True)), noise=0.01))
    assert compare.main(["old", "new"]) == 1
    slower, faster = capsys.readouterr().out.split("faster")
    assert "slower by more than 10% beyond the noise: 1" in slower
    assert re.search(r"softmax, lost, float32 +1\.000 -> 0\.850 of copy, -15%, noise 3%", slower)
    assert "softmax, won, float32" in faster
    assert "4 cases, of which 0 too noisy to tell" in faster


def test_the_largest_changes_come_first_whatever_is_gone(recorded, capsys):
    import compare

    keys = [("softmax", str(i), "float32") for i in range(6)]
    recorded("old", shares(dict.fromkeys(keys, 1.0)))
    left = zip(keys, (0.7, None, 0.3, None, 0.5, 0.1), strict=True)
    recorded("new", shares({key: share for key, share in left if share}))
    assert compare.main(["old", "new"]) == 1
    assert re.findall(r"softmax, (\d)", capsys.readouterr().out) == ["5", "2", "4", "0", "1", "3"]


@pytest.mark.parametrize(
    ("noise", "new", "verdict"),
    [
        (0.0, 0.89, "slower"),
        (0.0, 0.91, "same"),
        (0.0, 1.11, "faster"),
        (0.1, 0.85, "same"),
        (0.1, 0.8, "slower"),
        (0.6, 0.9, "cannot tell"),
        (0.6, 0.1, "slower"),
    ],
)
def test_noise_decides_what_can_be_told(recorded, capsys, noise, new, verdict):
    import compare

    recorded("old", shares({CASE: 1.0}, noise))
    recorded("new", shares({CASE: new}, 0.0))
    assert compare.main(["old", "new", "--json"]) == (verdict == "slower")
    (case,) = json.loads(capsys.readouterr().out)
    assert case["verdict"] == verdict


def test_json_has_all_cases_and_what_cannot_be_measured_any_more_counts(recorded, capsys):
    import compare

    recorded("old", shares({CASE: 1.0, ("softmax", "gone", "float32"): 0.5}))
    recorded("new", shares({CASE: 1.0}))
    assert compare.main(["old", "new"]) == 1
    assert "could not be measured any more: softmax, gone, float32" in capsys.readouterr().out
    assert compare.main(["old", "new", "--json"]) == 1
    there, gone = sorted(json.loads(capsys.readouterr().out), key=lambda case: -case["old"])
    assert there.pop("noise") == pytest.approx(0.02 * 2**0.5)
    named = {"benchmark": "cpu.OfCopy.track_of_copy", "op": "softmax", "dtype": "float32"}
    assert there == {**named, "case": "rows", "old": 1.0, "new": 1.0, "relative": 0.0, "verdict": "same"}
    unknown = dict.fromkeys(("new", "noise", "relative"))
    assert gone == {**named, "case": "gone", "old": 0.5, **unknown, "verdict": "gone"}


def test_commits_without_results_are_named_with_the_command_that_makes_them(recorded, capsys):
    import compare

    recorded("old", shares({CASE: 1.0}))
    assert compare.main(["old", "0123456789"]) == 2
    expected = "no results for 0123456789: cd asv_benchmarks && asv run --machine NAME 01234567^!"
    assert expected in capsys.readouterr().err
    recorded("0123456789", {})
    assert compare.main(["old", "0123456789"]) == 2
    assert "no case in common" in capsys.readouterr().err


@pytest.mark.parametrize("other", [{"machine": "other"}, {"environment": "another"}])
def test_only_what_was_measured_alike_is_compared(recorded, capsys, other):
    import compare

    recorded("old", shares({CASE: 1.0}))
    recorded("new", shares({CASE: 0.1}), **other)
    assert compare.main(["old", "new"]) == 2
    assert "on different machines or with different versions" in capsys.readouterr().err
    recorded("old", shares({CASE: 0.1}), **other)
    assert compare.main(["old", "new"]) == 0


def test_names_that_are_no_commits_are_refused():
    import records

    with pytest.raises(ValueError, match="nowhere is no commit"):
        records.commit_of("nowhere")


def test_noise_is_what_medians_scatter_by():
    from benchmarks.cpu import noise_of

    samples = np.random.default_rng(0).normal(1, 0.1, (2000, 25))
    noise = np.array([noise_of([*row]) for row in samples])
    medians = np.median(samples, axis=1)
    assert 0.9 < np.mean(np.abs(medians - 1) <= noise * medians) < 0.98


def test_the_timeline_has_whole_records_of_the_environment_with_most(recorded):
    import records

    for commit, environment in (("a", "old"), ("b", "new"), ("c", "new")):
        recorded(commit, shares({CASE: 1.0}), environment=environment)
    recorded("d", {}, environment="new")
    assert [record.commit for record in records.timeline("this")] == ["b", "c"]


def test_what_is_recorded_can_be_read(monkeypatch):
    import figures
    import records

    *_, last = records.timeline(records.MACHINE)
    assert all(0 < share < 10 for share in last.values(records.OF_COPY).values())
    assert last.values(records.OF_COPY).keys() == last.values(records.noise_of(records.OF_COPY)).keys()
    assert len(list(figures.peers(last))) > 2
    assert len(list(figures.errors(last))) > 2
    assert "2 threads (layer omp)" in figures.source(last, "cpu.OfCopy.")
    assert "--bench '^cpu\\.OfCopy\\.'" in figures.source(last, "cpu.OfCopy.")
    monkeypatch.setattr(records, "_versions", lambda: {records.OF_COPY: "another"})
    assert last.values(records.OF_COPY) == {}


def test_figures_show_every_case_and_leave_gaps(recorded):
    import figures

    keys = [("softmax", f"case {i}", dtype) for i in range(10) for dtype in figures.COLORS]
    whole = {**shares(dict.fromkeys(keys, 0.5)), figures.BANDWIDTH: dict.fromkeys(keys, 30.0)}
    whole |= {figures.PEERS: {("numba_softmax", "softmax", "rows"): 0.001}}
    record = recorded("abc", whole)
    (axes,) = figures.roofline(record).axes
    assert len([line for line in axes.lines if line.get_marker() != "None" and len(line.get_xdata())]) == len(keys)
    panels = [axes for axes in figures.history([recorded("def", {}), record], "softmax").axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == [f"case {i}" for i in range(10)]
    np.testing.assert_equal(panels[0].lines[0].get_ydata(), [np.nan, 0.5])
    *_, line = figures.peers(record)
    assert line == "| softmax | rows | 1.00 | nan | nan |"
