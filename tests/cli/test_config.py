"""Configurations of a fit: what is written can be run again."""

import json

import ase.io
import msgspec
import pytest

from mekrr import KernelPotential
from mekrr.cli.app import run
from mekrr.cli.config import config_path

pytest.importorskip("sevenn")

FIXED = ["--layer", "interaction_1", "--length-scale", "12", "--species-weight", "0.5", "--ridge", "1e-4"]
FIXED += ["--no-forces", "--no-cache"]


@pytest.fixture
def folder(alloys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("train.extxyz", alloys[:8])
    return tmp_path


def said(capsys, *words):
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_every_fit_writes_a_configuration_that_gives_the_same_potential(capsys, folder):
    assert said(capsys, "fit", "train.extxyz", "-o", "a.safetensors", *FIXED)[0] == 0
    kept = msgspec.yaml.decode((folder / "a.fit.yaml").read_bytes())
    assert kept["train"] == ["train.extxyz"]
    assert kept["length-scale"] == 12.0
    assert kept["layer"] == ["interaction_1"]
    assert (kept["prior"], kept["energy-unit"], kept["no-cache"], kept["forces"]) == ("auto", "eV", True, False)
    assert "json" not in kept
    assert "threads" not in kept
    code, out, err = said(capsys, "fit", "--config", "a.fit.yaml", "-o", "b.safetensors", "--json")
    assert code == 0, err
    assert json.loads(out)["config"] == "b.fit.yaml"
    one, other = (KernelPotential.load(folder / f"{name}.safetensors").fitted_ for name in "ab")
    assert one.record.options == other.record.options
    assert one.model.coefficients.equal(other.model.coefficients)


def test_the_command_line_goes_before_the_file(capsys, folder):
    (folder / "c.yaml").write_text("train: train.extxyz\noutput: c.safetensors\nlayer: interaction_1\nno-cache: true\n")
    words = ["--prior", "none", "--length-scale", "9", "--no-forces", "--ridge", "1e-4"]
    assert said(capsys, "fit", "--config", "c.yaml", *words)[0] == 0
    options = KernelPotential.load(folder / "c.safetensors").options
    assert (options.prior, options.length_scale, options.layers) == ("none", 9.0, ("interaction_1",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lenght-scale: 3\n", "did you mean length-scale?"),
        ("- a\n- b\n", "it must hold options"),
        ("a: [1\n", "no YAML"),
        ("prior: flat\ntrain: train.extxyz\noutput: m.st\n", "unknown prior 'flat'"),
    ],
)
def test_a_bad_configuration_is_a_sentence(capsys, folder, text, words):
    (folder / "c.yaml").write_text(text)
    code, _, err = said(capsys, "fit", "--config", "c.yaml")
    assert code == 1
    assert words in err


def test_what_is_missing_is_wrong_usage(capsys, folder):
    assert said(capsys, "fit", "train.extxyz")[0] == 2
    assert said(capsys, "fit", "-o", "m.safetensors")[0] == 2
    assert said(capsys, "fit", "--config", "none.yaml", "-o", "m.st")[0] == 1


def test_the_configuration_read_is_not_overwritten_by_another(capsys, folder):
    text = "train: train.extxyz\noutput: m.safetensors\n"
    (folder / "m.fit.yaml").write_text(text)
    code, _, err = said(capsys, "fit", "--config", "m.fit.yaml", "--prior", "none", *FIXED)
    assert (code, "--prior" in err) == (1, True)
    assert (folder / "m.fit.yaml").read_text() == text


def test_a_log_keeps_what_was_said_and_the_stages(capsys, folder):
    cached = [word for word in FIXED if word != "--no-cache"]
    words = ["fit", "train.extxyz", "-o", "m.safetensors", *cached, "--cache", "cache", "--log", "fit.log"]
    for _ in range(2):
        code, out, err = said(capsys, *words)
        assert code == 0
    assert "features: 8 of 8 from the cache" in err
    kept = (folder / "fit.log").read_text()
    assert kept.count("mekrr 0") == 2
    assert "features: 8 of 8" in kept
    assert out.splitlines()[0] in kept
    said(capsys, "fit", "nothing.extxyz", "-o", "m.safetensors", "--log", "fit.log")
    assert "nothing.extxyz" in (folder / "fit.log").read_text().splitlines()[-2]


def test_a_dry_run_counts_the_cache_and_writes_no_model(capsys, folder):
    words = ["fit", "train.extxyz", "-o", "m.safetensors", "--layer", "interaction_1", "--tangent-share", "0"]
    words += ["--cache", "cache", "--dry-run", "--json"]
    code, out, _ = said(capsys, *words)
    found = json.loads(out)
    assert code == 0
    assert found["cached"] == {"features": 0, "derivatives": 0}
    assert found["seconds"]["derivatives"] > found["seconds"]["features"] > 0
    assert found["seconds"]["exact forces"] > found["seconds"]["features"]
    assert found["memory_bytes"] > 0
    assert found["processes"] == 1
    assert not (folder / "m.safetensors").exists()
    assert not config_path(folder / "m.safetensors").exists()


def test_a_dry_run_refuses_what_the_fit_would_refuse(capsys, folder):
    code, _, err = said(capsys, "fit", "train.extxyz", "-o", "m.safetensors", "--refine", "2", "--dry-run")
    assert code == 1
    assert "--refine" in err


@pytest.mark.parametrize("option", [["--no-exact-forces"], ["--probes", "all"], ["--no-forces"]])
def test_a_dry_run_counts_no_iteration_where_there_is_none(capsys, folder, option):
    words = ["fit", "train.extxyz", "-o", "m.safetensors", "--layer", "interaction_1", "--dry-run", "--json"]
    share = [] if "--no-forces" in option else ["--tangent-share", "0"]
    assert set(json.loads(said(capsys, *words, *share, *option)[1])["seconds"]) <= {
        "features",
        "derivatives",
        "kernel and solve",
    }
