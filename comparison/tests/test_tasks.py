"""What each task plans, and what it reads off results."""

from dataclasses import replace

import numpy as np
import pytest

from mekrr.data import as_structures
from mekrr.errors import DataError
from mekrr.features import structure_hash
from mekrr.pages.words import MISSING
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import DataSet, Sizes
from mekrr_comparison.tables import Footnotes, error_table, flat_rows, grouped, spread
from mekrr_comparison.tasks import TASKS, Inputs
from mekrr_comparison.tasks.learning_curve import doubling
from mekrr_comparison.tasks.scaling import exponent, supercell
from mekrr_comparison.tasks.unseen_species import SEEN, UNSEEN


@pytest.fixture(scope="module")
def structures(alloys):
    return as_structures(alloys)


@pytest.fixture
def inputs(structures):
    return Inputs([DataSet("alloys", structures)], seeds=(0, 1), sizes=Sizes(train=20, test=8))


def result(cell, error=2.0, **record):
    tests = {name: {"energy_rmse_mev_per_atom": error + cell.seed} for name in cell.tests}
    found = {"status": "done", "tests": tests, "seconds": {"fit": 1.0, "predict": 0.5, "stages": {}},
             "peak_memory_mib": 900.0, "memory_at_start_mib": 500.0, "warnings": [], "chosen": {}}  # fmt: skip
    return Result(cell, f"key-{cell.seed}", found | record)


def hashes(structures):
    return {structure_hash(s.atoms) for s in structures}


