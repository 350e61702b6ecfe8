"""The model of `bench --scaling`, and the measurement that it is held against."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numba_softmax import cli
from numba_softmax.bench import scaling, scaling_cluster, scaling_model
from numba_softmax.bench.scaling_model import Costs, Cut

COSTS = Costs(scheduler=1e-3, worker=2e-3, step=0.01, compute=1e-9, read=2e-9, write=3e-9, network=1e-8)


@pytest.mark.parametrize(("chunks", "levels", "count"), [(1, 0, 0), (2, 1, 1), (8, 1, 1), (9, 2, 3), (64, 2, 9)])
def test_the_tree_has_eight_branches(chunks, levels, count):
    assert scaling_model.depth(chunks) == levels
    assert scaling_model.merges(chunks) == count


@pytest.mark.parametrize("power", range(1, 12))
def test_a_level_more_from_each_power_of_eight_on(power):
    assert scaling_model.depth(8**power) == power
    assert scaling_model.depth(8**power + 1) == power + 1


@pytest.mark.parametrize(("groups", "chunks"), [(1, 2), (1, 100), (3, 9)])
def test_tasks_are_those_that_dask_makes(groups, chunks):
    array = pytest.importorskip("dask.array")
    dask = pytest.importorskip("dask")
    from numba_softmax import softmax

    x = array.map_blocks(
        scaling_cluster.chunk, rows=2, columns=3, chunks=((2,) * groups, (3,) * chunks),
        dtype=np.float32, meta=np.empty((0, 0), np.float32), name=None,
    )  # fmt: skip
    assert len(dict(dask.optimize(softmax(x))[0].dask)) == scaling_model.tasks(Cut(groups, chunks, 2, 24))


@pytest.mark.parametrize("groups", [1, 5])
def test_one_worker_is_sent_nothing(groups):
    assert scaling_model.moved(Cut(groups, 100, 256, 1 << 20), 1) == 0


def test_states_that_are_not_at_the_merging_worker_move_once_and_the_merged_one_to_all():
    assert scaling_model.moved(Cut(1, 8, 100, 1), 8) == 16 * 100 * (7 + 7)
    assert scaling_model.moved(Cut(1, 64, 100, 1), 8) == 16 * 100 * (64 + 8) * 7 / 8 + 16 * 100 * 7
    assert scaling_model.moved(Cut(3, 8, 100, 1), 2) == 3 * 16 * 100 * (4 + 1)


def test_of_neighbours_the_number_of_chunks_matters_little():
    few, many = (scaling_model.moved_between_neighbours(Cut(1, 8**power, 100, 1), 3) for power in (2, 4))
    assert few == 16 * 100 * 2 * (4 * 2 + 1)
    assert many == 16 * 100 * 2 * (4 * 4 + 1)


def test_of_neighbours_no_more_moves_than_of_chunks_at_random():
    cut = Cut(1, 8, 100, 1)
    assert scaling_model.moved_between_neighbours(cut, 4) == scaling_model.moved(cut, 4)


@pytest.mark.parametrize("workers", [10, 1000])
def test_with_many_chunks_about_16_bytes_a_row_and_chunk_move(workers):
    cut = Cut(1, 8**7, 100, 1)
    assert scaling_model.moved(cut, workers) == pytest.approx(16 * 100 * cut.chunks, rel=1e-3)


def test_the_slowest_part_counts():
    cut = Cut(1, 100, 256, 1e6)
    one, many = (scaling_model.predicted(cut, workers, COSTS) for workers in (1, 100))
    count = scaling_model.tasks(cut)
    assert one.share == pytest.approx(count * 2e-3 + 100 * 1e6 * (1 + 2 * 2 + 3) * 1e-9)
    assert one.seconds == pytest.approx(one.share + (3 + 4) * 0.01)
    assert many.share < many.scheduler == count * 1e-3
    assert many.seconds == pytest.approx(many.scheduler + (3 + 4) * 0.01)


def test_more_workers_than_cores_are_as_fast_as_the_cores():
    cut = Cut(1, 1000, 256, 1e6)
    said = scaling_model.predicted(cut, 4, COSTS, cores=2)
    assert said.seconds - (4 + 4) * 0.01 == pytest.approx(said.cpu / 2)
    assert said.cpu == pytest.approx(scaling_model.tasks(cut) * 3e-3 + 1000 * 1e6 * 1e-9)


@pytest.mark.parametrize("workers", [10, 100, 1000])
def test_balanced_chunks_keep_scheduler_and_workers_as_long(workers):
    costs = COSTS._replace(network=0)
    said = scaling_model.predicted(Cut(1, 8**6, 1, scaling_model.balanced(workers, costs)), workers, costs)
    assert said.share == pytest.approx(said.scheduler, rel=1e-3)


def test_a_square_array_is_cut_in_squares():
    cut = scaling_model.square(1e12, 1e8)
    assert cut.groups == cut.chunks == 100
    assert cut.rows == 5000


# ------------------------------------------------------------------------ measured


def test_bytes_received_are_those_between_workers(tmp_path):
    pytest.importorskip("distributed")
    with scaling_cluster._workers(2, tmp_path) as client:
        first, second = client.scheduler_info()["workers"]
        client.run(scaling_cluster._start_counting)
        there = client.submit(np.ones, 12345, workers=[first], key=("chunk-of-a-test", 0))
        state = client.submit(np.ones, 678, workers=[first], key=("softmax-of-a-test", 0))
        client.gather([client.submit(np.sum, a, workers=[second]) for a in (there, state)])
        counted = client.run(scaling_cluster._counted)
    assert counted[first]["received"] == {"states": 0, "chunks": 0, "other": 0}
    assert counted[second]["received"] == {"states": 678 * 8, "chunks": 12345 * 8, "other": 0}


def test_scaling_writes_its_tables_and_files(tmp_path):
    pytest.importorskip("distributed")
    files = [str(tmp_path / "s.json"), str(tmp_path / "s.png")]
    command = [sys.executable, "-W", "error", "-m", "numba_softmax", "bench", "--scaling", "--quick"]
    command += ["--json", files[0], "--plot", files[1]]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(temporary))
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert list(temporary.iterdir()) == []
    report = json.loads((tmp_path / "s.json").read_text())
    assert set(report) == {"machine", "scaling"}
    results = report["scaling"]
    assert process.stdout.splitlines()[1:] == list(scaling.lines(results))
    assert [case["case"] for case in results["files"]["cases"]] == ["copy", "axis 1", "axis 0", "one row"]
    runs = results["cluster"]["runs"]
    quick = scaling.QUICK
    assert len(runs) == len(quick.workers) * sum(len(series.counts) for series in quick.series)
    for run in runs:
        assert 0 <= run["tasks"] - run["model"]["tasks"] <= 3  # the last sum, what waits for the states, the result
        assert (run["states_a_chunk"] > 0) == (run["workers"] > 1)
        assert not run["queued"] or run["states_a_chunk"] <= run["model"]["states_a_chunk"]
        assert run["seconds"] > 0
    assert {(row["bytes"], row["workers"]) for row in results["model"]["tables"]} == {
        (total, workers) for total in (1e12, 1e15) for workers in (10, 100, 1000)
    }


def environment(temporary):
    root = str(Path(cli.__file__).parents[2])
    paths = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary)}


@pytest.mark.parametrize("other", [["--sweep"], ["--cold"], ["--device", "cuda"]])
def test_scaling_is_measured_by_itself(other, capsys):
    assert cli.main(["bench", "--scaling", *other]) == 2
    assert "does not go with" in capsys.readouterr().err


def test_scaling_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "optional", lambda _: None)
    assert cli.main(["bench", "--scaling"]) == 2
    assert 'pip install "numba-softmax[bench]"' in capsys.readouterr().err
