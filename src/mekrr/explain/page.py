"""The page: tables, and a 3D viewer with atoms coloured by what explains their energies."""

import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mekrr._version import __version__
from mekrr.explain import tables, viewer
from mekrr.explain.explanation import Explanation
from mekrr.files import atomic_path
from mekrr.report import words

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
    html = render(found, title)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render(found: Explanation, title: str) -> str:
    """The page as text.

    Raises:
        MekrrError: when chemiscope is not installed.
    """
    return _environment().get_template("explain.html.jinja").render(**_content(found), title=title)


def _environment() -> Environment:
    """Autoescape is on for everything: formulas and file names come from strangers."""
    environment = Environment(
        loader=PackageLoader("mekrr.explain"),
        autoescape=select_autoescape(default=True, default_for_string=True, enabled_extensions=("html", "jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "signed", "count", "percent", "plural"):
        environment.filters[name] = getattr(words, name)
    return environment


def _content(found: Explanation) -> dict[str, Any]:
    shown = viewer.shown_structures(found)
    rows = tables.structure_rows(found)
    return {
        **_assets(),
        "fitted": found.fitted,
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
    own, report = files("mekrr.explain") / "templates", files("mekrr.report") / "templates"
    style = (report / "style.css").read_text("utf-8") + (own / "explain.css").read_text("utf-8")
    chemiscope = viewer.require_viewer().read_text("utf-8").replace("</script", "<\\/script")
    texts = {"style": style, "chemiscope": chemiscope, "show": (own / "show.js").read_text("utf-8")}
    return {name: Markup(text) for name, text in texts.items()}


def _embeddable(value: dict[str, Any]) -> Markup:
    """JSON in which no text can end the script element that holds it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
