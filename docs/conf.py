"""Sphinx configuration: sphinx-build -W -b html docs docs/_build/html.

MEKRR_NOTEBOOKS=off leaves the notebooks unrun, for a quick look at the rest.
"""

import os
from pathlib import Path

import mekrr
from mekrr.data import LabelKeys
from mekrr.declared import as_table
from mekrr.engines import WatchOptions
from mekrr.learning import LabelOptions, MdOptions, NebOptions, RelaxOptions
from mekrr.potential import FitOptions

# Tables of options are made from their declarations.
tables = Path(__file__).parent / "_options"
tables.mkdir(exist_ok=True)
kinds = {"fit": FitOptions, "labels": LabelKeys, "watch": WatchOptions, "learn": LabelOptions}
kinds |= {"learn-relax": RelaxOptions, "learn-neb": NebOptions, "learn-md": MdOptions}
for name, kind in kinds.items():
    (tables / f"{name}.md").write_text(as_table(kind), encoding="utf-8")

project = "mekrr"
author = "the mekrr authors"
version = release = mekrr.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_options", "jupyter_execute", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"mekrr {release}"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# Notebooks are run in a folder of their own, and again only when their text changed; an error ends the build.
nb_execution_mode = os.environ.get("MEKRR_NOTEBOOKS", "cache")
nb_execution_in_temp = True
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of cells: on a busy machine threads that spin take ten times as long
if nb_execution_mode == "off":
    suppress_warnings = ["myst-nb.lexer"]  # cells that were not run do not know their language

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
