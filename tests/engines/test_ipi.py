"""Runs of i-PI itself, over its socket and with the force field inside it; processes are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from ipi_runs import CLEAN_END, DIRECT, SOCKET, Ipi, answer, needs_ipi, numerical_virial, provider_of
from mekrr.engines import ipi_client
from support import copper_molecule

pytest.importorskip("sevenn")
pytestmark = needs_ipi


@pytest.fixture
def name(tmp_path):
    """Of a socket of this test alone; a killed i-PI leaves it behind."""
    name = f"mekrr-test-{os.getpid()}-{tmp_path.name}"
    yield name
    ipi_client.Address(name).path.unlink(missing_ok=True)


def socket_of(name, batch=1):
    return SOCKET.format(mode="unix", address=f"<address>{name}</address>", batch=batch)


def network_of(port):
    return SOCKET.format(mode="inet", address=f"<address>localhost</address> <port>{port}</port>", batch=1)


def free_port():
    with socket.create_server(("localhost", 0)) as listening:
        return listening.getsockname()[1]


def direct(model, start, batch=1, threaded=False, **more):
    path = subprocess.run(
        [sys.executable, "-m", "mekrr.engines.ipi_driver"], capture_output=True, text=True, check=True
    ).stdout.strip()
    words = {"model": model, "template": start, **more}
    parameters = "{" + ", ".join(f"{key}: {value}" for key, value in words.items()) + "}"
    return DIRECT.format(path=path, batch=batch, parameters=parameters, threaded=threaded)


def boxed(atoms):
    """The same in a cell, some of it beyond the cell's border."""
    atoms = atoms.copy()
    atoms.set_cell([14.0, 15.0, 16.0])
    atoms.pbc = True
    atoms.positions[:, 1] -= atoms.positions[:, 1].mean()
    return atoms


@pytest.mark.parametrize("kind", ["periodic", "triclinic", "molecule"])
def test_forces_and_virial_of_a_run(forces_potential, alloys, tmp_path, name, kind):
    """Positions of the last step, which i-PI wrote with what it was told for them, are evaluated again here."""
    periodic = bulk("Cu", cubic=True, a=3.8)
    periodic.rattle(0.05, seed=3)
    start = {"periodic": periodic, "triclinic": alloys[31].copy(), "molecule": boxed(copper_molecule())}[kind]
    template = copper_molecule() if kind == "molecule" else start
    provider = provider_of(forces_potential, template)
    port = free_port()
    forcefield = network_of(port) if kind == "periodic" else socket_of(name)
    with Ipi(tmp_path, start, forcefield, steps=2) as ipi:
        assert answer(ipi_client.Address(port=port) if kind == "periodic" else name, provider)
        assert ipi.wait() == 0, ipi.log
    (*_, last), (*_, forces) = ipi.frames("pos"), ipi.frames("for")
    last.set_cell(ipi.frames("pos")[0].cell)
    (expected,) = forces_potential.predict([last], uncertainty=True)
    np.testing.assert_allclose(forces.get_forces(), expected.forces, atol=1e-4)
    assert ipi.properties[-1, 1] == pytest.approx(expected.energy, abs=1e-4)
    assert ipi.deviations[-1] == pytest.approx(expected.energy_std, rel=1e-4)
    virial = numerical_virial(forces_potential, last)
    np.testing.assert_allclose(ipi.properties[-1, 2:] * last.get_volume(), virial, atol=3e-3)


