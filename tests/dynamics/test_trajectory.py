import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import ExternalForce

from mekrr.dynamics import Trajectory, continue_from, draw_velocities, require_same_energy
from mekrr.errors import DataError
from support import labelled


def frames(n):
    for step in range(n):
        atoms = labelled(bulk("Cu", cubic=True))
        draw_velocities(atoms, 300, seed=step)
        atoms.info |= {"step": step, "time_fs": 0.5 * step}
        yield atoms


@pytest.fixture
def written(tmp_path):
    trajectory = Trajectory(tmp_path / "run.extxyz")
    for atoms in frames(3):
        trajectory.append(atoms)
    return trajectory


def test_frames_are_read_back(written):
    found = ase.io.read(written.path, ":")
    assert [a.info["step"] for a in found] == [0, 1, 2]
    last, cut = written.recover()
    assert cut == 0
    np.testing.assert_array_equal(last.get_momenta(), found[-1].get_momenta())
    assert last.get_potential_energy() == found[-1].get_potential_energy()


def test_one_run_at_a_time(written):
    other = Trajectory(written.path)
    written.hold()
    written.hold()
    with pytest.raises(DataError, match="another run is writing to it"):
        other.hold()
    written.release()
    other.hold()
    with pytest.raises(DataError, match="another run"):
        written.hold()


def test_half_a_frame_is_cut_off_wherever_it_ends(written):
    whole = written.path.read_bytes()
    begin = len(b"".join(whole.splitlines(keepends=True)[:12]))
    for end in range(begin, len(whole)):
        written.path.write_bytes(whole[:end])
        last, cut = written.recover()
        assert (last.info["step"], cut) == (1, end - begin)
        assert written.path.read_bytes() == whole[:begin]


def test_a_file_without_a_whole_frame_starts_anew(tmp_path):
    trajectory = Trajectory(tmp_path / "run.extxyz")
    assert trajectory.recover() == (None, 0)
    trajectory.path.write_text("4\nLattice=")
    assert trajectory.recover() == (None, len("4\nLattice="))
    assert trajectory.path.read_bytes() == b""


def test_a_failed_write_leaves_the_whole_frames(written, monkeypatch):
    before = written.path.read_bytes()

    def half(file, data):
        file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mekrr.dynamics.trajectory._write_all", half)
    with pytest.raises(OSError, match=r"No space left.*run\.extxyz"):
        written.append(next(frames(1)))
    assert written.path.read_bytes() == before


@pytest.mark.parametrize("text", ["not a trajectory\n", "4\n\nCu 0 0 0\nCu 0 0 0\nCu 0 0 0\nCu 0 0 0\nmore\n"])
def test_other_files_are_refused_and_left_alone(tmp_path, text):
    trajectory = Trajectory(tmp_path / "run.xyz")
    trajectory.path.write_text(text)
    with pytest.raises(DataError, match="expected a number of atoms"):
        trajectory.recover()
    assert trajectory.path.read_text() == text


def test_names_of_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="extended XYZ"):
        Trajectory(tmp_path / "run.traj")


def test_frames_that_are_no_continuation_are_refused(written):
    last, _ = written.recover()
    with pytest.raises(DataError, match="START is Cu32"):
        continue_from(bulk("Cu", cubic=True).repeat(2), last, written.path)
    with pytest.raises(DataError, match="another model"):
        require_same_energy(last, last.get_potential_energy() + 0.01, written.path)
    del last.info["time_fs"]
    with pytest.raises(DataError, match="has no time_fs"):
        continue_from(bulk("Cu", cubic=True), last, written.path)


def test_the_energy_of_a_constraint_is_not_the_models(written):
    """Frames hold the model's own energy; a force from outside, or a spring, adds another."""
    frame, _ = written.recover()
    atoms = labelled(bulk("Cu", cubic=True))
    atoms.set_constraint(ExternalForce(0, 1, 0.1))
    assert atoms.get_potential_energy() != atoms.get_potential_energy(apply_constraint=False)
    require_same_energy(atoms, frame.get_potential_energy(), written.path)
