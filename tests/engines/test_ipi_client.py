"""The socket protocol, against ASE's server and against servers that fail; i-PI itself is in test_ipi."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.socketio import SocketServer
from ase.units import Bohr, Hartree

from ipi_runs import answer, numerical_virial, provider_of
from mekrr import DataError
from mekrr.cli.app import run
from mekrr.engines import ipi_client
from mekrr.engines.ipi_client import Address
from support import copper_molecule

pytest.importorskip("sevenn")

HEADER = 12


@pytest.fixture
def address(tmp_path):
    """A path short enough for a socket."""
    return str(tmp_path / "s")


@contextmanager
def server(address, talk):
    """A server in a thread, which does `talk(connection)` with its first client and closes the connection."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(1)

    def serve():
        connection, _ = listening.accept()
        with connection:
            talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    yield thread
    thread.join(20)
    listening.close()
    assert not thread.is_alive()


def header(text):
    return text.ljust(HEADER).encode()


def receive(connection, n):
    found = b""
    while len(found) < n:
        part = connection.recv(n - len(found))
        assert part, "the client closed the connection"
        found += part
    return found


def closed(connection):
    """Whether the client closes the connection, in time."""
    connection.settimeout(ipi_client.PATIENCE + 1)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def batch_message(structures):
    """INIT, POSDATA and GETFORCE for a batch, as i-PI 3.3 sends them."""
    text = f" , batch_size:{len(structures)}".encode()
    cells = b"".join((a.cell.array.T / Bohr).tobytes() + np.zeros((3, 3)).tobytes() for a in structures)
    positions = b"".join((a.positions / Bohr).tobytes() for a in structures)
    init = header("INIT") + np.int32(0).tobytes() + np.int32(len(text)).tobytes() + text
    return init + header("POSDATA") + np.int32(len(structures[0])).tobytes() + cells + positions + header("GETFORCE")


def test_what_a_server_gets_is_what_the_calculator_finds(forces_potential, alloys, address):
    """ASE's server is a second implementation of the protocol; it asks twice, so that states are followed."""
    name = address.rpartition("/")[2] + str(time.monotonic_ns())
    atoms = alloys[30].copy()
    provider = provider_of(forces_potential, atoms)
    found = []

    def ask():
        with_server.protocol.end()

    with_server = SocketServer(unixsocket=name, timeout=30)

    def serve():
        found.append(with_server.calculate(atoms))
        moved = atoms.copy()
        moved.positions[0, 0] += 0.1
        found.append(with_server.calculate(moved))
        ask()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert answer(name, provider)
    finally:
        thread.join(20)
        with_server.close()
    moved = atoms.copy()
    moved.positions[0, 0] += 0.1
    expected = forces_potential.predict([atoms, moved], uncertainty=True)
    for f, e, a in zip(found, expected, (atoms, moved), strict=True):
        assert f["energy"] == pytest.approx(e.energy, abs=1e-6)
        np.testing.assert_allclose(f["forces"], e.forces, atol=1e-5)
        np.testing.assert_allclose(f["virial"], -e.stress * a.get_volume(), atol=1e-5)
        assert json.loads(bytes(f["morebytes"]))["energy_std"] == pytest.approx(e.energy_std, rel=1e-5)
    assert provider.n_evaluations == 2


def test_a_batch_is_answered_at_once_and_its_padding_is_not_evaluated(forces_potential, alloys, address):
    structures = [alloys[30].copy() for _ in range(4)]
    for k, atoms in enumerate(structures):
        atoms.positions[0] += 0.05 * min(k, 2)
    n = len(structures[0])
    found = {}

    def talk(connection):
        connection.sendall(batch_message(structures))
        assert receive(connection, HEADER) == header("FORCEREADY")
        found["energies"] = np.frombuffer(receive(connection, 8 * 4)) * Hartree
        assert np.frombuffer(receive(connection, 4), np.int32)[0] == n
        forces = np.frombuffer(receive(connection, 4 * 3 * n * 8)).reshape(4, n, 3)
        found["forces"] = forces * Hartree / Bohr
        found["virials"] = np.frombuffer(receive(connection, 4 * 72)).reshape(4, 3, 3) * Hartree
        lengths = []
        for _ in range(4):
            lengths.append(np.frombuffer(receive(connection, 4), np.int32)[0])
            json.loads(receive(connection, lengths[-1]))
        connection.sendall(header("STATUS"))
        assert receive(connection, HEADER) == header("READY")
        connection.sendall(header("EXIT"))

    provider = provider_of(forces_potential, structures[0])
    with server(address, talk):
        assert answer(address, provider)
    expected = forces_potential.predict(structures)
    np.testing.assert_allclose(found["energies"], [e.energy for e in expected], atol=1e-6)
    np.testing.assert_allclose(found["forces"], [e.forces for e in expected], atol=1e-5)
    np.testing.assert_allclose(
        found["virials"], [-e.stress * a.get_volume() for e, a in zip(expected, structures, strict=True)], atol=1e-5
    )
    assert provider.n_evaluations == 3


