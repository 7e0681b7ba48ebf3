"""The page of a run, from what is on disk: at its end, or while it goes on."""

from pathlib import Path

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.learning.journal import RESULT, read_labels, read_lines, read_settings, whole_frames
from mekrr.learning.labels import Label
from mekrr.pages import learn as pages

REPORT = "report.html"


def write_page(folder: Path) -> Path:
    """Write DIR/report.html; its path comes back.

    Raises:
        FileNotFoundError: when no run has begun in the folder.
        OSError: when the page cannot be written.
    """
    settings = read_settings(folder)
    story = pages.Story(
        settings["task"],
        str(folder),
        read_lines(folder),
        [_frame(label) for label in read_labels(folder)],
        whole_frames(folder / RESULT),
        [whole_frames(path) for path in sorted(folder.glob("walker-*.extxyz"))],
        settings["options"],
    )
    pages.write_page(folder / REPORT, story)
    return folder / REPORT


def _frame(label: Label) -> Atoms:
    """As it stands in the file of labels, with the energy that the potential learns."""
    frame = label.frame.copy()
    frame.calc = SinglePointCalculator(frame, **label.results)
    return frame