def test_same_runs_every_method_on_equal_splits(inputs):
    marked = [replace(s, info={"part": t // 6}) for t, s in enumerate(inputs.sets[0].structures)]
    asked = replace(inputs, sets=[DataSet("alloys", marked)], methods=("linear", "gap"), group="part")
    cells, _ = TASKS["same"].plan(asked)
    assert [(c.labels["split"], c.method, c.seed) for c in cells] == [
        (split, method, seed) for split in ("random", "by part") for method in ("linear", "gap") for seed in (0, 1)
    ]
    assert hashes(cells[0].training) == hashes(cells[2].training)
    assert hashes(cells[0].training) != hashes(cells[1].training)


def test_transfer_takes_pairs_and_says_what_was_left_out(inputs, structures):
    sets = [DataSet("a", structures[:20]), DataSet("b", structures[16:])]
    asked = replace(inputs, sets=sets, methods=("linear",), sizes=Sizes())
    cells, notes = TASKS["transfer"].plan(asked)
    assert [(c.labels["trained on"], list(c.tests)) for c in cells[::2]] == [("a", ["b"]), ("b", ["a"])]
    assert "b: 4 structures that a has as well were not tested on" in notes
    assert len(TASKS["transfer"].plan(replace(asked, pairs=("1:b",)))[0]) == 2
    with pytest.raises(DataError, match="got 'ab'"):
        TASKS["transfer"].plan(replace(asked, pairs=("ab",)))
    with pytest.raises(DataError, match="needs two data sets"):
        TASKS["transfer"].plan(inputs)


def test_learning_curves_are_nested_and_share_their_test_set(inputs):
    cells, _ = TASKS["learning-curve"].plan(replace(inputs, methods=("linear",), train_sizes=(5, 10, 20)))
    first = [c for c in cells if c.seed == 0]
    seen = [hashes(c.training) | hashes(c.validation) for c in first]
    assert [len(s) for s in seen] == [5, 10, 20]
    assert seen[0] < seen[1] < seen[2]
    assert len({frozenset(hashes(c.tests["test"])) for c in first}) == 1


def test_unseen_species_keeps_the_element_out_of_training(inputs, structures):
    pure = [s for s in structures if len(set(s.species)) == 1]
    with pytest.raises(DataError, match="several compositions"):
        TASKS["unseen-species"].plan(
            replace(inputs, sets=[DataSet("pure", [s for s in structures if 29 in s.species and 79 in s.species])])
        )
    mixed = [*pure, *structures]
    copper = [replace(s, atoms=_all_copper(s.atoms), info={}) for s in mixed[:24]]
    asked = replace(inputs, sets=[DataSet("mixed", [*copper, *structures[24:]])])
    cells, _ = TASKS["unseen-species"].plan(asked)
    gold = [c for c in cells if c.labels["left out"] == "Au"]
    assert {c.labels["prior"] for c in gold if c.method == "mekrr"} == {"auto", "backbone"}
    for cell in gold:
        assert not any(79 in s.species for s in [*cell.training, *cell.validation, *cell.tests[SEEN]])
        assert all(79 in s.species for s in cell.tests[UNSEEN])
        assert not hashes(cell.training) & hashes(cell.tests[SEEN])


def _all_copper(atoms):
    copy = atoms.copy()
    copy.numbers[:] = 29
    return copy


def test_own_tasks_refuse_peers(inputs):
    pytest.importorskip("sevenn")
    for name in ("species-weight", "ablation", "sensitivity", "scaling"):
        cells, _ = TASKS[name].plan(inputs)
        assert {c.method for c in cells} <= {"mekrr", "mekrr-exact", "mekrr-sparse"}
        with pytest.raises(DataError, match="gap cannot take part"):
            TASKS[name].plan(replace(inputs, methods=("gap",)))


def test_ablation_changes_one_thing_at_a_time(inputs):
    pytest.importorskip("sevenn")
    cells, _ = TASKS["ablation"].plan(inputs)
    assert {c.labels["ingredient"] for c in cells} == {
        "everything", "features", "layers", "kernel", "embedding", "species weight", "prior"
    }  # fmt: skip
    untrained = [c for c in cells if c.options.get("untrained")]
    assert {c.labels["choice"] for c in untrained} == {"untrained"}
    user = replace(inputs, options={"mekrr-exact": {"kernel": "linear"}})
    assert all(c.options["kernel"] == "linear" for c in TASKS["ablation"].plan(user)[0])


def test_scaling_never_caches_and_tiles_labels(inputs, structures):
    pytest.importorskip("sevenn")
    cells, _ = TASKS["scaling"].plan(replace(inputs, cache="somewhere", train_sizes=(10, 20)))
    assert {c.cache for c in cells} == {None}
    assert {c.labels["axis"] for c in cells} == {"structures", "atoms a structure", "features"}
    one, double = structures[0], supercell(structures[0], (2, 1, 1))
    assert (len(double), double.energy) == (2 * len(one), 2 * one.energy)
    from ase.calculators.emt import EMT

    atoms = double.atoms.copy()
    atoms.calc = EMT()
    assert atoms.get_potential_energy() == pytest.approx(double.energy, abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), double.forces, atol=1e-6)


def test_exponents_are_those_of_power_laws():
    sizes = [10, 20, 40, 80]
    assert exponent(sizes, [3 * n**2.5 for n in sizes]) == pytest.approx(2.5)
    assert exponent([10, 20, 40, 80], [1, 1, 2**1, 2**2]) == pytest.approx(1.0, abs=0.1)
    assert exponent([5], [1]) is None


def test_sizes_double_up_to_the_data():
    assert doubling(400) == (25, 50, 100, 200, 400)
    assert doubling(300) == (25, 50, 100, 200, 300)
    assert doubling(12) == (12,)


def test_tables_have_mean_and_spread_over_seeds(inputs):
    cells, _ = TASKS["same"].plan(replace(inputs, methods=("linear", "backbone")))
    table = error_table([result(c) for c in cells], "Errors")
    assert table.title == "Errors, data alloys, split random"
    assert table.columns[:5] == ("method", "tested", "seeds", "E MAE", "E RMSE")
    size = str(len(next(iter(cells[0].tests.values()))))
    assert [row[:5] for row in table.rows] == [
        (method, size, "2", MISSING, "2.00, 3.00") for method in ("linear", "backbone")
    ]
    assert spread([1.0]) == "1.00"
    assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.0"


def test_failures_caps_and_refusals_stay_in_the_table(inputs):
    cells, _ = TASKS["same"].plan(replace(inputs, methods=("linear", "gap", "schnet"), seeds=(0,)))
    results = [
        result(cells[0], capped=True),
        Result(cells[1], "", {"status": "missing", "message": "not installed; run: pip install x"}),
        Result(cells[2], "k", {"status": "failed", "message": "ValueError: broken"}),
    ]
    table = error_table(results, "Errors")
    assert [row[-1] for row in table.rows] == ["capped [1]", "missing [2]", "failed [3]"]
    assert table.footnotes[1:] == ("[2] not installed; run: pip install x", "[3] ValueError: broken")
    assert [row["status"] for row in flat_rows(results)] == ["done", "missing", "failed"]


def test_who_rules_a_mean_square_is_named_below_the_table(inputs):
    cells, _ = TASKS["same"].plan(replace(inputs, methods=("linear",)))
    done = [result(cell) for cell in cells]
    ruled = {"energy": {"structures": ["a.xyz, index 7 (Cu)"], "share": 0.62}, "forces": {}}
    done[1].record["tests"]["test"]["ruled_by"] = ruled
    table = error_table(done, "Errors")
    assert table.rows[0][-1] == "ruled [1]"
    assert table.footnotes == ("[1] seed 1: 62% of the squares of energy come from a.xyz, index 7 (Cu)",)


def test_one_failed_seed_does_not_hide_the_others(inputs):
    cells, _ = TASKS["same"].plan(replace(inputs, methods=("linear",)))
    group = grouped([result(cells[0]), Result(cells[1], "k", {"status": "failed", "message": "m"})])[0]
    assert group.values("energy_rmse_mev_per_atom") == [2.0]
    assert Footnotes().mark(group) == "failed [1]"


@pytest.mark.parametrize("name", list(TASKS))
def test_a_run_in_which_nothing_worked_still_has_its_tables(name, inputs, structures):
    pytest.importorskip("sevenn")
    half = [replace(s, atoms=_all_copper(s.atoms)) for s in structures[:18]]
    asked = replace(inputs, sets=[DataSet("a", half), DataSet("b", structures[18:])], sizes=Sizes(train=12, test=3))
    cells, _ = TASKS[name].plan(replace(asked, train_sizes=(6, 12)))
    finding = TASKS[name].find([Result(c, "k", {"status": "failed", "message": "m"}) for c in cells])
    assert "failed [1]" in {word for table in finding.tables for row in table.rows for word in row}


def test_the_species_weight_says_what_the_choice_cost(inputs):
    cells, _ = TASKS["species-weight"].plan(replace(inputs, seeds=(0,)))
    weights = [0.3 if c.labels["species weight"] == "auto" else c.labels["species weight"] for c in cells]
    results = [
        result(c, 2 + abs(w - 0.5), chosen={"species_weight": w, "leave_one_out": {"rmse_mev_per_atom": 2.0}})
        for c, w in zip(cells, weights, strict=True)
    ]
    finding = TASKS["species-weight"].find(results)
    assert finding.sentences == [
        "mekrr-exact: leave-one-out chose 0.30, with 2.20 meV/atom on the test set; the best fixed weight there is "
        "0.5 with 2.00."
    ]
    assert len(finding.panels) == 1


def test_unseen_species_tells_warnings_from_silence(inputs, structures):
    copper = [replace(s, atoms=_all_copper(s.atoms)) for s in structures[:24]]
    asked = replace(inputs, sets=[DataSet("m", [*copper, *structures[24:]])], seeds=(0,))
    cells = [c for c in TASKS["unseen-species"].plan(asked)[0] if c.method == "mekrr" and c.labels["left out"] == "Au"]
    refused = result(cells[0])
    refused.record["tests"][UNSEEN] = {"refused": "Au: not in the training data"}
    warned = result(cells[1], warnings=["Au: not in the training data; ..."])
    warned.record["tests"][UNSEEN]["share_within_two_std"] = 0.5
    finding = TASKS["unseen-species"].find([refused, warned])
    said = [row[-1] for row in finding.tables[0].rows]
    assert said == ["", "refused [1]", "", "warned"]
    assert "Of 2 cases with a new element, mekrr refused 1 and warned in 1." in finding.sentences[0]
    assert "50% of the energies" in finding.sentences[0]
