"""A result's key follows the code that computes it, and nothing else."""

import shutil
from pathlib import Path

import pytest

import mekrr
import mekrr_comparison
from mekrr.data import as_structures
from mekrr_comparison.cell import Cell
from mekrr_comparison.source import digest, imported, source_hash

FOLDERS = {package.__name__: Path(package.__file__).parent for package in (mekrr, mekrr_comparison)}


@pytest.fixture
def cell(alloys):
    structures = as_structures(alloys[:4])
    return Cell("mekrr", {}, structures[:3], [], {"test": structures[3:]})


@pytest.fixture
def copy(tmp_path):
    """Both packages, to be changed."""
    for name, folder in FOLDERS.items():
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    return {name: tmp_path / name for name in FOLDERS}


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_key_holds_the_hash_of_the_source(cell, copy):
    description = cell.description()
    assert description["source"] == digest(cell.modules(), FOLDERS) == digest(cell.modules(), copy)
    changed(copy["mekrr"] / "evaluation.py", "1000", "2000")
    assert digest(cell.modules(), copy) != description["source"]


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("mekrr", "evaluation.py"),  # measures
        ("mekrr", "linalg.py"),  # deep below
        ("mekrr", "backbones/sevennet.py"),  # found through an entry point
        ("mekrr", "data/__init__.py"),  # run on the way to its modules
        ("mekrr_comparison", "errors.py"),
        ("mekrr_comparison", "own.py"),
    ],
)
def test_a_statement_in_a_module_on_the_way_changes_it(cell, copy, package, module):
    before = digest(cell.modules(), copy)
    path = copy[package] / module
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert digest(cell.modules(), copy) != before


def test_a_module_that_no_result_passes_through_does_not(cell, copy):
    before = digest(cell.modules(), copy)
    others = [*(copy["mekrr"] / "pages").rglob("*.py"), *(copy["mekrr"] / "cli").rglob("*.py")]
    others += [copy["mekrr"] / "backbones/chgnet.py", copy["mekrr_comparison"] / "page.py"]
    others += [copy["mekrr_comparison"] / "peers/gap.py"]
    assert len(others) > 20
    for path in others:
        path.write_text(path.read_text() + "\n# a comment\nCHANGED = 1\n")
    assert digest(cell.modules(), copy) == before


def test_comments_docstrings_and_layout_do_not(cell, copy):
    before = digest(cell.modules(), copy)
    changed(copy["mekrr"] / "evaluation.py", '"""Errors of a potential', '"""Mistakes of a potential')
    changed(copy["mekrr"] / "evaluation.py", "UNLIKE = 10.0\n", "# a comment\n\nUNLIKE   = 10.0  # another\n")
    assert digest(cell.modules(), copy) == before


def test_imports_of_all_kinds_are_followed(tmp_path):
    package = tmp_path / "p"
    (package / "q").mkdir(parents=True)
    texts = {
        "__init__.py": "", "q/__init__.py": "from .g import z", "q/g.py": "", "q/h.py": "from .. import d",
        "a.py": "from typing import TYPE_CHECKING\nimport os, p.b\nif TYPE_CHECKING:\n    import p.unseen\n"
                "def f():\n    from p import c\n    from p.q.h import x",
        "b.py": "", "c.py": "from p.c import name", "d.py": "", "unseen.py": "", "unused.py": "",
    }  # fmt: skip
    for name, text in texts.items():
        (package / name).write_text(text)
    found = imported(["p.a"], {"p": package})
    assert set(found) == {"p", "p.a", "p.b", "p.c", "p.d", "p.q", "p.q.g", "p.q.h"}


def test_a_method_of_ones_own_counts(cell):
    own = source_hash(("mekrr_comparison.worker", "comparison_methods"))
    assert own != source_hash(("mekrr_comparison.worker",))


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"mekrr\.nothing: no source file"):
        digest(["mekrr.nothing"], FOLDERS)