def test_the_virial_is_the_derivative_of_the_energy(forces_potential, alloys):
    atoms = alloys[31].copy()
    (found,) = provider_of(forces_potential, atoms)([atoms.cell.array.T / Bohr], [atoms.positions / Bohr])
    virial = found.virial * Hartree
    found = [virial[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(found, numerical_virial(forces_potential, atoms), atol=2e-3)


def test_a_molecule_folded_into_the_cell_is_whole_and_needs_vacuum(forces_potential):
    template = copper_molecule()
    provider = provider_of(forces_potential, template)
    boxed = template.copy()
    boxed.set_cell([14.0, 15.0, 16.0])
    boxed.pbc = True
    boxed.positions += [0.2, 14.9, 0.0]
    boxed.wrap()
    (found,) = provider([boxed.cell.array.T / Bohr], [boxed.positions / Bohr])
    (expected,) = forces_potential.predict([template])
    assert found.energy * Hartree == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(found.forces * Hartree / Bohr, expected.forces, atol=1e-5)
    with pytest.raises(DataError, match=r"not periodic along b, but the box of i-PI leaves a vacuum of .* longer box"):
        provider([np.diag([14.0, 8.0, 16.0]) / Bohr], [boxed.positions / Bohr])


def test_extras_are_there_whether_they_were_computed_or_not(forces_potential, alloys):
    """i-PI ends its run when it is asked to write one that is not."""
    atoms = alloys[30]
    request = [atoms.cell.array.T / Bohr], [atoms.positions / Bohr]
    (bare,) = provider_of(forces_potential, atoms, threshold="none")(*request)
    assert all(np.isnan(json.loads(bare.extras)[name]) for name in ("energy_std", "forces_std"))
    (full,) = provider_of(forces_potential, atoms, forces_std=True)(*request)
    (expected,) = forces_potential.predict([atoms], uncertainty=True, force_uncertainty=True)
    extras = json.loads(full.extras)
    assert extras["energy_std"] == pytest.approx(expected.energy_std, rel=1e-5)
    np.testing.assert_allclose(extras["forces_std"], expected.forces_std, rtol=1e-4)


@pytest.mark.parametrize("model", ["forces_potential", "exact_potential"])
def test_energies_alone_are_served_too(request, alloys, model):
    potential = request.getfixturevalue(model)
    atoms = alloys[30]
    (found,) = provider_of(potential, atoms)([atoms.cell.array.T / Bohr], [atoms.positions / Bohr])
    (expected,) = potential.predict([atoms])
    np.testing.assert_allclose(found.forces * Hartree / Bohr, expected.forces, atol=1e-5)
    assert json.loads(found.extras)["energy_std"] > 0


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (lambda c: None, "closed the connection without saying goodbye"),
        (lambda c: c.sendall(header("STATUS")[:5]), "closed the connection without saying goodbye"),
        (lambda c: (c.sendall(header("POSDATA") + b"1234"), closed(c)), "stopped within a message"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\n"), "no message of i-PI"),
        (lambda c: c.sendall(header("GETFORCE")), "before it sent a structure"),
        (lambda c: c.sendall(header("INIT") + np.array([0, -5], np.int32).tobytes()), "received -5 as a number"),
    ],
)  # fmt: skip
def test_a_server_that_fails_is_a_sentence_within_five_seconds(forces_potential, alloys, address, talk, message):
    provider = provider_of(forces_potential, alloys[30])
    started = time.monotonic()
    with server(address, talk), pytest.raises(ConnectionError, match=message):
        answer(address, provider)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a[:-1], "i-PI sent 3 atoms, the template has 4"),
        (lambda a: a.positions.fill(np.nan), "not finite"),
        (lambda a: a.positions.fill(0.0), "coincide|same place|overlap|apart"),
    ],
)
def test_structures_that_cannot_be_used_end_both_sides(forces_potential, alloys, address, spoil, message):
    atoms = alloys[30].copy()
    sent = atoms.copy()
    shorter = spoil(sent)
    sent = sent if shorter is None else shorter
    ended = []

    def talk(connection):
        connection.sendall(batch_message([sent, sent]))
        ended.append(closed(connection))

    with server(address, talk), pytest.raises((DataError, ValueError), match=message):
        answer(address, provider_of(forces_potential, atoms))
    assert ended == [True]


def test_a_refused_structure_is_read_to_its_end(forces_potential, alloys, address):
    """A reset connection would stop the thread of i-PI that talks to clients."""
    ended = []

    def talk(connection):
        n = 60_000
        connection.sendall(header("POSDATA") + bytes(144) + np.int32(n).tobytes() + bytes(24 * n) + header("GETFORCE"))
        ended.append(connection.recv(1))

    with server(address, talk), pytest.raises(DataError, match="i-PI sent 60000 atoms"):
        answer(address, provider_of(forces_potential, alloys[30]))
    assert ended == [b""]


