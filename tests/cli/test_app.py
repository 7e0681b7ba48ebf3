import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.cli.app import run
from mekrr.data import read_structures
from mekrr.graph import build_batch

FIXED = ["--layer", "interaction_1", "--length-scale", "12", "--species-weight", "0.5", "--ridge", "1e-4"]
FIXED += ["--tangent-share", "0", "--no-cache"]

pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def files(alloys, potential, tmp_path_factory):
    """Training data, test data, a model and a structure without labels."""
    folder = tmp_path_factory.mktemp("cli")
    ase.io.write(folder / "train.extxyz", alloys[:12])
    ase.io.write(folder / "test.extxyz", alloys[30:])
    bare = alloys[31].copy()
    bare.calc = None
    ase.io.write(folder / "bare.extxyz", bare)
    potential.save(folder / "model.safetensors")
    return folder


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_fit_evaluate_predict_on_files(capsys, files, tmp_path):
    model = tmp_path / "m.safetensors"
    code, out, _ = call(
        capsys, "fit", files / "train.extxyz", "-o", model, *FIXED, "--json", "--validation", files / "test.extxyz"
    )
    fitted = json.loads(out)
    assert code == 0
    assert fitted["chosen"]["layers"] == ["interaction_1"]
    assert set(fitted["seconds"]) == {"read", "backbone", "features", "derivatives", "kernel", "solve"}
    code, out, _ = call(capsys, "evaluate", model, files / "test.extxyz", "--json")
    metrics = json.loads(out)
    assert code == 0
    assert {name: metrics[name] for name in fitted["validation"]} == fitted["validation"]
    assert metrics["threads"] == fitted["threads"] >= 1
    assert "better in energies" in metrics["verdict"]
    assert metrics["n_structures"] == 6
    assert metrics["forces_rmse_mev_per_angstrom"] > 0
    assert metrics["backbone_energy_rmse_mev_per_atom"] > 0
    code, _, _ = call(capsys, "predict", model, files / "test.extxyz", "-o", tmp_path / "p.extxyz")
    frames = ase.io.read(tmp_path / "p.extxyz", ":")
    errors = [1000 * (a.get_potential_energy() - a.info["dft_energy"]) / len(a) for a in frames]
    assert code == 0
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(metrics["energy_rmse_mev_per_atom"], rel=1e-4)
    assert {"dft_forces", "numbers", "positions"} <= set(frames[0].arrays)
    assert frames[0].info["energy_std"] > 0


def test_tables_name_the_three_competitors(capsys, files):
    code, out, err = call(capsys, "evaluate", files / "model.safetensors", files / "test.extxyz")
    assert code == 0
    for words in ("this potential", "backbone + shifts", "mean per element", "meV/atom"):
        assert words in out
    assert [line for line in err.splitlines() if "unlike the training data" not in line] == []


def test_unlabelled_structures_are_predicted(capsys, files, tmp_path):
    code, _, _ = call(capsys, "predict", files / "model.safetensors", files / "bare.extxyz", "-o", tmp_path / "p.xyz")
    assert code == 0
    assert "dft_energy" not in ase.io.read(tmp_path / "p.xyz").info


