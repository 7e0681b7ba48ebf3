"""The page: tables, and a 3D viewer with atoms coloured by what explains their energies."""

import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mekrr._version import __version__
from mekrr.pages import template
from mekrr.pages.explain import tables, viewer
from mekrr.pages.explain.explanation import Explanation

MOST_STRUCTURES = 100  # in the table of structures


def write_page(path: str | Path, found: Explanation, title: str = "What the energies are made of") -> None:
    """Write one self-contained HTML page; the old file stays until the new one is whole.

    Args:
        path: of the page; its folder must exist.
        found: what to show.
        title: of the page.

    Raises:
        MekrrError: when chemiscope is not installed.
        OSError: when the file cannot be written.
    """
    template.write(path, render(found, title))


def render(found: Explanation, title: str) -> str:
    """The page as text.

    Raises:
        MekrrError: when chemiscope is not installed.
    """
    return template.render("mekrr.pages.explain", "explain.html.jinja", _content(found) | {"title": title})


def _content(found: Explanation) -> dict[str, Any]:
    shown = viewer.shown_structures(found)
    rows = tables.structure_rows(found)
    return {
        **_assets(),
        "fitted": found.fitted,
        "record": found.fitted.record,
        "n_structures": len(found.n_atoms),
        "n_atoms": len(found.species),
        "n_shown": len(shown),
        "n_atoms_shown": int(found.n_atoms[shown].sum()),
        "dataset": _embeddable(viewer.dataset(found, shown)),
        "colourings": viewer.colourings(found),
        "notes": tables.notes(found),
        "species": tables.species_rows(found),
        "groups": tables.group_rows(found),
        "furthest": tables.furthest_atoms(found),
        "uncertain": tables.most_uncertain_atoms(found),
        "structures": tables.furthest_structures(rows, MOST_STRUCTURES),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _assets() -> dict[str, Markup]:
    """Style and scripts, written into the page so that it needs nothing from outside."""
    own = files("mekrr.pages.explain") / "templates"
    return {
        "style": Markup(template.style() + (own / "explain.css").read_text("utf-8")),
        "chemiscope": template.script(viewer.require_viewer().read_text("utf-8")),
        "show": Markup((own / "show.js").read_text("utf-8")),
    }


def _embeddable(value: dict[str, Any]) -> Markup:
    return template.embeddable(json.dumps(value, separators=(",", ":"), allow_nan=False))
