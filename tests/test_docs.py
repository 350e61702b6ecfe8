"""The tutorial as it is kept, and the scripts among the examples; building the site runs the tutorial."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import numba_softmax as ns

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tutorial_is_kept_without_outputs():
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.fixture
def example(request):
    """The names that an example script defines."""
    return runpy.run_path(str(DOCS / "examples" / request.param))


@pytest.mark.parametrize("example", ["log_evidence.py"], indirect=True)
def test_the_estimated_evidence_is_the_exact_one(example):
    y = 0.7 + np.random.default_rng(1).standard_normal(1000)
    estimate, error = example["log_evidence"](y, 300_000)
    assert 0 < error < 0.05
    assert abs(estimate - example["exact_log_evidence"](y)) < 4 * error


@pytest.mark.parametrize("example", ["generator.py"], indirect=True)
def test_softmax_of_blocks_is_that_of_the_row(example):
    blocks = [*example["softmax_of"](example["logits"])]
    expected = ns.softmax(np.hstack([*example["logits"]()]))
    np.testing.assert_allclose(np.hstack(blocks), expected, rtol=1e-6)
    at, best, total = example["most_likely"](iter(blocks))
    np.testing.assert_array_equal(at, expected.argmax(axis=1))
    np.testing.assert_array_equal(best, np.hstack(blocks).max(axis=1))
    np.testing.assert_allclose(total, 1, rtol=1e-6)
