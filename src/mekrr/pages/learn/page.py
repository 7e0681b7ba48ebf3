"""The page: the way of the run, predictions against later labels, errors with the number of labels, atoms in 3D."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mekrr._version import __version__
from mekrr.pages import template
from mekrr.pages.learn import drawings
from mekrr.pages.learn.story import Story

TITLES = {"relax": "A relaxation", "neb": "A reaction path", "md": "Dynamics"}
ENDS = ("converged", "stopped", "to-label")


def write_page(path: str | Path, story: Story) -> None:
    """Write one self-contained HTML page; the old file stays until the new one is whole.

    Raises:
        OSError: when the file cannot be written.
    """
    template.write(path, template.render("mekrr.pages.learn", "learn.html.jinja", _content(story)))


def _content(story: Story) -> dict[str, Any]:
    ends = [line for line in story.lines if line["kind"] in (*ENDS, "begun")]
    last = ends[-1] if ends else None
    return {
        **template.drawing(),
        "title": f"{TITLES[story.task]} that learnt while it computed",
        "folder": story.folder,
        "lead": last["text"] if last is not None and last["kind"] in ENDS else "The run is going on, or was killed.",
        "remarks": [line["text"] for line in story.lines if line["kind"] in ("remark", "label-failed")],
        "way": drawings.way(story),
        "honest": drawings.honest(story),
        "atoms": drawings.atoms(story),
        "seconds": _seconds(story),
        "rows": _rows(story),
        "n_labels": len(story.labels),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _seconds(story: Story) -> list[tuple[str, float, int]]:
    """Where time went: the calculator's seconds, and those of fits and updates."""
    answers = [*story.of_kind("labelled"), *story.of_kind("label-failed")]
    models = story.of_kind("model")
    return [
        ("in the calculator", sum(line["seconds"] for line in answers), len(answers)),
        ("in fits and updates", sum(line["seconds"] for line in models), len(models)),
    ]


def _rows(story: Story) -> list[dict[str, Any]]:
    """One row a label."""
    rows = []
    for k, frame in enumerate(story.labels):
        before = frame.arrays.get("before_forces")
        forces = frame.get_forces()
        rows.append(
            {
                "number": k + 1,
                "why": frame.info["why"],
                "energy": frame.get_potential_energy(),
                "largest": float(np.linalg.norm(forces, axis=1).max()),
                "error": None if before is None else 1000 * float(np.sqrt(np.mean((forces - before) ** 2))),
                "expected": None if "before_force_std" not in frame.info else 1000 * frame.info["before_force_std"],
                "seconds": frame.info["seconds"],
            }
        )
    return rows
