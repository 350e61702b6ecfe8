"""How the documentation is built: sphinx-build -TW --keep-going -b html docs docs/_build/html."""

import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util import logging

import numba_softmax

project = "numba_softmax"
copyright = "the authors of numba_softmax, MIT licence"
release = version = numba_softmax.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_asv", "_build", "**.ipynb_checkpoints", "jupyter_execute"]
nitpicky = False
default_role = "py:obj"  # names in single backticks: code, and a link where there is something to link to
highlight_language = "none"  # of indented blocks: commands, formulas

# Pages. The tutorial is run at each build, so that what it asserts is held against this version.
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The reference. Types stand in the docstrings' tables, and not in the signatures again.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"numba_softmax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_dark_style = "github-dark"


# asv's pages, made anew from the recorded results, are copied beside the others.
html_extra_path = ["_asv"]


def publish(app, config):
    """Have asv make its pages. It needs the history: without a repository there are none."""
    folder = Path(__file__).parent
    if shutil.which("git") is None or subprocess.run(["git", "rev-parse"], cwd=folder, capture_output=True).returncode:
        logging.getLogger(__name__).info("no git repository: asv's pages are left out")
        (folder / "_asv").mkdir(exist_ok=True)
        return
    command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--html-dir", str(folder / "_asv" / "asv")]
    done = subprocess.run(command, cwd=folder.parent / "asv_benchmarks", capture_output=True, text=True)
    if done.returncode:
        raise ExtensionError(f"asv could not make its pages: {done.stdout}{done.stderr}")


def setup(app):
    """Publish, and take out the empty line that doctest needs before the end of a block."""
    app.connect("config-inited", publish)
    app.connect("source-read", lambda app, name, text: text.append(text.pop().replace("\n\n```\n", "\n```\n")))
