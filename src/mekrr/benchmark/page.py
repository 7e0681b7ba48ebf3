"""One self-contained HTML page of a benchmark; it opens offline."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mekrr.files import atomic_path
from mekrr.report import words


def write_page(path: Path, content: dict[str, Any]) -> None:
    """Write the page; the old one stays until the new one is whole.

    Args:
        path: of the page.
        content: title, question, command, sentences, tables, panels, notes, settings, methods and versions.

    Raises:
        OSError: when the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("mekrr.benchmark"),
        autoescape=select_autoescape(default=True, default_for_string=True, enabled_extensions=("html", "jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plural"] = words.plural
    html = environment.get_template("benchmark.html.jinja").render(**content, **_assets())
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _assets() -> dict[str, Markup]:
    """Style and scripts of the report, written into the page so that it needs nothing from outside."""
    folder = files("mekrr.report") / "templates"
    return {
        "style": Markup((folder / "style.css").read_text("utf-8")),
        "draw": Markup((folder / "draw.js").read_text("utf-8")),
        "plotly": Markup(get_plotlyjs().replace("</script", "<\\/script")),
    }
