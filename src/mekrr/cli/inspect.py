"""What `mekrr inspect` prints."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN = 8


def render_inspection(report: Mapping[str, Any], console: Console) -> None:
    """Print a report of `mekrr.data.inspect_report`: a table of what is in the data, then the issues, errors first."""
    console.print(_table(report["summary"]))
    for issue in report["issues"]:
        colour = "red" if issue["level"] == "error" else "yellow"
        console.print(
            f"[bold {colour}]{issue['level']}[/] [{colour}]{issue['code']}[/] {escape(issue['message'])}",
            soft_wrap=True,
        )
    console.print(_verdict(report["issues"]))


def _table(summary: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(summary):
        if text:
            table.add_row(name, escape(text))
    return table


def _rows(summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    sizes = summary["sizes"]
    yield "files", _counts(summary["sources"])
    repeated = summary["n_duplicates"]
    yield (
        "structures",
        f"{summary['n_structures']}" + (f", {repeated} of them repeat an earlier one" if repeated else ""),
    )
    if sizes:
        yield "atoms", f"{summary['n_atoms']}; {sizes['smallest']} to {sizes['largest']} a structure"
    yield "elements", _counts(summary["elements"])
    yield "compositions", _counts(summary["compositions"])
    yield "periodic along", _counts({_axes(key): n for key, n in summary["periodicity"].items()})
    yield "isolated atoms", ", ".join(f"{k} ({_energy(e)})" for k, e in summary["isolated_atoms"].items())
    yield "labels", _counts({k: n for k, n in summary["labels"].items() if n})
    yield "found under", "; ".join(f"{k}: {_counts(v)}" for k, v in summary["label_keys"].items() if v)
    yield "other keys", _counts(summary["info_keys"])
    yield "config types", _counts(summary["config_types"])
    yield "energy", _energies(summary["energy_residual"])
    yield "forces", _spread(summary["forces"], "eV/Angstrom")
    yield "stress", _spread(summary["stress"], "eV/Angstrom^3")
    yield "shortest pairs", ", ".join(f"{k} {d:.2f}" for k, d in summary["shortest_distances"].items())


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{key} ({n})" for key, n in list(counts.items())[:_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _axes(periodicity: str) -> str:
    return "".join(axis for axis, flag in zip("abc", periodicity, strict=True) if flag == "T") or "nothing"


def _energy(energy: float | None) -> str:
    return "no energy" if energy is None else f"{energy:.4f} eV"


def _energies(residual: Mapping[str, float] | None) -> str:
    if residual is None:
        return ""
    low, high, rms = (1e3 * residual[key] for key in ("lowest", "highest", "rms"))
    return f"{low:.1f} to {high:.1f} meV/atom around the best energy per element, rms {rms:.1f}"


def _spread(spread: Mapping[str, float] | None, unit: str) -> str:
    return f"rms {spread['rms']:.3g}, largest component {spread['largest']:.3g} {unit}" if spread else ""


def _verdict(issues: Iterable[Mapping[str, Any]]) -> str:
    levels = [issue["level"] for issue in issues]
    errors, warnings = levels.count("error"), levels.count("warning")
    if errors:
        return f"[bold red]errors: {errors}, warnings: {warnings}; correct the errors before a fit[/]"
    return f"[green]ready to fit[/], warnings: {warnings}"
