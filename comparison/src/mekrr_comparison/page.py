"""One self-contained HTML page of a benchmark; it opens offline."""

from pathlib import Path
from typing import Any

from mekrr.pages import template


def write_page(path: Path, content: dict[str, Any]) -> None:
    """Write the page; the old one stays until the new one is whole.

    Args:
        path: of the page.
        content: title, question, command, sentences, tables, panels, notes, settings, methods and versions.

    Raises:
        OSError: when the file cannot be written.
    """
    html = template.render("mekrr_comparison", "benchmark.html.jinja", content | template.drawing())
    template.write(path, html)