def test_a_report_is_written(capsys, files, tmp_path):
    report = tmp_path / "report.html"
    code, out, _ = call(capsys, "evaluate", files / "model.safetensors", files / "test.extxyz", "--report", report)
    assert code == 0
    assert "report.html" in out
    assert "<html" in report.read_text()[:2000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "{}/nothing.extxyz", "-o", "{}/m.st"], "nothing.extxyz"),
        (["fit", "{}/train.extxyz", "-o", "{}/no/such/m.st"], "no such folder"),
        (["fit", "{}/train.extxyz", "-o", "{}"], "is a folder"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--backbone", "sevenet-0"], "did you mean sevennet-0"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--layer", "last"], "has no layer last"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--species-weight", "2"], "must lie between 0 and 1"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--prior", "flat"], "unknown prior 'flat'; choose one of auto"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--energy-key", "REF"], "REF"),
        (["fit", "{}/train.extxyz", "-o", "{}/m.st", "--energy-unit", "erg"], "erg"),
        (["fit", "{}/bare.extxyz", "-o", "{}/m.st"], "energy"),
        (["evaluate", "{}/nothing.st", "{}/test.extxyz"], "no such model file"),
        (["evaluate", "{}/train.extxyz", "{}/test.extxyz"], "not a whole safetensors file"),
        (["evaluate", "{}/model.safetensors", "{}/bare.extxyz"], "energy"),
        (["evaluate", "{}/model.safetensors", "{}/test.extxyz", "--by", "colour"], "no structure has the info key"),
        (["evaluate", "{}/model.safetensors", "{}/test.extxyz", "--report", "{}/no/r.html"], "no such folder"),
        (["predict", "{}/model.safetensors", "{}/test.extxyz", "-o", "{}/no/p.xyz"], "no such folder"),
        (["predict", "{}/model.safetensors", "{}/test.extxyz", "-o", "{}/p.xyz", "--device", "tpu"], "tpu"),
        (["inspect", "{}/nothing.extxyz"], "nothing.extxyz"),
        (["inspect", "{}/model.safetensors"], "model.safetensors"),
        (["data", "fetch", "no-such-set"], "unknown data set"),
        (["backbones", "fetch", "no-such-net"], "no backbone is called"),
        (["quickstart", "-o", "{}/train.extxyz"], "is a file; give a folder"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_one(capsys, files, arguments, message):
    code, _, err = call(capsys, *(a.replace("{}", str(files)) for a in arguments))
    assert code == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "x", "-o", "y", "--no-such-option"], ["evaluate"], ["dance"]])
def test_wrong_usage_is_exit_code_two(capsys, arguments):
    assert call(capsys, *arguments)[0] == 2


def test_model_and_data_of_other_elements(capsys, files, tmp_path):
    ase.io.write(tmp_path / "ag.extxyz", bulk("Ag"))
    code, _, err = call(
        capsys, "predict", files / "model.safetensors", tmp_path / "ag.extxyz", "-o", tmp_path / "p.xyz"
    )
    assert (code, "Ag" in err) in ((1, True), (0, True))


def test_a_read_only_folder_is_refused(capsys, files, monkeypatch):
    """os.access is asked about the folder, since the tests may run as root, for whom nothing is read-only."""
    monkeypatch.setattr("mekrr.cli.outputs.os.access", lambda path, mode: mode != os.W_OK)
    code, _, err = call(capsys, "fit", files / "train.extxyz", "-o", files / "m.st")
    assert (code, "cannot be written" in err) == (1, True)


def test_a_full_disk_is_a_sentence(capsys, files, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "m.st"))

    monkeypatch.setattr("mekrr.potential.archive.save_file", full)
    code, _, err = call(capsys, "fit", files / "train.extxyz", "-o", tmp_path / "m.st", *FIXED)
    assert (code, "No space left on device" in err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_running_out_of_memory_says_what_to_lower(capsys, files, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mekrr.potential.fit.extract", exhausted)
    code, _, err = call(capsys, "fit", files / "train.extxyz", "-o", tmp_path / "m.st", *FIXED)
    assert (code, "lower --batch-atoms" in err) == (1, True)


def test_an_extra_that_is_not_installed_names_the_pip_line(capsys, files, tmp_path, monkeypatch):
    monkeypatch.setattr("mekrr.backbones.base.find_spec", lambda name, *_: None)
    code, _, err = call(capsys, "fit", files / "train.extxyz", "-o", tmp_path / "m.st", "--backbone", "chgnet-0.3.0")
    assert (code, 'pip install "mekrr[chgnet]"' in err) == (1, True)


def test_listings(capsys):
    assert "sevennet-0" in call(capsys, "backbones")[1]
    if importlib.util.find_spec("mace") is None:
        assert "mekrr[mace]" in call(capsys, "backbones")[1]
    listed = json.loads(call(capsys, "backbones", "--json")[1])
    assert listed["sevennet-0"]["layers"][0] == "interaction_0"
    assert "cu-formate-mini" in json.loads(call(capsys, "data", "list", "--json")[1])
    assert call(capsys, "--version")[1].startswith("mekrr ")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({}, []),
        ({"forces": -1.0, "stress": 160.2}, ["forces labels have the opposite sign", "(--stress-unit)"]),
        ({"energy": 2.0}, ["not in units that belong together"]),
    ],
)
def test_inspect_compares_forces_and_stress_with_a_backbone(capsys, tmp_path, sevennet, alloys, factors, words):
    frames = []
    for atoms in alloys[:14]:
        graph = build_batch([atoms], sevennet.cutoff, sevennet.max_neighbours)
        own = energy_forces_stress(sevennet, graph)
        bare = atoms.copy()
        bare.info = {
            "REF_energy": factors.get("energy", 1.0) * float(own.energies[0]),
            "REF_stress": factors.get("stress", 1.0) * own.stress[0].numpy(),
        }
        bare.arrays["REF_forces"] = factors.get("forces", 1.0) * own.forces.numpy()
        frames.append(bare)
    ase.io.write(tmp_path / "a.extxyz", frames)
    code, out, _ = call(capsys, "inspect", tmp_path / "a.extxyz", "--backbone", "sevennet-0", "--json")
    messages = [issue["message"] for issue in json.loads(out)["issues"] if issue["code"] == "units"]
    assert code == 0
    assert len(messages) == len(words)
    assert all(word in message for word, message in zip(words, messages, strict=True)), messages


