"""What the page says, without a browser."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from slabs import HOSTILE, slab

from mekrr.evaluation import Evaluation
from mekrr.pages.figures import plain
from mekrr.pages.report import write_report
from mekrr.pages.report.distributions import error_panels
from mekrr.pages.report.models import worst_panels
from mekrr.pages.report.page import no_better, render, warnings_of
from mekrr.pages.report.parity import ForceComponents, energy_parity, force_by_element
from mekrr.pages.words import number
from mekrr.shards import Work


@pytest.fixture(scope="module")
def page(example) -> str:
    return without_plotly(render(example.fitted, example.evaluation, f"Title {HOSTILE}"))


def without_plotly(html: str) -> str:
    """The page without the library, which holds every string one could look for."""
    start = max(re.finditer(r"<script>", html), key=lambda m: html.find("</script>", m.start()) - m.start()).start()
    return html[:start] + html[html.index("</script>", start) :]


def changed(evaluation: Evaluation, structure=None, prediction=None, **fields) -> Evaluation:
    """The evaluation with fields of every structure and prediction replaced."""
    return replace(
        evaluation,
        structures=[replace(s, **(structure or {})) for s in evaluation.structures],
        predictions=[replace(p, **(prediction or {})) for p in evaluation.predictions],
        **fields,
    )


def test_text_of_strangers_is_escaped(page):
    assert "<script>window.pwned" not in page
    assert "<b>bold</b>" not in page
    assert page.count("&lt;script&gt;window.pwned") >= 3


def test_hostile_file_names_cannot_leave_the_figures(example):
    html = render(example.fitted, changed(example.evaluation, structure={"source": HOSTILE}), "t")
    assert "<script>window.pwned" not in html
    assert "&lt;script&gt;window.pwned" in html


def test_nothing_is_loaded_from_outside(page):
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.findall(r"@import|url\(", page)


def test_plotly_is_there_once(example):
    html = render(example.fitted, example.evaluation, "t")
    assert html.count("plotly.js v") == 1
    assert len(html) < 8e6


def test_headline_numbers(example, page):
    metrics = example.evaluation.metrics()
    for key in (
        "energy_rmse_mev_per_atom",
        "backbone_energy_mae_mev_per_atom",
        "composition_energy_rmse_mev_per_atom",
        "forces_mae_mev_per_angstrom",
        "zero_forces_rmse_mev_per_angstrom",
    ):
        assert f">{number(metrics[key])}</td>" in page


def test_provenance(example, page):
    record = example.fitted.record
    for text in (
        record.backbone.identity,
        record.data.sha256,
        record.versions["torch"],
        record.backbone.licence,
    ):
        assert text in page


def test_without_forces(example):
    evaluation = changed(example.evaluation, {"forces": None}, {"forces": None, "backbone_forces": None})
    html = without_plotly(render(example.fitted, evaluation, "t"))
    assert "no DFT forces" in html
    assert "Force RMSE, meV" not in html
    assert "force-density" not in html


def test_without_deviations(example):
    html = without_plotly(render(example.fitted, changed(example.evaluation, prediction={"energy_std": None}), "t"))
    assert "carry no deviations" in html
    assert "Predicted deviation<small>" not in html


def test_backbone_without_energy(example):
    evaluation = changed(
        example.evaluation, prediction={"backbone_energy": None, "backbone_forces": None}, backbone_energies=None
    )
    html = without_plotly(render(replace(example.fitted, baseline=None), evaluation, "t"))
    assert "has no energy of its own" in html
    assert "energy-parity-backbone" not in html


def test_energies_that_compositions_leave_open_are_said_to_be(example):
    fitted = replace(example.fitted, prior=replace(example.fitted.prior, undetermined=[[1.0, 0.0, 0.0]]))
    html = without_plotly(render(fitted, example.evaluation, "t"))
    assert "do not determine them one by one" in html
    assert "its composition lies outside those of the training data" in html


def test_one_structure(example):
    html = render(example.fitted, example.evaluation.part([0]), "t")
    assert "On 1 evaluated structure the" in html


def test_no_structure_is_refused(example):
    with pytest.raises(ValueError, match="0 structures were evaluated; give at least one"):
        render(example.fitted, example.evaluation.part([]), "t")


def test_warnings_of_the_fit_are_shown(example):
    record = replace(example.fitted.record, warnings=(f"careful with {HOSTILE}",))
    html = without_plotly(render(replace(example.fitted, record=record), example.evaluation, "t"))
    assert "Before you trust the numbers" in html
    assert "Careful with &lt;script&gt;" in html


def test_training_structures_are_recognised(example):
    training = [slab(i, "elsewhere.extxyz") for i in range(12)]
    evaluation = replace(
        example.evaluation,
        structures=training,
        predictions=(example.evaluation.predictions * 2)[:12],
        backbone_energies=None,
        composition_energies=np.zeros(12),
    )
    assert "All of these structures are training structures" in warnings_of(example.fitted, evaluation)[0]
    assert not any("training structures" in text for text in warnings_of(example.fitted, example.evaluation))


def test_every_warning_that_was_shown_is_on_the_page_once(example):
    said = "data/test.extxyz, index 3: energies only"
    html = without_plotly(render(example.fitted, example.evaluation, "t", [said, said, *example.evaluation.remarks]))
    assert html.count(said) == 1
    assert f"<li>{said}." in html  # a path keeps its letters
    for remark in example.evaluation.remarks:
        assert html.count(remark[1:40]) == 1


def test_a_potential_worse_than_its_backbone_says_so_first(example):
    worse = replace(example.evaluation, backbone_energies=example.evaluation.energies + 1e-6)
    html = without_plotly(render(example.fitted, worse, "t"))
    assert html.index("WORSE in energies") < html.index("An interatomic potential for")
    assert 'class="verdict worse"' in html


def test_the_worst_structures_are_drawn_with_their_errors(example):
    drawn = worst_panels(example.evaluation)
    errors = np.abs(example.evaluation.energy_errors)
    first = int(errors.argmax())
    assert drawn[0].name == f"worst-{first}"
    figure = json.loads(drawn[0].spec)
    structure, prediction = example.evaluation.structures[first], example.evaluation.predictions[first]
    lengths = 1000 * np.linalg.norm(prediction.forces - structure.forces, axis=1)
    assert figure["data"][0]["customdata"][0].endswith(f"{lengths[0]:.3g} meV/Å")
    assert len(figure["data"][0]["customdata"]) == len(structure)


def test_parity_is_square_and_coloured_by_group(example):
    figure = json.loads(energy_parity(example.evaluation)[0].spec)
    names = [trace["name"] for trace in figure["data"] if trace.get("showlegend")]
    assert names == [plain(HOSTILE), "plain"]
    assert figure["layout"]["yaxis"]["scaleanchor"] == "x"
    alike = json.loads(energy_parity(replace(example.evaluation, by=None))[0].spec)
    assert len(alike["data"]) == 2


def test_each_histogram_has_bins_of_its_own(example):
    errors = {"this potential": np.linspace(-1, 1, 50), "backbone": np.linspace(-90, 90, 50)}
    own, other, _ = (json.loads(panel.spec) for panel in error_panels("energy", "Energy", "meV/atom", errors))
    assert own["layout"]["xaxis"]["range"][1] < 2 < 80 < other["layout"]["xaxis"]["range"][1]
    shares = np.frombuffer(base64.b64decode(own["data"][0]["y"]["bdata"]), own["data"][0]["y"]["dtype"])
    assert shares.sum() == pytest.approx(1.0)
    assert shares.max() < 0.3


def test_a_backbone_that_does_better_is_named(example):
    metrics = example.evaluation.metrics()
    better = metrics | {"backbone_energy_rmse_mev_per_atom": 0.0, "backbone_forces_rmse_mev_per_angstrom": None}
    assert any("In energies, the backbone with shifts" in text for text in no_better(better))


def test_forces_are_thinned_alike_every_time(example):
    forces = ForceComponents.of(example.evaluation)
    few, again = (force_by_element(forces, most=12) for _ in range(2))
    assert few == again
    assert len(few) == 3
    assert all(len(thin.spec) < len(full.spec) for thin, full in zip(few, force_by_element(forces), strict=True))


def test_thinning_is_said(example, monkeypatch):
    monkeypatch.setattr("mekrr.pages.report.parity.MOST_POINTS", 20)
    n = len(ForceComponents.of(example.evaluation).dft)
    assert f"at most 20 of {n} components are drawn" in render(example.fitted, example.evaluation, "t")


def test_a_failed_write_leaves_the_old_page(example, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="0 structures"):
        write_report(path, example.fitted, example.evaluation.part([]))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_workers_of_a_cluster_are_named(example):
    record = replace(example.fitted.record, work=(Work("derivatives", "tcp://here:1", 3, 12.0),))
    html = without_plotly(render(replace(example.fitted, record=record), example.evaluation, "t"))
    assert "derivatives by tcp://here:1: 3 shards, 12" in html
    assert "Computed by" not in without_plotly(render(example.fitted, example.evaluation, "t"))
