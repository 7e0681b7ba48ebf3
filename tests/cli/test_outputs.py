"""Commands by outputs: nothing that is read is overwritten, links stay links, and the suffix says what is written."""

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.cli.app import app, run
from mekrr.cli.config import config_path
from mekrr.cli.outputs import STRUCTURE_SUFFIXES, suffix_of
from mekrr.cli.predict import write_predictions
from mekrr.cli.structure_files import write_structures
from mekrr.data import read_structures
from mekrr.files import atomic_path, regular_target

pytest.importorskip("sevenn")

FIXED = ["--layer", "interaction_1", "--length-scale", "12", "--species-weight", "0.5", "--ridge", "1e-4"]
FIXED += ["--tangent-share", "0", "--no-cache"]
MODEL, DATA, OUT = "model.safetensors", "data.extxyz", "{out}"

# Every command with an output file: how it is called, its inputs, the suffix it writes.
COMMANDS = {
    "fit": (["fit", DATA, "-o", OUT, *FIXED, "--no-forces"], [DATA], ".safetensors"),
    "fit --validation": (["fit", "b.extxyz", "--validation", DATA, "-o", OUT, *FIXED], [DATA, "b.extxyz"], None),
    "features": (["features", DATA, "-o", OUT, "--no-forces", "--no-cache"], [DATA], ".safetensors"),
    "export": (["export", MODEL, "--to", "sevennet", "-o", OUT], [MODEL], None),
    "evaluate": (["evaluate", MODEL, DATA, "--report", OUT], [MODEL, DATA], ".html"),
    "predict": (["predict", MODEL, DATA, "-o", OUT], [MODEL, DATA], ".extxyz"),
    "explain": (["explain", MODEL, DATA, "-o", OUT], [MODEL, DATA], ".html"),
    "select": (["select", MODEL, "b.extxyz", DATA, "-n", "2", "-o", OUT], [MODEL, DATA, "b.extxyz"], ".extxyz"),
    "md": (["md", MODEL, DATA, "-o", OUT, "--steps", "1", "--resume"], [MODEL, DATA], ".extxyz"),
}
WRITERS = {name: command for name, command in COMMANDS.items() if command[2]}
PATHS = ["itself", "relative", "dotted", "symlink", "chain", "hard link", "linked folder"]


def test_every_command_with_an_output_is_in_the_table():
    """Folders are apart: quickstart below, the benchmark where it is tested."""
    there = set()
    for name, command in typer.main.get_command(app).commands.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        there |= {name} if flags & {"--output", "--report"} else set()
    assert there - {"benchmark"} == {name.split()[0] for name in COMMANDS} | {"quickstart"}


@pytest.fixture
def folder(alloys, potential, tmp_path, monkeypatch):
    """A model and two files of structures in the working folder."""
    monkeypatch.chdir(tmp_path)
    potential.save(MODEL)
    ase.io.write(DATA, alloys[20:32])
    ase.io.write("b.extxyz", alloys[:12])
    return tmp_path


def call(capsys, words, out):
    """Exit code and stderr of a command line."""
    capsys.readouterr()
    code = run([str(out) if word == OUT else word for word in words])
    return code, " ".join(capsys.readouterr().err.split())


def another_way(kind, victim, folder):
    """A path that leads to `victim`."""
    way = folder / f"way{victim.suffix}"
    if kind in ("itself", "relative"):
        return victim if kind == "itself" else victim.name
    if kind == "dotted":
        return f".././{folder.name}/{victim.name}"
    if kind == "linked folder":
        (folder / "door").symlink_to(folder)
        return f"door/{victim.name}"
    if kind == "hard link":
        os.link(victim, way)
    elif kind == "symlink":
        way.symlink_to(victim.name)
    else:
        (folder / "middle").symlink_to(victim)
        way.symlink_to("middle")
    return way


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_path_leads_to_an_overwritten_input(capsys, folder, name, kind):
    words, inputs, _ = COMMANDS[name]
    for victim in inputs:
        before = (folder / victim).read_bytes()
        out = another_way(kind, folder / victim, folder)
        code, err = call(capsys, words, out)
        assert (code, "would be overwritten" in err, "Traceback" in err) == (1, True, False), err
        assert (folder / victim).read_bytes() == before
        for made in ("door", "middle", f"way{(folder / victim).suffix}"):
            (folder / made).unlink(missing_ok=True)


@pytest.mark.parametrize("name", WRITERS)
def test_devices_pipes_folders_and_loops_are_a_sentence(capsys, folder, name):
    words, _, suffix = WRITERS[name]
    os.mkfifo(f"pipe{suffix}")
    os.mkdir(f"folder{suffix}")
    os.symlink("/dev/null", f"null{suffix}")
    os.symlink("/dev/stdout", f"stdout{suffix}")
    os.symlink(f"loop{suffix}", f"loop{suffix}")
    os.symlink("no/such/x", f"nowhere{suffix}")
    for out, message in (
        (f"pipe{suffix}", "is a pipe"),
        (f"folder{suffix}", "is a folder"),
        (f"null{suffix}", "is a device"),
        (f"stdout{suffix}", "is an open stream"),
        ("/dev/stdout", "is an open stream"),
        (f"loop{suffix}", "leads in a circle"),
        (f"nowhere{suffix}", "no such folder"),
    ):
        code, err = call(capsys, words, out)
        assert (code, message in err, "Traceback" in err) == (1, True, False), (out, err)
    assert os.path.islink(f"null{suffix}")


