"""Which run may go on as which, where one may begin, and what reaches the calculator."""

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths

from mekrr.data import validate
from mekrr.errors import DataError
from mekrr.learning import learn
from mekrr.learning.journal import read_labels, read_settings
from mekrr.learning.labels import Label
from mekrr.learning.page import write_page
from mekrr.learning.run import WRITTEN
from mekrr.learning.session import labelled_atoms

from .conftest import CALCULATORS, FIXED


def _ends(task, cluster, hop):
    return hop if task == "neb" else [cluster]


@pytest.mark.parametrize("task", ["relax", "neb", "md"])
def test_charge_and_spin_reach_the_calculator_and_the_labels(cluster, hop, emt, tmp_path, task):
    told = {"charge": 1, "spin": 2}
    ends = _ends(task, cluster, hop)
    for atoms in ends:
        atoms.info |= told | {"config_type": "left out"}
    asked = list(learn(task, *ends, folder=tmp_path / "asked", **FIXED))[-1]
    list(learn(task, *ends, folder=tmp_path / "run", calculator=emt, labels=1, **FIXED))
    (label,) = read_labels(tmp_path / "run")
    waiting = ase.io.read(tmp_path / "asked" / "ask.extxyz")
    for atoms in (asked.structures[0], waiting, label.frame, label.structure.atoms, labelled_atoms(label, ends[0])):
        assert {name: atoms.info.get(name) for name in (*told, "config_type")} == told | {"config_type": None}


def _celled(atoms):
    atoms.set_cell([9, 9, 9])


def _periodic(atoms):
    _celled(atoms)
    atoms.pbc = True


def _freed(atoms):
    atoms.set_constraint(FixAtoms([1]))


def _heavy(atoms):
    atoms.set_masses([70, 63, 63, 197])


def _moving(atoms):
    atoms.set_momenta(np.ones((4, 3)))


def _magnetic(atoms):
    atoms.set_initial_magnetic_moments([1, 0, 0, 0])


def _charged(atoms):
    atoms.info["charge"] = 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_celled, "cell"),
        (_periodic, "cell and periodicity"),
        (_freed, "constraints"),
        (_heavy, "masses"),
        (_moving, "velocities"),
        (_magnetic, "magnetic moments"),
        (_charged, "charge or spin"),
    ],
)
def test_a_run_does_not_go_on_from_another_start(cluster, tmp_path, change, what):
    list(learn("relax", cluster, folder=tmp_path, **FIXED))
    assert list(learn("relax", cluster, folder=tmp_path, resume=True, fmax=0.1, **FIXED))[-1].kind == "to-label"
    change(cluster)
    with pytest.raises(DataError, match=f"another START, which differs in its {what}; give"):
        learn("relax", cluster, folder=tmp_path, resume=True, **FIXED)


@pytest.mark.parametrize(
    "given", [{"walkers": 2}, {"ensemble": "nve"}, {"timestep": 1.0}, {"temperature": "400"}, {"friction": 5.0}]
)
def test_dynamics_do_not_go_on_with_options_that_make_them_others(cluster, tmp_path, given):
    list(learn("md", cluster, folder=tmp_path, steps=20, **FIXED))
    (name,) = given
    with pytest.raises(DataError, match=f"holds a run with --{name} .*leave it as it was"):
        learn("md", cluster, folder=tmp_path, resume=True, steps=20, **FIXED, **given)
    last = list(learn("md", cluster, folder=tmp_path, resume=True, steps=40, check=5, temperature=300, **FIXED))[-1]
    assert last.kind == "to-label"


def test_labels_of_two_calculators_are_not_mixed(cluster, emt, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    list(learn("relax", cluster, folder=folder, calculator=emt, labels=1, **FIXED))
    for other in (f"{CALCULATORS}:smeared", None):
        with pytest.raises(DataError, match=f"labels come from --calculator {emt}, and not from .*another folder"):
            learn("relax", cluster, folder=folder, calculator=other, resume=True, **FIXED)
    monkeypatch.chdir(CALCULATORS.parent)
    words = {"folder": folder, "calculator": "calculators.py:emt", "resume": True, "labels": 1}
    assert list(learn("relax", cluster, **words, **FIXED))[-1].kind == "stopped"
    assert read_settings(folder)["calculator"] == emt
    copied = tmp_path / "elsewhere.py"
    copied.write_text(CALCULATORS.read_text())
    words["calculator"] = f"{copied}:emt"
    assert [e.kind for e in learn("relax", cluster, **words, **FIXED)] == ["begun", "stopped"]
    copied.write_text(CALCULATORS.read_text() + "# other settings\n")
    (remark,) = (e.text for e in learn("relax", cluster, **words, **FIXED) if e.kind == "remark")
    assert remark.startswith(f"{copied} is not the file with which the run was started last")
    assert [e.kind for e in learn("relax", cluster, **words, **FIXED)] == ["begun", "stopped"]
    list(learn("relax", cluster, folder=tmp_path / "asked", **FIXED))
    with pytest.raises(DataError, match=r"labels come from outside \(--ask\), and not from --calculator"):
        learn("relax", cluster, folder=tmp_path / "asked", calculator=emt, resume=True, **FIXED)


@pytest.mark.parametrize("name", [name.replace("*", "0") for name in WRITTEN])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_begins_where_there_is_nothing_to_write_over(cluster, tmp_path, name, resume):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} is there and belongs to no run"):
        learn("relax", cluster, folder=tmp_path, resume=resume, **FIXED)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("task", ["relax", "neb", "md"])
def test_a_run_that_failures_ended_asks_again_when_it_goes_on(cluster, hop, tmp_path, monkeypatch, task):
    words = {"folder": tmp_path, "calculator": f"{CALCULATORS}:unlicensed", "labels": 3, **FIXED}
    ends = _ends(task, cluster, hop)
    monkeypatch.setenv("MEKRR_LICENCES", "0")
    ended = list(learn(task, *ends, **words))[-1]
    assert (ended.kind, "licence server is down" in ended.text) == ("stopped", True)
    monkeypatch.delenv("MEKRR_LICENCES")
    list(learn(task, *ends, resume=True, **words))
    assert len(read_labels(tmp_path)) == 3


def test_results_and_the_page_have_the_energy_that_forces_belong_to(cluster, tmp_path, monkeypatch):
    frame = cluster.copy()
    frame.info["label"] = 0
    frame.calc = SinglePointCalculator(frame, energy=1.0, free_energy=0.5, forces=np.zeros((4, 3)))
    label = Label.of(frame, "labels", 0)
    assert labelled_atoms(label, cluster).get_potential_energy() == label.energy == 0.5
    assert not [issue for issue in validate([label.structure]) if issue.code == "energy-choice"]
    list(learn("relax", cluster, folder=tmp_path, calculator=f"{CALCULATORS}:smeared", labels=1, **FIXED))
    stories = []
    monkeypatch.setattr("mekrr.learning.page.pages.write_page", lambda path, story: stories.append(story))
    write_page(tmp_path)
    (label,) = read_labels(tmp_path)
    assert stories[0].labels[0].get_potential_energy() == label.energy
    assert label.energy == pytest.approx(label.frame.get_potential_energy() - 0.5)


def test_lengths_that_a_thermostat_would_not_keep_are_refused(cluster, tmp_path):
    cluster.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(ValueError, match=r"nvt does not keep .*\(FixBondLengths\): take --ensemble nve"):
        learn("md", cluster, folder=tmp_path / "run", **FIXED)
    list(learn("md", cluster, folder=tmp_path / "run", ensemble="nve", **FIXED))
