"""The tutorial as it is kept, which building the site runs; and the op that the architecture page adds."""

import json
from pathlib import Path

import numpy as np
from naive import same_bits

import numba_softmax as ns
from numba_softmax.call import whole_arrays
from numba_softmax.call.request import Request

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tutorial_is_kept_without_outputs():
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_op_of_the_architecture_page_works_as_it_stands():
    page = (DOCS / "architecture.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(
        code.replace("from ..", "from numba_softmax.")
        .replace("from . ", "from numba_softmax.ops ")
        .replace("from .d", "from numba_softmax.ops.d"),
        names,
    )
    x = np.random.default_rng(1).standard_normal((40, 60)).astype(np.float32)
    for axis in (0, 1):
        surprisal, lse = whole_arrays.call(Request(names["SURPRISAL"], x, axis))
        assert same_bits(surprisal, -ns.log_softmax(x, axis))
        assert same_bits(lse, ns.logsumexp(x, axis))
