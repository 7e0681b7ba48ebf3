"""Small VASP outputs as VASP would write them, for two ionic steps of a Cu dimer in a box."""

import numpy as np

CELL = np.diag([8.0, 8.0, 9.0])
POSITIONS = np.array([[[0, 0, 0], [0, 0, 2.2]], [[0, 0, 0.05], [0, 0, 2.25]]], dtype=float)
FORCES = np.array([[[0, 0, -0.5], [0, 0, 0.5]], [[0, 0, -0.25], [0, 0, 0.25]]])
FREE_ENERGIES, ENERGIES = [-1.50, -1.62], [-1.49, -1.60]
STRESS_KBAR = np.diag([1.0, 2.0, 3.0])


def _rows(matrix) -> str:
    return "\n".join(" ".join(f"{x:16.8f}" for x in row) for row in matrix)


def _vectors(matrix) -> str:
    return "\n".join("<v> " + " ".join(f"{x:.8f}" for x in row) + " </v>" for row in matrix)


def outcar() -> str:
    text = " vasp.6.4.2 20Jul23 complex\n POTCAR:    PAW_PBE Cu 22Jun2005\n POTCAR:    PAW_PBE Cu 22Jun2005\n"
    text += "   ISPIN  =      1    spin polarized calculation?\n   ions per type =               2\n"
    for step in range(2):
        rows = np.hstack([POSITIONS[step], FORCES[step]])
        text += f"""--------------------------------------- Iteration      {step + 1}(   1)  -------------
  in kB       1.00000     2.00000     3.00000     0.00000     0.00000     0.00000
      direct lattice vectors                 reciprocal lattice vectors
{_rows(np.hstack([CELL, np.linalg.inv(CELL)]))}

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
{_rows(rows)}
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        {FREE_ENERGIES[step]:.8f} eV

  energy  without entropy=       -1.45000000  energy(sigma->0) =       {ENERGIES[step]:.8f}

"""
    return text + " General timing and accounting informations for this job:\n"


def vasprun() -> str:
    steps = "".join(_calculation(step) for step in range(2))
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp</i></generator>
 <kpoints><varray name="kpointlist"><v> 0.0 0.0 0.0 </v></varray><varray name="weights"><v> 1.0 </v></varray></kpoints>
 <parameters></parameters>
 <atominfo><array name="atoms"><set><rc><c>Cu</c><c>1</c></rc><rc><c>Cu</c><c>1</c></rc></set></array></atominfo>
 <structure name="initialpos">{_structure(0)}</structure>
{steps}</modeling>
"""


def _structure(step: int) -> str:
    fractional = POSITIONS[step] @ np.linalg.inv(CELL)
    return f"""<crystal><varray name="basis">
{_vectors(CELL)}
</varray></crystal><varray name="positions">
{_vectors(fractional)}
</varray>"""


def _calculation(step: int) -> str:
    energies = f"""<energy><i name="e_fr_energy"> {FREE_ENERGIES[step]} </i>
<i name="e_wo_entrp"> -1.45 </i><i name="e_0_energy"> {ENERGIES[step]} </i></energy>"""
    return f"""<calculation><scstep>{energies}</scstep><structure>{_structure(step)}</structure>
<varray name="forces">
{_vectors(FORCES[step])}
</varray><varray name="stress">
{_vectors(STRESS_KBAR)}
</varray>{energies}</calculation>
"""
