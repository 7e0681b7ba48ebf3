import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from mekrr.cli.app import run

pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def files(alloys, potential, tmp_path_factory):
    """A model and pools: new structures, some of the training set, unlabelled, with an element nobody knows."""
    folder = tmp_path_factory.mktemp("select")
    potential.save(folder / "model.safetensors")
    ase.io.write(folder / "pool.traj", [*alloys[28:], alloys[35]])
    bare = [a.copy() for a in alloys[30:33]]
    for k, atoms in enumerate(bare):
        atoms.calc = None
        atoms.info["name"] = f"frame {k}"
    ase.io.write(folder / "bare.extxyz", bare)
    ase.io.write(folder / "strange.extxyz", [bulk("Es", "fcc", a=5.0), *bare])
    return folder


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run(["select", *(str(a) for a in arguments), "--no-cache"])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_chosen_structures_keep_their_labels(capsys, files, tmp_path, alloys):
    out = tmp_path / "next.extxyz"
    code, text, _ = call(capsys, files / "model.safetensors", files / "pool.traj", "-n", 4, "-o", out, "--json")
    found = json.loads(text)
    assert (code, found["method"], found["n_pool"], found["output"]) == (0, "variance", 9, str(out))
    assert found["skipped"] == {"training": [0, 1], "repeated": [8], "unknown": []}
    frames = ase.io.read(out, ":")
    assert [a.info["select_rank"] for a in frames] == [1, 2, 3, 4]
    for atoms, row in zip(frames, found["selected"], strict=True):
        original = alloys[28:][row["index"]]
        assert atoms.get_potential_energy() == pytest.approx(original.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), original.get_forces(), atol=1e-7)
        assert atoms.info["energy_std"] == pytest.approx(row["energy_std_ev"], rel=1e-6)
        assert atoms.info["select_std"] == pytest.approx(row["select_std_ev"], rel=1e-6)
        assert row["select_std_ev"] <= row["energy_std_ev"] * (1 + 1e-9)


def test_the_table_and_what_was_left_out_are_printed(capsys, files, tmp_path):
    out = tmp_path / "n.extxyz"
    code, text, errors = call(capsys, files / "model.safetensors", files / "pool.traj", "-n", 2, "-o", out)
    assert code == 0
    assert "rank" in text
    assert "pool.traj" in text
    assert errors == "left out of 9 structures: 2 in the training set, 1 equal to another of the pool"


def test_unlabelled_structures_stay_unlabelled(capsys, files, tmp_path):
    out = tmp_path / "n.extxyz"
    assert call(capsys, files / "model.safetensors", files / "bare.extxyz", "-n", 3, "-o", out)[0] == 0
    frames = ase.io.read(out, ":")
    assert {a.info["name"] for a in frames} == {"frame 0", "frame 1", "frame 2"}
    assert all("energy" not in a.info and not (a.calc and a.calc.results) for a in frames)


def test_unknown_elements_can_be_left_out(capsys, files, tmp_path):
    arguments = files / "model.safetensors", files / "strange.extxyz", "-n", 1, "-o", tmp_path / "n.extxyz"
    code, _, errors = call(capsys, *arguments)
    assert (code, "Es: elements that the potential cannot treat" in errors, "--skip-unknown" in errors) == (
        1,
        True,
        True,
    )
    code, _, errors = call(capsys, *arguments, "--skip-unknown")
    assert (code, errors) == (0, "left out of 4 structures: 1 with unknown elements")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{}/model.safetensors", "{}/bare.extxyz", "-n", "4", "-o", "{}/o.extxyz"],
            "4 structures were asked for, but",
        ),
        (["{}/model.safetensors", "{}/bare.extxyz", "-n", "1", "-o", "{}/no/o.extxyz"], "no such folder"),
        (["{}/model.safetensors", "{}/none.extxyz", "-n", "1", "-o", "{}/o.extxyz"], "none.extxyz"),
        (["{}/none.st", "{}/bare.extxyz", "-n", "1", "-o", "{}/o.extxyz"], "no such model file"),
        (
            ["{}/model.safetensors", "{}/bare.extxyz", "-n", "1", "-o", "{}/o.extxyz", "--method", "best"],
            "unknown method",
        ),
    ],
)
def test_bad_input_is_a_sentence(capsys, files, arguments, message):
    code, _, errors = call(capsys, *(a.replace("{}", str(files)) for a in arguments))
    assert (code, message in errors) == (1, True)
    assert not (files / "o.extxyz").exists()


def test_nothing_to_choose_is_wrong_usage(capsys, files, tmp_path):
    assert call(capsys, files / "model.safetensors", files / "bare.extxyz", "-n", 0, "-o", tmp_path / "o.xyz")[0] == 2
