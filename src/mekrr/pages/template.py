"""Self-contained pages from Jinja templates: escaping, filters, common style and scripts, and the way to the disk."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mekrr.files import atomic_path
from mekrr.pages import words

FILTERS = ("number", "signed", "count", "percent", "plural", "power", "behind")


def render(package: str, template: str, content: dict[str, Any]) -> str:
    """A page as text. Everything is escaped unless it is Markup: formulas, keys and file names come from strangers.

    Args:
        package: whose folder `templates` has the template.
        template: its file name.
        content: its variables; one that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(default=True, default_for_string=True, enabled_extensions=("html", "jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(words, name) for name in FILTERS})
    return environment.get_template(template).render(**content)


def write(path: str | Path, html: str) -> None:
    """Write a page; the old file stays until the new one is whole.

    Raises:
        OSError: when the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def style() -> str:
    """The common style sheet."""
    return (files("mekrr.pages") / "templates" / "style.css").read_text("utf-8")


def drawing() -> dict[str, Markup]:
    """Style and scripts of a page with figures, written into it so that it needs nothing from outside."""
    from plotly.offline import get_plotlyjs  # large, and not every page has figures

    draw = (files("mekrr.pages") / "templates" / "draw.js").read_text("utf-8")
    return {"style": Markup(style()), "draw": Markup(draw), "plotly": script(get_plotlyjs())}


def embeddable(json: str) -> Markup:
    """JSON in which no text can end the script element that holds it."""
    return Markup(json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def script(text: str) -> Markup:
    """A script in which no text can end the element that holds it."""
    return Markup(text.replace("</script", "<\\/script"))