@pytest.mark.slow
def test_beads_in_one_batch_over_the_socket_and_inside_ipi(forces_potential, alloys, tmp_path, name, served_files):
    """Four beads one by one, in batches of three (the second one filled up), and by the driver: the same run."""
    start = alloys[30]
    found = []
    # All beads start from one structure, which is evaluated once a batch.
    for label, forcefield, evaluated in (
        ("single", socket_of(name), 12),
        ("batched", socket_of(name, batch=3), 10),
        ("direct", direct(served_files["forces"], served_files["start"], batch=4), 9),
    ):
        folder = tmp_path / label
        folder.mkdir()
        with Ipi(folder, start, forcefield, steps=2, beads=4) as ipi:
            if label != "direct":
                provider = provider_of(forces_potential, start)
                assert answer(name, provider)
                assert provider.n_evaluations == evaluated
            assert ipi.wait(120) == 0, ipi.log
        found.append((ipi.properties, [ipi.frames("for", bead)[-1].get_forces() for bead in range(4)]))
    assert "9 structures evaluated" in ipi.log
    for properties, forces in found[1:]:
        np.testing.assert_allclose(properties, found[0][0], atol=1e-5)
        np.testing.assert_allclose(forces, found[0][1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["forces_potential", "exact_potential"])
def test_two_hundred_femtoseconds_at_constant_energy(request, alloys, tmp_path, name, model):
    start = bulk("Cu", cubic=True, a=3.7)
    potential = request.getfixturevalue(model)
    with Ipi(tmp_path, start, socket_of(name), steps=200, temperature=600) as ipi:
        assert answer(name, provider_of(potential, start))
        assert ipi.wait() == 0
    conserved, energy = ipi.properties[:, 0], ipi.properties[:, 1]
    assert len(conserved) == 201
    assert np.ptp(conserved) < 0.02 * np.ptp(energy)


def test_a_killed_ipi_is_noticed(forces_potential, alloys, tmp_path, name):
    provider = provider_of(forces_potential, alloys[30])
    with Ipi(tmp_path, alloys[30], socket_of(name), steps=100000) as ipi:
        killed = []
        see = provider.watch.see

        def killing(atoms, found, step):
            if step == 10:
                ipi.process.send_signal(signal.SIGKILL)
                killed.append(time.monotonic())
            return see(atoms, found, step)

        provider.watch.see = killing
        with pytest.raises(ConnectionError, match="without saying goodbye"):
            answer(name, provider)
        assert time.monotonic() - killed[0] < CLEAN_END
    assert ipi_client.Address(name).path.exists()


def serving(files, name, *options, model="forces", start="start"):
    program = [sys.executable, "-c", "from mekrr.cli import main; main()"]
    words = ["serve", str(files[model]), str(files[start]), "--unix", name, "--wait", "60", *options]
    return subprocess.Popen([*program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_client_ends_ipi(alloys, tmp_path, name, served_files):
    """Killed with something unread, a client is reset, at which i-PI 3.3 hangs: it has time to read all."""
    with Ipi(tmp_path, alloys[30], socket_of(name), steps=100000) as ipi:
        client = serving(served_files, name)
        until = time.monotonic() + 120
        while not (tmp_path / "run.out").exists() or len((tmp_path / "run.out").read_text().splitlines()) < 5:
            assert client.poll() is None, client.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        ipi.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        client.send_signal(signal.SIGKILL)
        client.communicate()
        ipi.process.send_signal(signal.SIGCONT)
        ipi.wait(30)
    assert "Client shutdown" in ipi.log
    assert (tmp_path / "RESTART").exists()


def test_the_threshold_ends_both_sides(alloys, tmp_path, name, served_files):
    with Ipi(tmp_path, alloys[30], socket_of(name), steps=100000) as ipi:
        client = serving(served_files, name, "--threshold", "1e-6", "--on-threshold", "stop", "--json")
        out, err = client.communicate(timeout=120)
        ipi.wait()
    assert client.returncode == 3, err
    assert (json.loads(out)["stopped_at_threshold"], json.loads(out)["n_structures"]) == (True, 1)
    assert "Client shutdown" in ipi.log


def test_another_number_of_atoms_ends_both_sides(forces_potential, alloys, tmp_path, name):
    template = alloys[31].copy()
    with Ipi(tmp_path, alloys[30], socket_of(name)) as ipi:
        with pytest.raises(Exception, match="i-PI sent 4 atoms, the template has 8"):
            answer(name, provider_of(forces_potential, template))
        ipi.wait()
    assert "Client shutdown" in ipi.log


def test_an_extra_that_nobody_sends_ends_both_sides(forces_potential, alloys, tmp_path, name):
    with Ipi(tmp_path, alloys[30], socket_of(name), extra="dipole") as ipi:
        with pytest.raises(ConnectionError, match="without saying goodbye"):
            answer(name, provider_of(forces_potential, alloys[30]))
        assert ipi.wait() != 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "mean"}, "mean embedding"),
        ({"template": "unknown"}, "No: "),
        ({"model": ""}, "model is missing"),
        ({"colour": "blue"}, "colour: no parameter of mekrr's; those are threshold"),
        ({"threads": 1000}, "threads must be from 1"),
        ({"threads": "many"}, "threads: 'many' is not a whole number"),
        ({"forces_std": "yes"}, "forces_std: 'yes' is not True or False"),
        ({"threshold": "much"}, "takes a number"),
        ({"threshold": -1}, "must be positive"),
        ({"model": "energies", "forces_std": True}, "trained without forces"),
    ],
)
def test_parameters_that_cannot_be_used(served_files, given, message):
    from mekrr.engines.ipi_driver import MekrrDriver

    words = {"model": "forces", "template": "start", **given}
    words |= {key: str(served_files[words[key]]) if words[key] else "" for key in ("model", "template")}
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        MekrrDriver(**words, verbosity=2)


def test_an_ipi_that_is_too_old_is_a_sentence():
    from mekrr.engines.ipi_driver import require_version

    require_version("3.10.1")
    with pytest.raises(SystemExit, match=r"needs i-PI 3\.3 or later, here is 3\.2\.9: pip install"):
        require_version("3.2.9")


@pytest.mark.slow
def test_parameters_that_cannot_be_used_end_ipi_with_a_sentence(alloys, tmp_path, served_files):
    with Ipi(tmp_path, alloys[30], direct(served_files["mean"], served_files["start"])) as ipi:
        assert ipi.wait(120) == 1
    assert "error: this potential was fitted with the mean embedding" in ipi.log
    assert "Traceback" not in ipi.log


@pytest.mark.slow
@pytest.mark.parametrize("threaded", [False, True])
def test_what_goes_wrong_inside_ipi_ends_it(alloys, tmp_path, served_files, threaded):
    folder = tmp_path / "other"
    folder.mkdir()
    with Ipi(folder, alloys[31], direct(served_files["forces"], served_files["start"], threaded=threaded)) as ipi:
        code = ipi.wait(120)
    assert "i-PI sent 8 atoms, the template has 4" in ipi.log
    assert "Traceback" not in ipi.log
    assert code == (0 if threaded else 1)


@pytest.mark.slow
def test_the_threshold_ends_ipi_from_inside(alloys, tmp_path, served_files):
    label = tmp_path / "label.extxyz"
    watched = {"threshold": 1e-6, "on_threshold": "stop", "label_to": label}
    with Ipi(tmp_path, alloys[30], direct(served_files["energies"], served_files["start"], **watched)) as ipi:
        assert ipi.wait(120) == 3
    assert "passed the threshold" in ipi.log
    assert "wrote 1 structures to label" in ipi.log
    assert len(ase.io.read(label, ":")) == 1
