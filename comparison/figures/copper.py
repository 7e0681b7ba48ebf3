"""Elastic constants, vacancy and lattice constant of copper: SevenNet-0 by itself, fitted to 58 structures, and DFT.

    python comparison/figures/copper.py [--exact-forces] [--model FILE] [--cache FOLDER] [--figure docs/copper.svg]
    python comparison/figures/copper.py --check

The set is mlearn's copper, published split. The 58 are every fourth frame of its training file without the surfaces:
dynamics, strained cells, vacancies.

C11 and C44 are second derivatives of the energy at the cell of 3.616 A that the set strains along an axis or shears, by
up to 10%, in a least-squares polynomial over all of these cells, training and test; the stress of that cell, which is
the slope, is taken off. The three columns are three sets of energies of the same cells under the same formula. Of C12,
vacancy and lattice constant the set has nothing that DFT could be read from: they are those of the two potentials.

Everything else is chosen by the fit, which stops at the probed forces unless --exact-forces is given. --model keeps it;
one that is there is used. --figure draws energies over strain. --check fits nothing:
it prints what the polynomial makes of shorter strains and of EMT, whose constants are known from its stress.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import FIRE
from ase.units import GPa
from scipy.optimize import minimize_scalar
from sevenn.calculator import SevenNetCalculator

import mekrr

SHEARED = 1e-3  # of a shear strain; what is below is one along an axis
VACANCY_FMAX = 0.01  # eV/Angstrom
ROW = "{:<34} {:>12} {:>12} {:>12}"


def chosen_from(structures):
    """The training structures: every fourth frame that is no surface."""
    return [s for s in structures if s.info["config_type"] != "Surface"][::4]


def side(structures):
    """Edge of the cell that was strained, Angstrom: the one without any strain."""
    lengths = [s.atoms.cell.lengths() for s in structures]
    shear = [np.abs(s.atoms.cell[:] - np.diag(np.diag(s.atoms.cell[:]))).max() for s in structures]
    cubic = [x.mean() for x, off in zip(lengths, shear, strict=True) if np.ptp(x) < SHEARED and off < SHEARED]
    return cubic[0]


def strains(structures, edge):
    """Strain along an axis and shear (the tangent of its angle), one of which is zero, shapes (structures,)."""
    along, shear = [], []
    for s in structures:
        metric = s.atoms.cell[:] @ s.atoms.cell[:].T / edge**2 - np.eye(3)  # twice the Lagrangian strain
        off = metric - np.diag(np.diag(metric))
        sheared = np.abs(off).max() > SHEARED
        stretch = np.sqrt(1 + np.diag(metric)) - 1
        along.append(0.0 if sheared else stretch[np.argmax(np.abs(stretch))])
        shear.append(np.abs(off).max() if sheared else 0.0)
    return np.array(along), np.array(shear)


def elastic(energies, along, shear, volume):
    """C11, C44 and the stress of the unstrained cell, GPa, from energies in eV of cells of one volume when unstrained.

    With Lagrangian strain n, E/V = s tr(n) + C11 n^2 / 2. A strain e along an axis has n = e + e^2/2, a simple shear g
    has n_13 = g/2 and n_33 = g^2/2: the second derivatives are C11 + s and C44 + s.
    """
    density = energies / volume / GPa
    stretched, sheared = shear == 0, along == 0
    powers = np.vander(along[stretched], 5, increasing=True)
    constant = np.linalg.lstsq(powers, density[stretched], rcond=None)[0]
    even = np.vander(shear[sheared] ** 2, 3, increasing=True)
    stress = constant[1]
    return 2 * constant[2] - stress, 2 * np.linalg.lstsq(even, density[sheared], rcond=None)[0][1] - stress, stress


def energies_of(structures, calculator):
    """Energies of the structures by a calculator, eV, shape (structures,)."""
    found = []
    for s in structures:
        atoms = s.atoms.copy()
        atoms.calc = calculator
        found.append(atoms.get_potential_energy())
    return np.array(found)


def cube(edge, calculator, repeat=1):
    """Fcc copper of a cubic cell with that edge in Angstrom, repeated."""
    atoms = bulk("Cu", cubic=True, a=edge).repeat(repeat)
    atoms.calc = calculator
    return atoms


def lattice_constant(calculator):
    """The edge of least energy, Angstrom."""
    return minimize_scalar(lambda a: cube(a, calculator).get_potential_energy(), bounds=(3.5, 3.75), method="bounded").x


def c12(edge, calculator, step=0.003):
    """C12 of a cubic cell, GPa: how the stress across answers to a strain along, less what the strain does to it."""

    def across(strain):
        atoms = cube(edge, calculator)
        atoms.set_cell(atoms.cell[:] @ np.diag([1 + strain, 1, 1]), scale_atoms=True)
        return atoms.get_stress()[1] * (1 + strain) / GPa

    return (across(step) - across(-step)) / (2 * step)


def vacancy(edge, calculator):
    """Energy to take one atom of 108 away, relaxed at fixed cell, eV."""
    perfect = cube(edge, calculator, 3)
    whole = perfect.get_potential_energy()
    left = perfect.copy()
    del left[0]
    left.calc = calculator
    FIRE(left, logfile=None).run(fmax=VACANCY_FMAX, steps=200)
    return left.get_potential_energy() - (len(left) / len(perfect)) * whole


def from_stress(edge, calculator, step=1e-3):
    """C11, C44 and stress of a cubic cell, GPa, from its second Piola-Kirchhoff stress."""

    def stress(strain):
        atoms = cube(edge, calculator)
        F = np.eye(3) + strain
        atoms.set_cell(atoms.cell[:] @ F, scale_atoms=True)
        inverse = np.linalg.inv(F)
        return np.linalg.det(F) * inverse @ atoms.get_stress(voigt=False) @ inverse.T / GPa

    along, shear = np.zeros((3, 3)), np.zeros((3, 3))
    along[0, 0], shear[1, 2], shear[2, 1] = step, step / 2, step / 2
    slopes = [(stress(strain) - stress(-strain)) / (2 * step) for strain in (along, shear)]
    return slopes[0][0, 0], slopes[1][1, 2], stress(0 * along)[0, 0]


def check(strained, along, shear, edge):
    """Print C11, C44 and stress of DFT by shorter strains, and of EMT in both ways."""
    dft, emt = np.array([s.energy for s in strained]), energies_of(strained, EMT())
    cases = [(f"DFT to {limit:.0%}", dft, limit) for limit in (0.10, 0.07, 0.05)] + [("EMT to 10%", emt, 0.10)]
    print(ROW.format("", "C11", "C44", "stress"))
    for name, energies, limit in cases:
        near = (np.abs(along) < limit + 1e-3) & (shear < limit + 1e-3)
        print(ROW.format(name, *(f"{x:.1f}" for x in elastic(energies[near], along[near], shear[near], edge**3))))
    print(ROW.format("EMT, from its stress", *(f"{x:.1f}" for x in from_stress(edge / 3, EMT()))))


def draw(path, along, shear, energies):
    """Energies over strain, meV/atom above the unstrained cell of the same method."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "mekrr"
    styles = {"DFT": ("o", "0.25"), "SevenNet-0": ("-", "#c0571f"), "mekrr": ("-", "#1f6fc0")}
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, strain, chosen, title in (
        (axes[0], along, shear == 0, "stretched along an axis"),
        (axes[1], shear, along == 0, "sheared"),
    ):
        order = np.flatnonzero(chosen)[np.argsort(strain[chosen])]
        at_rest = np.flatnonzero((along == 0) & (shear == 0))[0]
        for name, (kind, colour) in styles.items():
            y = 1000 * (energies[name][order] - energies[name][at_rest]) / 108
            axis.plot(100 * strain[order], y, kind, color=colour, markersize=3.5, linewidth=1.6, label=name)
        axis.set(title=title, xlabel="strain, %")
    axes[0].set_ylabel("energy, meV/atom")
    axes[1].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def potential(given, train):
    """The potential of the model file where there is one, else fitted, and what it took."""
    if given.model is not None and given.model.exists():
        return mekrr.KernelPotential.load(given.model), "done before"
    began, computed = time.perf_counter(), time.process_time()
    found = mekrr.KernelPotential("sevennet-0", cache=given.cache, exact_forces=given.exact_forces).fit(train)
    took = f"{time.perf_counter() - began:.0f} s, {time.process_time() - computed:.0f} s of computing time"
    if given.model is not None:
        found.save(given.model)
    return found, took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--exact-forces", action="store_true", help="all force components, not probes of them")
    parser.add_argument("--model", type=Path, help="model file: used where it exists, else written")
    parser.add_argument("--cache", type=Path, help="folder of features")
    parser.add_argument("--check", action="store_true", help="the polynomial on shorter strains and on EMT, no fit")
    parser.add_argument("--figure", type=Path, help="SVG of energies over strain")
    given = parser.parse_args()
    train, test = (mekrr.read_structures(given.data / f"mlearn_cu/{part}.extxyz.gz") for part in ("training", "test"))
    strained = [s for s in (*train, *test) if s.info["config_type"] == "Elastic"]
    edge = side(strained)
    along, shear = strains(strained, edge)
    if given.check:
        check(strained, along, shear, edge)
        return
    chosen = chosen_from(train)
    fitted, took = potential(given, chosen)
    kinds = [s.info["config_type"] for s in chosen]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(f"{len(chosen)} structures: {counts}; fit: {took}", flush=True)

    errors = mekrr.evaluate(fitted, test).metrics()
    calculators = {"SevenNet-0": SevenNetCalculator("7net-0", device="cpu"), "mekrr": mekrr.Calculator(fitted)}
    energies = {name: energies_of(strained, calc) for name, calc in calculators.items()}
    energies["DFT"] = np.array([s.energy for s in strained])

    columns = ("SevenNet-0", "mekrr", "DFT")
    print(f"{len(strained)} strained cells, unstrained edge {edge / 3:.4f} A\n" + ROW.format("", *columns))
    constants = [elastic(energies[name], along, shear, edge**3) for name in columns]
    for k, label in enumerate(("C11, GPa", "C44, GPa", "stress of the unstrained cell, GPa")):
        print(ROW.format(label, *(f"{c[k]:.1f}" for c in constants)))
    edges = {name: lattice_constant(calc) for name, calc in calculators.items()}
    rows = {
        "C12, GPa": [f"{c12(edge / 3, calc):.1f}" for calc in calculators.values()],
        "lattice constant, A": [f"{a:.3f}" for a in edges.values()],
        "vacancy, eV": [f"{vacancy(edges[name], calc):.2f}" for name, calc in calculators.items()],
    }
    for label, values in rows.items():
        print(ROW.format(label, *values, "-"))
    for what, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_angstrom")):
        pair = (errors[f"{own}{what}_rmse_{unit}"] for own in ("backbone_", ""))
        print(ROW.format(f"{what}, RMSE, {unit}".replace("_", " "), *(f"{x:.2f}" for x in pair), "-"))
    if given.figure is not None:
        draw(given.figure, along, shear, energies)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
