"""A run on disk: labels, decisions, the model and where the run stands, each written so that a kill loses nothing.

- labels.extxyz: every label as it comes, each by one write;
- journal.jsonl: one JSON object a line for every event, with its numbers;
- model.safetensors: the potential after each update;
- state.json: where the driver stands, replaced as a whole;
- result.extxyz: what was found in the end.
"""

import itertools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.jsonio import decode, encode

from mekrr.data.reading.xyz import iter_xyz
from mekrr.dynamics import Trajectory
from mekrr.dynamics.trajectory import exact_xyz, scan
from mekrr.errors import DataError
from mekrr.files import atomic_path, claimed
from mekrr.learning.events import Event
from mekrr.learning.labels import Label

LABELS, RESULT, JOURNAL, MODEL, STATE, SETTINGS = (
    "labels.extxyz",
    "result.extxyz",
    "journal.jsonl",
    "model.safetensors",
    "state.json",
    "settings.json",
)


class Journal:
    """The folder of one run; one process at a time.

    Args:
        folder: made when it is not there.

    Attributes:
        labels: in the order in which they came.
        lines: of the journal.

    Raises:
        OSError: when the folder cannot be written.
        DataError: when another run is going on there, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = claimed(folder / ".lock")
        if lock is None:
            raise DataError(f"{folder}: another run of mekrr learn is going on there; wait, or choose another folder")
        self._lock = lock
        self._trajectory = Trajectory(folder / LABELS)
        self.labels: list[Label] = []
        self.lines: list[dict[str, Any]] = []

    @property
    def path_of_labels(self) -> Path:
        """Where labels are."""
        return self.folder / LABELS

    @property
    def path_of_model(self) -> Path:
        """Where the potential is."""
        return self.folder / MODEL

    def is_begun(self) -> bool:
        """Whether a run has begun here."""
        return (self.folder / SETTINGS).exists()

    def recover(self) -> None:
        """Read what is there; half a frame or half a line at the end, which a kill leaves, is cut off."""
        self._trajectory.recover()
        self.labels = read_labels(self.folder)
        self.lines = _cut_lines(self.folder / JOURNAL)

    def append_label(self, frame: Atoms) -> Label:
        """Write a label and read it back, so that a run that goes on has the same digits.

        Raises:
            OSError: when it cannot be written; the file keeps whole frames.
        """
        self._trajectory.append(frame)
        last, _ = self._trajectory.recover()
        assert last is not None
        label = Label.of(last, str(self.path_of_labels), len(self.labels))
        self.labels.append(label)
        return label

    def write(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: when it cannot be written; no half line stays.
        """
        line = {"kind": event.kind, "text": event.text} | event.numbers
        data = (json.dumps(_plain(line)) + "\n").encode()
        path = self.folder / JOURNAL
        with open(path, "ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            if file.write(data) != len(data):
                os.ftruncate(file.fileno(), end)
                raise OSError(28, "No space left on device", str(path))
        self.lines.append(line)

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state.

        Raises:
            OSError: when it cannot be written; the old one stays.
        """
        _write_json(self.folder / STATE, state)

    def state(self) -> dict[str, Any] | None:
        """The state; None before the first."""
        return _read_json(self.folder / STATE)

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Write what the run was asked to do."""
        _write_json(self.folder / SETTINGS, settings)

    def settings(self) -> dict[str, Any] | None:
        """What the run was asked to do."""
        return _read_json(self.folder / SETTINGS)

    def save_result(self, structures: Sequence[Atoms]) -> None:
        """Write what was found.

        Raises:
            OSError: when it cannot be written.
        """
        with atomic_path(self.folder / RESULT) as temporary:
            temporary.write_text("".join(exact_xyz(atoms) for atoms in structures))

    def close(self) -> None:
        """Let another run begin here."""
        self._lock.close()


def read_labels(folder: Path) -> list[Label]:
    """Labels of a run, which may be going on."""
    path = folder / LABELS
    return [Label.of(frame, str(path), i) for i, frame in enumerate(whole_frames(path))]


def whole_frames(path: Path) -> list[Atoms]:
    """Frames of an extended XYZ file, without half of one at the end; none where there is no file."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        count = scan(file, path).n_frames
    return list(itertools.islice(iter_xyz(path), count))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The journal of a run, which may be going on; half a line at the end is left out."""
    path = folder / JOURNAL
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run was asked to do.

    Raises:
        FileNotFoundError: when there is no run in the folder.
    """
    found = _read_json(folder / SETTINGS)
    if found is None:
        raise FileNotFoundError(f"{folder}: no run of mekrr learn has begun there ({SETTINGS} is missing)")
    return found


def _cut_lines(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path.parent)
    if path.exists():
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole) + len(newline))
    return lines


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(encode(value))


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return decode(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); restore it, or begin again in another folder") from error


def _plain(value: Any) -> Any:
    """For JSON: what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
