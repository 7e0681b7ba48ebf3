"""The page: everything it says and shows, rendered and written in one go."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mekrr.evaluation import Evaluation, training_remarks
from mekrr.pages import template, words
from mekrr.pages.report import choice, distributions, models, parity, surface, tables
from mekrr.potential import Fitted
from mekrr.potential.advice import undetermined
from mekrr.potential.data_record import DataRecord
from mekrr.potential.search_record import at_one_stage

METHOD = "Transfer learning for atomistic simulations using GNNs and kernel mean embeddings, arXiv 2306.01589"
FAR_WORSE = 2.0  # test over leave-one-out error from which the page says so


def write_report(
    path: str | Path,
    fitted: Fitted,
    evaluation: Evaluation,
    title: str = "Interatomic potential: report",
    warnings: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML page; the old file stays until the new one is whole.

    Args:
        path: of the page; its folder must exist.
        fitted: the potential.
        evaluation: of that potential on labelled structures.
        title: of the page.
        warnings: that the user was shown beside those of fit and evaluation.

    Raises:
        ValueError: when no structure was evaluated.
        OSError: when the file cannot be written.
    """
    template.write(path, render(fitted, evaluation, title, warnings))


def render(fitted: Fitted, evaluation: Evaluation, title: str, warnings: Sequence[str] = ()) -> str:
    """The page as text.

    Raises:
        ValueError: when no structure was evaluated.
    """
    if not evaluation.structures:
        raise ValueError("a report needs errors to show, but 0 structures were evaluated; give at least one")
    return template.render(
        "mekrr.pages.report", "report.html.jinja", _content(fitted, evaluation, warnings) | {"title": title}
    )


def _content(fitted: Fitted, evaluation: Evaluation, warnings: Sequence[str]) -> dict[str, Any]:
    metrics = evaluation.metrics()
    return {
        **template.drawing(),
        **_introduction(fitted, evaluation, metrics, warnings),
        **_energy_section(evaluation),
        **_force_section(evaluation),
        **_search_section(fitted, metrics),
        **_structure_section(evaluation),
        **_provenance(fitted, evaluation),
        "calibration": distributions.calibration(evaluation),
        "force_calibration": distributions.force_calibration(evaluation),
        "training": tables.training_facts(fitted),
        "evaluated": tables.evaluation_facts(evaluation.structures),
        "groups": metrics.get("groups"),
        "by": evaluation.by,
    }


