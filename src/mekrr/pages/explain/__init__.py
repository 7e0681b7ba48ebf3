"""What a predicted energy is made of, and how near it is to the data: for people, as tables, JSON and a 3D page."""

from mekrr.pages.explain.explanation import Explanation, explain
from mekrr.pages.explain.page import write_page
from mekrr.pages.explain.viewer import require_viewer

__all__ = ["Explanation", "explain", "require_viewer", "write_page"]