def test_other_elements_are_refused_before_the_first_structure(forces_potential):
    with pytest.raises(DataError, match="No"):
        provider_of(forces_potential, bulk("No", "fcc", a=4.0))


def test_a_state_past_the_threshold_ends_the_connection_when_asked(forces_potential, alloys, address, tmp_path):
    atoms = alloys[30]
    ended = []

    def talk(connection):
        connection.sendall(batch_message([atoms, atoms]))
        ended.append(closed(connection))

    options = {"threshold": 1e-6, "on_threshold": "stop", "label_to": str(tmp_path / "label.extxyz")}
    provider = provider_of(forces_potential, atoms, **options)
    with server(address, talk):
        assert not answer(address, provider)
    assert (ended, provider.watch.stopped, provider.watch.n_written) == ([True], True, 1)


def test_nobody_listens(address):
    with pytest.raises(ConnectionError, match=f"no i-PI listens at {address}.*start i-PI first"):
        Address(address).connect()
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(address)
    left_over.close()
    with pytest.raises(ConnectionError, match="nobody listens, as after a killed i-PI: remove the file"):
        Address(address).connect()
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no i-PI listens at localhost:{port}"):
        Address(port=port).connect(wait=0.5)
    with pytest.raises(ConnectionError, match="no host 'nowhere"):
        Address(host="nowhere.invalid", port=port).connect()
    with pytest.raises(ConnectionError, match="too long"):
        Address("/tmp/" + 200 * "a").connect(wait=9.0)
    with pytest.raises(ValueError, match="port is a number"):
        Address(port=0)


def test_a_machine_that_dies_is_missed():
    with socket.create_server(("localhost", 0)) as listening:
        port = listening.getsockname()[1]
        with Address(port=port).connect() as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in ipi_client.KEEPALIVE.items():
                assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def test_a_server_that_comes_later_is_waited_for(address):
    timer = threading.Timer(0.6, lambda: made.append(socket.create_server(address, family=socket.AF_UNIX)))
    made = []
    timer.start()
    Address(address).connect(wait=10.0).close()
    timer.join()
    made[0].close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say where i-PI listens"),
        (["--unix", "a", "--port", "31415"], "say where i-PI listens"),
        (["--unix", "a", "--host", "b"], "--host belongs to --port"),
        (["--unix", ""], "name of the socket is empty"),
        (["--port", "99999"], "port is a number from 1 to 65535; received 99999"),
        (["--unix", "a", "--wait", "-1"], "--wait takes seconds"),
        (["--unix", "a", "--threads", "1000"], "threads must be from 1"),
        (["--unix", "a", "--index", "7"], "no structure at index"),
        (["--unix", "a", "--threshold", "-1"], "must be positive"),
        (["--unix", "a", "--label-every", "5"], "no effect without --label-to"),
        (["--unix", "a", "--label-to", "no/such/label.extxyz"], "no such folder"),
        (["--unix", "nobody-listens-here"], "no i-PI listens at /tmp/ipi_nobody-listens-here"),
    ],
)
def test_wrong_options_are_a_sentence(capsys, served_files, options, message):
    model, start = served_files["forces"], served_files["start"]
    code = run(["serve", str(model), str(start), *options])
    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert message in " ".join(captured.err.split())


@pytest.mark.parametrize(
    ("model", "start", "options", "message"),
    [
        ("mean", "start", [], "mean embedding"),
        ("forces", "unknown", [], "No"),
        ("start", "start", [], "not a whole safetensors file"),
        ("energies", "start", ["--force-uncertainty"], "trained without forces"),
    ],
)
def test_models_that_cannot_serve_end_both_sides(capsys, served_files, address, model, start, options, message):
    ended = []
    with server(address, lambda connection: ended.append(closed(connection))):
        code = run(["serve", str(served_files[model]), str(served_files[start]), "--unix", address, *options])
    err = " ".join(capsys.readouterr().err.split())
    assert (code, ended) == (1, [True])
    assert message in err
    assert "Traceback" not in err


def test_what_the_command_says(capsys, served_files, alloys, address):
    def talk(connection):
        connection.sendall(batch_message([alloys[30], alloys[30]]))
        receive(connection, HEADER + 16 + 4)
        connection.sendall(header("EXIT"))
        while connection.recv(4096):
            pass

    with server(address, talk):
        words = ["serve", str(served_files["forces"]), str(served_files["start"]), "--unix", address]
        assert run([*words, "--threshold", "1000", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["n_structures"], found["batch_size"], found["steps_past_threshold"]) == (1, 2, 0)
    assert found["max_deviation_mev_per_atom"] > 0
    assert "connected to i-PI" in captured.err
