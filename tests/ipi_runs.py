"""i-PI as a process of its own, and a client of it in this one."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mekrr.engines import Evaluator, Watch, WatchOptions
from mekrr.engines.ipi import Provider
from mekrr.engines.ipi_client import Address, Client, Wire
from mekrr.potential import Wanted

PROGRAM = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or shutil.which("i-pi")
needs_ipi = pytest.mark.skipif(
    PROGRAM is None or find_spec("ipi") is None, reason="i-PI is not installed: pip install 'mekrr[ipi]'"
)
CLEAN_END = 5.0  # seconds in which both sides must have ended

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'>
      [ conserved{{electronvolt}}, potential{{electronvolt}}, virial_md{{ev/ang3}} ]
    </properties>
    <trajectory filename='pos' stride='1' format='ase'> positions{{ase}} </trajectory>
    <trajectory filename='for' stride='1' format='ase'> forces{{ase}} </trajectory>
    <trajectory filename='std' stride='1' extra_type='{extra}'> extras </trajectory>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>1</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase'> start.extxyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> <force forcefield='mekrr'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 1 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""
SOCKET = """<ffsocket name='mekrr' mode='{mode}' pbc='true'>
    {address} <exit_on_disconnect>True</exit_on_disconnect> <batch_size>{batch}</batch_size>
  </ffsocket>"""
DIRECT = """<ffdirect name='mekrr' threaded='{threaded}'>
    <pes>custom</pes> <pes_path>{path}</pes_path> <batch_size>{batch}</batch_size> <parameters>{parameters}</parameters>
  </ffdirect>"""


class Ipi:
    """A run of i-PI in a folder; `with` kills what is left of it."""

    def __init__(self, folder, atoms, forcefield, steps=1, beads=1, extra="energy_std", temperature=300):
        self.folder = folder
        ase.io.write(folder / "start.extxyz", atoms, columns=["symbols", "positions"], write_results=False)
        text = INPUT.format(steps=steps, beads=beads, extra=extra, forcefield=forcefield, temperature=temperature)
        (folder / "input.xml").write_text(text)
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "input.xml"], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def wait(self, seconds=CLEAN_END):
        """Its exit code; a failure when it does not end in time."""
        return self.process.wait(seconds)

    @property
    def log(self):
        return (self.folder / "log").read_text()

    def frames(self, what, bead=0):
        (path,) = self.folder.glob(f"run.{what}_*{bead}.extxyz")
        return ase.io.read(path, ":")

    @property
    def properties(self):
        return np.loadtxt(self.folder / "run.out", ndmin=2)

    @property
    def deviations(self):
        (path,) = self.folder.glob("run.std_*0")
        return [float(line) for line in path.read_text().splitlines() if not re.match(r"\s*#", line)]


def numerical_virial(potential, atoms, step=1e-3):
    """Minus the derivative of the energy with respect to strain, as i-PI writes it: xx, yy, zz, xy, xz, yz."""
    found = []
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(moved)
        above, below = (p.energy for p in potential.predict(strained, forces=False))
        found.append(-(above - below) / (2 * step))
    return np.array(found)


def provider_of(potential, template, forces_std=False, **options):
    watch = WatchOptions(**{"threshold": 1e6, **options})
    evaluator = Evaluator(potential, Wanted(energy_std=watch.deviations, forces_std=forces_std))
    return Provider(evaluator, template, Watch(watch, potential.fitted_.record))


def answer(address, provider, wait=30.0):
    """Answer what is asked there; whether it ended with a goodbye."""
    address = Address(address) if isinstance(address, str) else address
    with Wire(address.connect(wait)) as wire:
        return Client(wire, provider).run()
