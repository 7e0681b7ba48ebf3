"""One self-contained HTML page about a potential and its errors; it opens offline."""

from mekrr.pages.report.page import write_report

__all__ = ["write_report"]
