"""When a fit is shared out to processes without being asked to."""

import numpy as np
import pytest

from mekrr import KernelPotential
from mekrr.cli import workers
from mekrr.data import as_structures
from mekrr.errors import ClusterError
from mekrr.shards import HERE


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