def _introduction(
    fitted: Fitted, evaluation: Evaluation, metrics: dict[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    return {
        "fitted": fitted,
        "record": fitted.record,
        "metrics": metrics,
        "headline": tables.headline(evaluation, metrics),
        "offsets_tell": tables.offsets_tell(evaluation.structures),
        "summary": summary_sentences(fitted, metrics),
        "choice_rows": choice.choice_rows(fitted),
        "verdict": choice.verdict(fitted),
        "first": evaluation.verdict(),
        "is_worse": "WORSE" in evaluation.verdict(),
        "warnings": warnings_of(fitted, evaluation, warnings),
    }


def summary_sentences(fitted: Fitted, metrics: dict[str, Any]) -> list[str]:
    """The result in plain words."""
    energy, forces = metrics["energy_rmse_mev_per_atom"], metrics["forces_rmse_mev_per_angstrom"]
    sentences = [f"On {words.plural(metrics['n_structures'], 'evaluated structure')} the energy error is "
                 f"{words.number(energy)} meV/atom{_and_forces(forces)} (root mean square)."]  # fmt: skip
    own = metrics["backbone_energy_rmse_mev_per_atom"]
    if own:
        own_forces = metrics["backbone_forces_rmse_mev_per_angstrom"]
        own_forces = own_forces if forces is not None else None
        sentences.append(
            f"The backbone by itself, with one shift per element fitted to the same training data, gives "
            f"{words.number(own)} meV/atom{_and_forces(own_forces)}."
        )
    return sentences


def _and_forces(rmse: float | None) -> str:
    return "" if rmse is None else f" and the force error {words.number(rmse)} meV/Å"


def warnings_of(fitted: Fitted, evaluation: Evaluation, shown: Sequence[str] = ()) -> list[str]:
    """What a reader must know before trusting the numbers: what was found now, then what the fit was told.

    Args:
        fitted: the potential.
        evaluation: of that potential.
        shown: warnings beside these.
    """
    found = [
        *training_remarks(fitted, evaluation.structures),
        *evaluation.remarks,
        *no_better(evaluation.metrics()),
        *undetermined(fitted, [s.atoms for s in evaluation.structures]),
        *shown,
        *fitted.record.warnings,
    ]
    return list(dict.fromkeys(_sentence(text) for text in found))


def no_better(metrics: dict[str, Any]) -> list[str]:
    """Where something simpler does as well on the evaluated structures."""
    rivals = {
        "the backbone with shifts": ("backbone_energy_rmse_mev_per_atom", "backbone_forces_rmse_mev_per_angstrom"),
        "the composition mean": ("composition_energy_rmse_mev_per_atom", "zero_forces_rmse_mev_per_angstrom"),
    }
    units = {"energy_rmse_mev_per_atom": "energies", "forces_rmse_mev_per_angstrom": "forces"}
    sentences = []
    for name, keys in rivals.items():
        worse = [
            what
            for (own, what), key in zip(units.items(), keys, strict=True)
            if None not in (metrics[own], metrics[key]) and metrics[own] >= metrics[key]
        ]
        if worse:
            sentences.append(f"In {words.listed(worse)}, {name} is as close to DFT on these structures, or closer.")
    return sentences


def _sentence(text: str) -> str:
    """With a capital and a full stop; a path at the beginning stays as it was given."""
    first = text.split(maxsplit=1)[0] if text else ""
    if not any(mark in first.rstrip(":;,.") for mark in "/\\._"):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def _energy_section(evaluation: Evaluation) -> dict[str, Any]:
    errors = distributions.energy_errors(evaluation)
    return {
        "energy_parity": parity.energy_parity(evaluation),
        "energy_errors": distributions.error_panels("energy", "Energy", "meV/atom", errors),
    }


def _force_section(evaluation: Evaluation) -> dict[str, Any]:
    forces = parity.ForceComponents.of(evaluation)
    if forces is None:
        return {"forces": None}
    errors, rows = distributions.force_errors(forces), tables.element_rows(forces)
    return {
        "forces": forces,
        "n_components": len(forces.dft),
        "force_points": min(parity.MOST_POINTS, len(forces.dft)),
        "force_density": parity.force_density(forces),
        "force_by_element": parity.force_by_element(forces),
        "element_rows": rows,
        "worse_elements": words.listed(r.symbol for r in rows if r.backbone_rmse and r.rmse > r.backbone_rmse),
        "force_errors": distributions.error_panels("force", "Forces", "meV/Å", errors),
    }


def _search_section(fitted: Fitted, metrics: dict[str, Any]) -> dict[str, Any]:
    search, loo = fitted.record.search, fitted.record.leave_one_out
    ratio = metrics["energy_rmse_mev_per_atom"] / max(loo.rmse_mev_per_atom, 1e-9)
    return {
        "search": search,
        "in_search": at_one_stage(search)[0],
        "loo": loo,
        "rehearsal": fitted.record.solver.rehearsal,
        "loo_worst": tables.loo_worst(fitted),
        "loo_errors": distributions.error_panels("loo", "Leave-one-out", "meV/atom", distributions.loo_errors(fitted)),
        "test_over_loo": ratio,
        "far_worse": FAR_WORSE,
        "criterion_meaning": choice.criterion_meaning(fitted),
        "maps": surface.score_maps(search),
        "ridge_paths": surface.ridge_paths(search),
        "screening": choice.screening(search),
    }


def _structure_section(evaluation: Evaluation) -> dict[str, Any]:
    rows = tables.structure_rows(evaluation)
    return {
        "worst_energies": tables.worst_by_energy(rows),
        "worst_forces": tables.worst_by_forces(rows),
        "worst_drawn": models.worst_panels(evaluation),
        "has_deviations": any(row.deviation is not None for row in rows),
    }


def _provenance(fitted: Fitted, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "timings": tables.timing_rows(fitted),
        "workers": tables.workers(fitted),
        "prior_rows": tables.prior_rows(fitted),
        "evaluation_hash": DataRecord.of(evaluation.structures).sha256,
        "method": METHOD,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
