"""When a fit is shared out to processes without being asked to."""

import json

import ase.io
import numpy as np
import pytest

from mekrr import KernelPotential
from mekrr.cli import workers
from mekrr.cli.app import run
from mekrr.data import as_structures
from mekrr.errors import ClusterError
from mekrr.shards import HERE

FIT = ["fit", "train.extxyz", "-o", "m.safetensors", "--layer", "interaction_1", "--tangent-share", "0"]
FIT += ["--no-exact-forces", "--threads", "2"]


@pytest.fixture
def said(alloys, tmp_path, monkeypatch, capsys):
    """What a command says in a folder with some alloys: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("train.extxyz", alloys[:8])

    def say(*words):
        code = run(list(words))
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return say


@pytest.fixture
def worth(monkeypatch, alloys):
    """How many processes a fit to some alloys is worth where so many atoms are enough."""

    def count(idle=2, fewest=1, free=10**12, where=None, **options):
        monkeypatch.setattr(workers, "FEWEST_ATOMS", fewest)
        monkeypatch.setattr(workers, "_free_bytes", lambda: free)
        return workers.processes_for(where, KernelPotential(**options), as_structures(alloys[:6]), idle)

    return count


def test_as_many_as_there_are_idle_cores_and_memory_for(worth):
    assert worth(idle=3) == 3
    assert worth(idle=1) == 1
    assert worth(idle=8, free=5 * workers.BYTES_EACH) == 5
    assert worth(idle=8, free=10) == 1
    assert 0 < workers._free_bytes() < 2**50


def test_not_for_few_atoms_or_energies_alone(worth):
    assert worth(fewest=10**6) == 1
    assert worth(forces=False) == 1
    assert worth(where="none") == worth(where="local:4") == 1


def test_what_cannot_be_started_is_said_and_the_fit_goes_on_here(worth, monkeypatch, alloys, capsys):
    worth()

    connected = workers.connected

    def refuse(where):
        if where is not None:
            raise ClusterError(f"{where}: no")
        return connected(where)

    monkeypatch.setattr(workers, "connected", refuse)
    with workers.computing(None, KernelPotential(), as_structures(alloys[:6]), 2) as shards:
        assert shards is HERE
    assert "no processes could be started (local:2: no)" in capsys.readouterr().err


def test_a_dry_run_says_how_many_processes_the_fit_takes(said, monkeypatch):
    monkeypatch.setattr(workers, "FEWEST_ATOMS", 1)
    words = [*FIT, "--dry-run"]
    assert json.loads(said(*words, "--json")[1])["processes"] == 2
    assert "the fit takes 2 for features, derivatives" in said(*words)[1]
    assert json.loads(said(*words, "--json", "--cluster", "none")[1])["processes"] == 1


@pytest.mark.parametrize(("given", "asked"), [([], "local:2"), (["--cluster", "local:3"], "local:3")])
def test_a_fit_asks_for_the_processes_it_says(said, monkeypatch, given, asked):
    """None can be had: of its own accord the fit goes on alone, and for what was asked it does not."""
    seen, connected = [], workers.connected

    def refuse(where):
        if where is None:
            return connected(where)
        seen.append(where)
        raise ClusterError(f"{where} is not there")

    monkeypatch.setattr(workers, "FEWEST_ATOMS", 1)
    monkeypatch.setattr(workers, "connected", refuse)
    code, _, err = said(*FIT, "--length-scale", "20", "--prior", "backbone", "--no-cache", *given)
    assert (code, seen) == (len(given) // 2, [asked])
    assert f"{asked} is not there" in err


@pytest.mark.slow
def test_two_processes_by_default(worth, monkeypatch, alloys, capsys):
    worth()
    options = {"tangent_share": 0.0, "length_scale": 40.0, "prior": "backbone", "exact_forces": False}
    potential = KernelPotential(**options)
    with workers.computing(None, potential, as_structures(alloys[:6]), 2) as shards:
        assert potential.shards is shards
        assert shards.elsewhere
        potential.fit(alloys[:6])
    assert "shared out to 2 processes" in capsys.readouterr().err
    assert {one.stage for one in potential.fitted_.record.work} >= {"features", "derivatives"}
    with workers.computing("none", potential, as_structures(alloys[:6]), 2) as shards:
        assert shards is HERE
    expected = KernelPotential(**options).fit(alloys[:6]).predict(alloys[7])
    np.testing.assert_allclose(potential.predict(alloys[7]).forces, expected.forces, atol=1e-4)
