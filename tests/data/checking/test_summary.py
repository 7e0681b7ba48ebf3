import io
import json

import numpy as np
from ase import Atoms
from rich.console import Console

from mekrr.cli.inspect import render_inspection
from mekrr.data import Structure, check, from_ase, inspect_report, summary, validate


def structures_of(frames):
    return [from_ase(atoms, source="a.xyz", index=i) for i, atoms in enumerate(frames)]


def test_counts(frames):
    result = summary(structures_of(frames))
    assert result.n_structures == 5
    assert result.n_atoms == sum(map(len, frames))
    assert result.elements == {"H": 6, "C": 2, "O": 3, "Cu": 9}
    assert result.periodicity == {"FFF": 4, "TTF": 1}
    assert result.labels == {"energy": 5, "forces": 5, "stress": 0, "weight": 0}
    assert result.label_keys["energy"] == {"calc:energy": 5}
    assert result.config_types == {"molecule": 4, "slab": 1}
    assert result.isolated_atoms == {"Cu": frames[3].get_potential_energy()}
    assert 0.9 < result.shortest_distances["H-O"] < 1.1


def test_report_is_json_and_survives_broken_structures(frames):
    structures = structures_of(frames)
    structures += [Structure(Atoms("H2", [[np.nan] * 3] * 2)), Structure(Atoms("O"), index=6)]
    report = inspect_report(structures)
    assert json.loads(json.dumps(report)) == report
    assert not report["ok"]
    assert [i["code"] for i in report["issues"]] == ["not-finite", "no-energy"]
    assert report["summary"]["n_structures"] == 7
    assert inspect_report(structures[:5])["ok"]
    assert not inspect_report([])["ok"]


def test_atoms_of_no_element_are_counted_apart():
    """Damaged binary files hold atomic numbers in the billions."""
    (issue,) = inspect_report([from_ase(Atoms([1, 2_000_000_000], [[0, 0, 0], [0, 0, 1]], info={"energy": -1.0}))])[
        "issues"
    ]
    assert (issue["code"], "index 0 (2 atoms, some of no element)" in issue["message"]) == ("no-element", True)


def test_rendering_shows_what_was_found(frames):
    structures = [*structures_of(frames), Structure(Atoms("O"), source="b[1].xyz")]
    stream = io.StringIO()
    render_inspection(inspect_report(structures), Console(file=stream, width=120))
    text = stream.getvalue()
    assert "energy: calc:energy (5)" in text
    assert "error no-energy b[1].xyz, index 0 (O): no energy; no other keys were found" in text
    assert "errors: 1, warnings: 0; correct the errors" in text
    render_inspection(inspect_report([]), Console(file=stream))


def test_what_validate_has_found_gives_the_same_summary(frames):
    """Unsound structures and repeated ones are not looked for twice."""
    broken = frames[0].copy()
    broken.positions[0, 0] = np.nan
    given = structures_of([*frames, frames[0], frames[1], broken])
    assert summary(given, validate(given)) == summary(given)
    assert summary(given).n_duplicates >= 2


def test_what_check_has_measured_gives_the_same_report(frames):
    """Distances are looked at once; the report is that of a look of its own."""
    broken = Structure(Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), energy=0.0)
    structures = [*map(from_ase, frames), broken]
    checked = check(structures)
    assert checked.issues == validate(structures)
    assert checked.shortest_distances
    assert inspect_report(structures, checked.issues, checked.shortest_distances) == inspect_report(structures)