def test_inspect_is_json_and_fails_on_errors(capsys, files, tmp_path):
    code, out, _ = call(capsys, "inspect", files / "train.extxyz", "--json")
    assert (code, json.loads(out)["summary"]["n_structures"]) == (0, 12)
    code, out, _ = call(capsys, "inspect", files / "bare.extxyz", "--json")
    assert (code, json.loads(out)["issues"][0]["level"]) == (1, "error")


def test_labels_survive_any_chain_and_predictions_are_never_labels(capsys, files, tmp_path):
    """predict keeps the labels of DFT, and so does select; without labels there is nothing to evaluate."""
    model = files / "model.safetensors"
    labels = [s.energy for s in read_structures(files / "test.extxyz")]
    first, second, chosen = (tmp_path / f"{name}.extxyz" for name in ("first", "second", "chosen"))
    assert call(capsys, "predict", model, files / "test.extxyz", "-o", first)[0] == 0
    assert call(capsys, "predict", model, first, "-o", second)[0] == 0
    assert call(capsys, "select", model, second, "-n", 2, "-o", chosen, "--no-cache")[0] == 0
    for path in (first, second):
        assert [s.energy for s in read_structures(path)] == pytest.approx(labels, abs=1e-7)
    assert {round(s.energy, 6) for s in read_structures(chosen)} <= {round(e, 6) for e in labels}
    metrics = [json.loads(call(capsys, "evaluate", model, p, "--json")[1]) for p in (files / "test.extxyz", second)]
    rmse = [m["energy_rmse_mev_per_atom"] for m in metrics]
    assert rmse[0] == pytest.approx(rmse[1], rel=1e-4)
    code, _, err = call(capsys, "evaluate", model, second, "--energy-key", "energy", "--forces-key", "forces")
    assert (code, "results of mekrr predict, a potential's own" in err) == (0, True)
    assert call(capsys, "predict", model, files / "bare.extxyz", "-o", first)[0] == 0
    code, _, err = call(capsys, "evaluate", model, first)
    assert (code, "those of mekrr predict, and no label" in err) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_fit_leaves_no_broken_file_and_can_go_on(capsys, files, tmp_path, how):
    """A real process, stopped as soon as its first features are in the cache; the next fit uses what it left."""
    cache, model = tmp_path / "cache", tmp_path / "m.st"
    program = "from mekrr.cli import main; main()"
    arguments = ["fit", files / "train.extxyz", "-o", model, "--cache", cache, "--batch-atoms", "1"]
    arguments += ["--layer", "interaction_1", "--tangent-share", "0"]
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.DEVNULL)
    while not list(cache.glob("*/*.safetensors")):
        assert process.poll() is None, "the fit ended before it wrote any feature"
        time.sleep(0.005)
    process.send_signal(how)
    assert process.wait(60) != 0
    assert not model.exists()
    assert not list(tmp_path.glob("*.tmp"))
    assert call(capsys, *arguments)[0] == 0
    assert model.is_file()
