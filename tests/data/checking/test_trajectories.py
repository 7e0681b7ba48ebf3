import numpy as np
from ase import Atoms

from mekrr.data import Structure
from mekrr.data.checking.trajectories import consecutive_steps

STIFFNESS = 5.0  # eV/Angstrom^2


def dimer(bond: float, index: int, shift: float = 0.0, source: str = "a.traj") -> Structure:
    """Two atoms on a spring of length 1 that is exactly harmonic, near the face of a periodic cell."""
    atoms = Atoms("H2", [[0, 0, shift], [0, 0, bond + shift]], cell=[9, 9, 9], pbc=True)
    atoms.wrap()
    pull = STIFFNESS * (bond - 1.0)
    forces = np.array([[0, 0, pull], [0, 0, -pull]])
    return Structure(atoms, 0.5 * STIFFNESS * (bond - 1.0) ** 2, forces, source=source, index=index)


def test_work_equals_change_for_a_spring_across_the_cell_boundary():
    frames = [dimer(1.0 + 0.1 * i, i, shift=-0.5 + 0.05 * i) for i in range(12)]
    steps = consecutive_steps(frames, range(12))
    np.testing.assert_allclose(steps.change, steps.work, atol=1e-12)
    assert steps.ratio() == np.float64(steps.change[-1] / steps.work[-1])
    assert len(steps.jumps()) == 0


def test_only_small_steps_of_one_file_count():
    frames = [
        dimer(1.1, 0),
        dimer(1.2, 1),
        dimer(1.3, 3),
        dimer(1.4, 4, source="b.traj"),
        dimer(2.4, 5, source="b.traj"),
    ]
    assert consecutive_steps(frames, range(5)).first.tolist() == [0]
    assert consecutive_steps(frames, []).ratio() is None


def test_slack_bounds_the_trapezoidal_rule():
    frames = [dimer(1.0 + 0.1 * i, i) for i in range(6)]
    steps = consecutive_steps(frames, range(6))
    assert (np.abs(steps.change - steps.work) <= steps.slack).all()