@pytest.mark.parametrize("name", WRITERS)
def test_unknown_suffixes_are_refused_with_those_there_are(capsys, folder, name):
    words, _, suffix = WRITERS[name]
    for out in ("x.txt", f"x{suffix}.zip", "x.pt", "-"):
        code, err = call(capsys, words, out)
        assert (code, f"must be one of {suffix}" in err) == (1, True), err
        assert not os.path.exists(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_link_is_written_through(capsys, folder, name):
    words, _, suffix = WRITERS[name]
    if name == "explain":
        pytest.importorskip("chemiscope")
    (folder / "there").mkdir()
    link, target = folder / f"link{suffix}", folder / "there" / f"target{suffix}"
    link.symlink_to(target)
    code, err = call(capsys, words, link)
    assert (code, link.is_symlink(), target.stat().st_size > 500) == (0, True, True), err
    assert list(folder.rglob("*.tmp")) == []


def test_an_exported_checkpoint_is_not_the_one_that_the_model_was_fitted_on(capsys, folder, monkeypatch):
    (folder / "own.pth").write_text("weights")
    fitted = SimpleNamespace(
        options=SimpleNamespace(backbone="sevennet:own.pth"), export=lambda path: path.write_text("refined")
    )
    monkeypatch.setattr("mekrr.cli.export.KernelPotential.load", lambda *_: fitted)
    code, err = call(capsys, ["export", MODEL, "--to", "sevennet", "-o", "own.pth"], "")
    assert (code, "own.pth is the input own.pth" in err) == (1, True)
    assert (folder / "own.pth").read_text() == "weights"
    code, _ = call(capsys, ["export", MODEL, "--to", "sevennet", "-o", "other.pth"], "")
    assert (code, (folder / "other.pth").read_text()) == (0, "refined")


@pytest.mark.parametrize(
    "victim", [DATA, "b.extxyz", "new.safetensors", str(config_path(Path("new.safetensors"))), "hard.extxyz"]
)
def test_a_log_is_no_file_that_the_command_reads_or_writes(capsys, folder, victim):
    os.link(folder / DATA, folder / "hard.extxyz")
    before = (folder / DATA).read_bytes()
    words = ["fit", DATA, "--validation", "b.extxyz", "-o", "new.safetensors", *FIXED, "--dry-run", "--log", victim]
    code, err = call(capsys, words, "")
    assert (code, "which this command reads or writes" in err) == (1, True), err
    assert (folder / DATA).read_bytes() == before


def test_quickstart_overwrites_nothing_of_others(capsys, tmp_path):
    (tmp_path / "model.safetensors").write_text("precious")
    code, err = call(capsys, ["quickstart", "-o", str(tmp_path)], "")
    assert (code, "not of an earlier quickstart" in err) == (1, True)
    assert (tmp_path / "model.safetensors").read_text() == "precious"


@pytest.fixture(scope="module")
def predicted(potential, alloys, tmp_path_factory):
    """Structures by way of a file, and all that can be predicted of them."""
    path = tmp_path_factory.mktemp("predicted") / "frames.extxyz"
    ase.io.write(path, alloys[30:33])
    structures = read_structures(path)
    return structures, potential.predict(structures, uncertainty=True, force_uncertainty=True)


@pytest.mark.parametrize("suffix", STRUCTURE_SUFFIXES)
def test_predictions_are_read_back_in_every_format(predicted, tmp_path, suffix):
    structures, predictions = predicted
    path = tmp_path / f"p{suffix}"
    write_predictions(path, structures, predictions)
    for found, structure, prediction in zip(
        read_structures(path, require_energy=False), structures, predictions, strict=True
    ):
        there = found.info | found.atoms.arrays
        np.testing.assert_allclose(found.atoms.positions, structure.atoms.positions, atol=1e-7)
        assert there["energy_std"] == pytest.approx(prediction.energy_std, rel=1e-12)
        # the labels are DFT's again, not what was predicted
        assert found.energy == pytest.approx(structure.energy, abs=1e-12)
        np.testing.assert_allclose(found.forces, structure.forces, atol=1e-7)
        np.testing.assert_allclose(there["forces_std"], prediction.forces_std, atol=1e-7)
    first = path.read_bytes()
    write_predictions(path, structures, predictions)
    assert suffix in (".db", ".json") or path.read_bytes() == first  # ASE's databases hold the time


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20))
def test_any_text_beside_a_structure_leaves_a_file_that_can_be_read(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("text")
    for suffix in (".extxyz", ".traj", ".db"):
        frames = [ase.Atoms("H", info={"note": text, "n": 1}), ase.Atoms("He", info={"n": 2})]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_structures(folder / f"t{suffix}", frames)
        found = read_structures(folder / f"t{suffix}", require_energy=False)
        assert [(s.atoms.get_chemical_formula(), s.info["n"]) for s in found] == [("H", 1), ("He", 2)]


def test_permissions_and_links_of_a_file_stay(tmp_path):
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_text("old")
    secret.chmod(0o600)
    link.symlink_to("secret")
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert (secret.read_text(), secret.stat().st_mode & 0o777, link.is_symlink()) == ("new", 0o600, True)
    assert regular_target(link) == secret


def test_a_new_model_has_the_usual_permissions(potential, tmp_path):
    potential.save(tmp_path / "m.safetensors")
    (tmp_path / "usual").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_suffixes_are_taken_by_the_longest():
    assert suffix_of(Path("A.EXTXYZ.GZ"), STRUCTURE_SUFFIXES) == ".extxyz.gz"
    assert suffix_of(Path("run.1.xyz"), STRUCTURE_SUFFIXES) == ".xyz"
