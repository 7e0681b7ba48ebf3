"""Commands x label options: each is obeyed, and one that names nothing, or no unit, is an error in every command."""

import json
import re

import ase.io
import numpy as np
import pytest
from ase.units import Bohr, Hartree

from mekrr.cli.app import run
from mekrr.data import LabelKeys, read_structures
from mekrr.declared import declared

pytest.importorskip("sevenn")

MODEL, DATA = "model.safetensors", "odd.extxyz"
COMMANDS = {
    "inspect": ["inspect", DATA],
    "fit": ["fit", DATA, "-o", "new.safetensors"],
    "evaluate": ["evaluate", MODEL, DATA],
    "predict": ["predict", MODEL, DATA, "-o", "p.extxyz"],
    "select": ["select", MODEL, DATA, "-n", "1", "-o", "s.extxyz", "--no-cache"],
}
ABSENT = {"evaluate": ("--weight-key",)} | dict.fromkeys(("predict", "select"), ("--weight-key", "--unconverged"))
"""What would have no effect."""

FOUND = "keys found: .*mine_energy, mine_forces, mine_stress"

# Every option, what is wrong to give it, and what the error says of that.
WRONG = {
    "--energy-key": ("typo", f"no structure has the energy key 'typo'.*{FOUND}"),
    "--forces-key": ("typo", f"no structure has the forces key 'typo'.*{FOUND}"),
    "--stress-key": ("typo", f"no structure has the stress key 'typo'.*{FOUND}"),
    "--virial-key": ("typo", f"no structure has the virial key 'typo'.*{FOUND}"),
    "--weight-key": ("typo", f"no structure has the weight key 'typo'.*{FOUND}"),
    "--energy-unit": ("erg", "unknown unit of energy 'erg': use one of .*ha"),
    "--length-unit": ("inch", "unknown unit of length 'inch': use one of .*bohr"),
    "--forces-unit": ("N", "'N'"),
    "--stress-unit": ("psi", "unknown unit of stress 'psi': use one of .*gpa"),
    "--unconverged": ("maybe", "'maybe': use one of drop, keep, refuse"),
}
NAMED = ["--energy-key", "mine_energy", "--forces-key", "mine_forces", "--stress-key", "mine_stress"]


@pytest.fixture
def folder(alloys, potential, tmp_path, monkeypatch):
    """A model, and structures whose labels have names of the user's own, in atomic units in a second file."""
    monkeypatch.chdir(tmp_path)
    potential.save(MODEL)
    for name, length, energy in ((DATA, 1.0, 1.0), ("atomic.extxyz", Bohr, Hartree)):
        frames = []
        for atoms in alloys[30:]:
            bare = atoms.copy()
            bare.set_cell(atoms.cell.array / length, scale_atoms=True)
            bare.info = {"mine_energy": atoms.get_potential_energy() / energy, "w": 2.0}
            bare.info["mine_stress"] = np.eye(3) * 0.01 * length**3 / energy
            bare.arrays["mine_forces"] = atoms.get_forces() * length / energy
            frames.append(bare)
        ase.io.write(name, frames)
    return tmp_path


def call(capsys, words):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_every_option_is_in_the_table():
    assert [one.option.flag for one in declared(LabelKeys)] == list(WRONG)


@pytest.mark.parametrize("option", WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_names_nothing_is_a_sentence_in_every_command(capsys, folder, command, option):
    value, message = WRONG[option]
    code, out, err = call(capsys, [*COMMANDS[command], option, value])
    if option in ABSENT.get(command, ()):
        assert (code, "No such option" in err) == (2, True)
        return
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert re.search(message, err), err
    assert not (folder / "new.safetensors").exists()


@pytest.mark.parametrize("unit", ["--forces-unit", "--stress-unit"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_unit_of_what_is_not_named_is_a_sentence_in_every_command(capsys, folder, command, unit):
    value = {"--forces-unit": "Ha/Bohr", "--stress-unit": "GPa"}[unit]
    code, _, err = call(capsys, [*COMMANDS[command], "--energy-key", "mine_energy", unit, value])
    assert (code, "a unit of the" in err, value in err) == (1, True, True), err


def test_names_and_units_are_obeyed(capsys, folder):
    """Evaluated with its names given, or in atomic units with these given, the file says what plain labels say."""
    plain = read_structures(DATA, LabelKeys(energy="mine_energy", forces="mine_forces", stress="mine_stress"))
    ase.io.write("plain.extxyz", [_with_plain_names(s) for s in plain])
    tables = []
    for words in (
        ["plain.extxyz"],
        [DATA, *NAMED],
        ["atomic.extxyz", *NAMED, "--energy-unit", "Ha", "--length-unit", "Bohr"],
        ["atomic.extxyz", *NAMED, "--energy-unit", "Ha", "--length-unit", "Bohr", "--forces-unit", "Ha/Bohr"],
    ):
        code, out, err = call(capsys, ["evaluate", MODEL, *words, "--json"])
        assert code == 0, err
        tables.append({k: v for k, v in json.loads(out).items() if isinstance(v, float)})
    assert tables[0]["forces_rmse_mev_per_angstrom"] > 0
    for table in tables[1:]:
        assert table == pytest.approx(tables[0], rel=1e-3)


def test_predictions_are_of_the_geometry_in_its_unit_whatever_the_labels(capsys, folder):
    frames = ase.io.read("atomic.extxyz", ":")
    frames[1].info["scf_converged"] = False
    frames[2].info["energy"] = "converged"
    ase.io.write("bohr.traj", frames)
    found = []
    for words in ([DATA], ["bohr.traj", "--length-unit", "Bohr"]):
        code, out, err = call(capsys, ["predict", MODEL, *words, "-o", "p.extxyz", "--json"])
        assert code == 0, err
        found.append(json.loads(out)["energies_ev"])
    assert "labels of 1 of 6 structures cannot be read and are left out: bohr.traj, index 2" in err
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    code, _, err = call(
        capsys, ["select", MODEL, "bohr.traj", "--length-unit", "Bohr", "-n", 6, "-o", "s.traj", "--no-cache"]
    )
    assert code == 0, err
    volumes = sorted(round(atoms.get_volume(), 3) for atoms in ase.io.read("s.traj", ":"))
    assert volumes == sorted(round(atoms.get_volume(), 3) for atoms in ase.io.read(DATA, ":"))


def test_anchors_in_another_unit_are_refused(capsys, folder):
    words = [*NAMED, "--length-unit", "Bohr", "--anchors", DATA]
    code, _, err = call(capsys, ["fit", "atomic.extxyz", *words, "-o", "new.safetensors"])
    assert code == 1
    assert f"--anchors {DATA} is read in Å, and --length-unit is Bohr: convert it" in err.replace("\n", " ")


def test_inspect_says_which_keys_were_read(capsys, folder):
    code, out, _ = call(capsys, ["inspect", DATA, *NAMED, "--weight-key", "w", "--json"])
    found = json.loads(out)["summary"]
    assert code == 0
    assert found["labels"] == {"energy": 6, "forces": 6, "stress": 6, "weight": 6}
    keys = {label: list(found["label_keys"][label]) for label in ("energy", "forces", "stress")}
    assert keys == {"energy": ["info:mine_energy"], "forces": ["arrays:mine_forces"], "stress": ["info:mine_stress"]}


def _with_plain_names(structure):
    atoms = structure.atoms.copy()
    atoms.info |= {"REF_energy": structure.energy, "REF_stress": structure.stress}
    atoms.arrays["REF_forces"] = structure.forces
    return atoms
