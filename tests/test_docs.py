"""The tutorial as it is kept; building the site runs it."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tutorial_is_kept_without_outputs():
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
