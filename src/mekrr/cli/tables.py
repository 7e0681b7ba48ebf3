"""The tables that commands print."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from mekrr.cli.console import out
from mekrr.cli.shown import new_table, show
from mekrr.evaluation import Evaluation
from mekrr.potential.record import Record, RefinementRecord, SolverRecord
from mekrr.potential.search_record import TrialRecord, at_one_stage, why_not
from mekrr.shards import Work

SHOWN_WORKERS = 12


def error_table(evaluation: Evaluation, title: str) -> Table:
    """This potential, the backbone by itself and the composition fit, side by side."""
    m = evaluation.metrics()
    table = new_table(title)
    table.add_column("", no_wrap=True)
    for head in ("energy RMSE\nmeV/atom", "energy MAE\nmeV/atom", "forces RMSE\nmeV/Å", "forces MAE\nmeV/Å"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row("this potential", *_row(m, "energy", "forces"), style="bold")
    if m["backbone_energy_rmse_mev_per_atom"] is not None:
        table.add_row("backbone + shifts", *_row(m, "backbone_energy", "backbone_forces"))
    zero = number(m["zero_forces_rmse_mev_per_angstrom"])
    table.add_row("mean per element", *_row(m, "composition_energy", "none")[:2], zero, "-")
    return table


def calibration_line(m: Mapping[str, Any]) -> str:
    """How often the energy lies within the predicted deviation."""
    if m.get("share_within_one_std") is None:
        return ""
    return (
        f"predicted deviation: {number(m['mean_energy_std_mev_per_atom'])} meV/atom on average; "
        f"{100 * m['share_within_one_std']:.0f}% of the energies lie within one (68% expected), "
        f"{100 * m['share_within_two_std']:.0f}% within two (95%)" + _force_calibration(m)
    )


def _force_calibration(m: Mapping[str, Any]) -> str:
    if m.get("forces_share_within_one_std") is None:
        return ""
    return (
        f"\nof force components: {number(m['mean_forces_std_mev_per_angstrom'])} meV/Å on average; "
        f"{100 * m['forces_share_within_one_std']:.0f}% lie within one, "
        f"{100 * m['forces_share_within_two_std']:.0f}% within two; rank correlation of error and deviation by atom "
        f"{number(m['forces_std_rank_correlation'])}"
    )


def solver_line(solver: SolverRecord) -> str:
    """What was solved, and how."""
    if solver.solver == "exact":
        return "exact solver: every training atom, energies only"
    inducing = " ".join(f"{symbol} {n}" for symbol, n in solver.inducing_per_species.items())
    text = f"sparse solver: {solver.n_inducing} inducing environments ({inducing})"
    if solver.n_anchors:
        text += f", {solver.n_anchors} anchors"
    if not solver.forces:
        return text + ", energies only"
    text += f"; {100 * solver.probed_share:.0f}% of the force directions probed"
    iterations = solver.exact_forces
    if iterations is None:
        return text
    how = "converged" if iterations.converged else "stopped"
    return text + f", then {len(iterations.residuals)} iterations to all of them ({how})"


def refinement_table(refinement: RefinementRecord) -> Table:
    """Rounds of a refined network, by what they are wrong by on structures held out."""
    table = new_table(
        f"refined network: errors on {refinement.n_held_out} structures held out, which only the last step saw"
    )
    for head in ("round", "energy RMSE\nmeV/atom", "energy MAE\nmeV/atom", "forces RMSE\nmeV/Å", "damping"):
        table.add_column(head, justify="right")
    for k, one in enumerate(refinement.rounds):
        errors = (
            one.held_out.rmse_mev_per_atom,
            one.held_out.mae_mev_per_atom,
            one.held_out.forces_rmse_mev_per_angstrom,
        )
        table.add_row("pretrained" if k == 0 else str(k), *map(number, errors), number(one.damping))
    return table


def group_table(groups: Mapping[str, Mapping[str, Any]], by: str) -> Table:
    """Errors by the values of an info key."""
    table = new_table(f"by {by}")
    table.add_column(by)
    for head in ("structures", "energy RMSE\nmeV/atom", "energy MAE\nmeV/atom", "forces RMSE\nmeV/Å"):
        table.add_column(head, justify="right", no_wrap=True)
    keys = ("energy_rmse_mev_per_atom", "energy_mae_mev_per_atom", "forces_rmse_mev_per_angstrom")
    for name, group in groups.items():
        table.add_row(name, str(group["n_structures"]), *(number(group[key]) for key in keys))
    return table


def choice_table(record: Record) -> Table:
    """What was solved, beside the same choice and the runner-up as the search saw them."""
    search = record.search
    in_search, runner_up = at_one_stage(search)
    trials = [("chosen", "solution", search.best)]
    if runner_up is not None:
        trials += [("chosen", "search", in_search), ("runner-up", "search", runner_up)]
    criterion = search.criterion or record.options.criterion
    table = new_table(f"chosen by {criterion}; compare scores of one stage only")
    table.add_column("", no_wrap=True)
    for name, stage, _ in trials:
        table.add_column(f"{name},\n{stage}", overflow="fold")
    for head, text in _TRIAL_ROWS.items():
        table.add_row(head, *(text(trial) for _, _, trial in trials))
    return table


def choice_lines(record: Record) -> list[str]:
    """What the stages of the table are, and why a better runner-up was passed over."""
    in_search, runner_up = at_one_stage(record.search)
    if runner_up is None:
        return []
    lines = ["search: on features alone, on as many structures as it takes; solution: all structures, as it is kept"]
    reason = why_not(in_search, runner_up)
    return [*lines, f"the runner-up scored better in the search and was passed over: {reason}"] if reason else lines


def work_table(work: Sequence[Work]) -> Table:
    """Shards and seconds of each worker of a cluster, by stage."""
    stages = list(dict.fromkeys(one.stage for one in work))
    table = Table(title="who computed what: shards, and seconds in them", title_justify="left")
    table.add_column("worker", overflow="fold")
    for stage in stages:
        table.add_column(stage, justify="right")
    by_place = {(one.worker, one.stage): f"{one.shards}, {one.seconds:.1f} s" for one in work}
    workers = list(dict.fromkeys(one.worker for one in work))
    for worker in workers[:SHOWN_WORKERS]:
        table.add_row(worker, *(by_place.get((worker, stage), "-") for stage in stages))
    if rest := workers[SHOWN_WORKERS:]:
        totals = ((stage, [one for one in work if one.stage == stage and one.worker in rest]) for stage in stages)
        sums = (f"{sum(w.shards for w in some)}, {sum(w.seconds for w in some):.1f} s" for _, some in totals)
        table.add_row(f"{len(rest)} more", *sums)
    return table


def print_work(work: Sequence[Work]) -> None:
    """The table, where there was a cluster."""
    if work:
        show(work_table(work), out)


def work_record(work: Sequence[Work]) -> dict[str, Any]:
    """For JSON: key "work", absent without a cluster."""
    return {"work": [asdict(one) for one in work]} if work else {}


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_TRIAL_ROWS: dict[str, Callable[[TrialRecord], str]] = {
    "layers": lambda trial: " ".join(trial.layers),
    "prior": lambda trial: trial.prior,
    "species weight": lambda trial: f"{trial.species_weight:.2f}",
    "length scale": lambda trial: number(trial.length_scale),
    "tangent share": lambda trial: f"{trial.tangent_share:.2f}",
    "force weight, Å²": lambda trial: number(trial.force_weight),
    "ridge": lambda trial: f"{trial.ridge:.1e}",
    "score": lambda trial: f"{trial.score:.3f}",
    "leave-one-out RMSE, meV/atom": lambda trial: number(trial.loo_rmse_mev_per_atom),
    "leave-one-out MAE, meV/atom": lambda trial: number(trial.loo_mae_mev_per_atom),
    "leave-one-out forces (mean of structures), meV/Å": lambda trial: number(trial.loo_forces_mev_per_angstrom),
}


def _row(m: Mapping[str, Any], energy: str, forces: str) -> list[str]:
    keys = [f"{energy}_rmse_mev_per_atom", f"{energy}_mae_mev_per_atom"]
    keys += [f"{forces}_rmse_mev_per_angstrom", f"{forces}_mae_mev_per_angstrom"]
    return [number(m.get(key)) for key in keys]
