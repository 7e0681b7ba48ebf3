"""Data sets that can be loaded by name: embedded in the package, or fetched from an archive and checked by hash."""

import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import platformdirs

from mekrr.data.reading.labels import LabelKeys
from mekrr.data.reading.readers import read_structures
from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError


@dataclass(frozen=True)
class DatasetEntry:
    """What must be known about a data set before it may be listed; checked when the entry is made.

    Attributes:
        name: lower-case words joined by hyphens.
        description: one line: system, method, what it is for.
        licence: SPDX identifier where there is one.
        citation: how to cite it.
        n_structures: number of structures; None for embedded sets, whose `parts` are counted.
        n_atoms: atoms of each structure, as text.
        size_mb: approximate size of the files in MB.
        url: address of the file; empty for embedded sets.
        sha256: of the file; empty where none is known, then the download is not checked.
        keys: names and units of the labels.
    """

    name: str
    description: str
    licence: str
    citation: str
    n_structures: int | None
    n_atoms: str
    size_mb: float
    url: str = ""
    sha256: str = ""
    keys: LabelKeys = field(default_factory=LabelKeys)

    def __post_init__(self) -> None:
        """Check the entry.

        Raises:
            ValueError: naming the attribute that is missing or malformed.
        """
        self.keys.factors()
        texts = {"description": self.description, "licence": self.licence, "citation": self.citation}
        faults = [name for name, text in texts.items() if not text]
        faults += ["name"] * (not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name))
        faults += ["url"] * (bool(self.url) and not self.url.startswith("https://"))
        faults += ["sha256"] * (bool(self.sha256) and not re.fullmatch(r"[0-9a-f]{64}", self.sha256))
        faults += ["n_structures"] * (self.n_structures is not None and self.n_structures < 1) + ["size_mb"] * (
            self.size_mb <= 0
        )
        if faults:
            raise ValueError(f"data set entry {self.name!r}: missing or malformed {', '.join(faults)}")

    @property
    def is_embedded(self) -> bool:
        """Whether the set is part of the package, so that no network is needed."""
        return not self.url

    @property
    def parts(self) -> dict[str, int]:
        """Number of structures in each part of an embedded set, e.g. {"clean": 20, "d1": 150}; empty for others."""
        files = _embedded_files(self.name) if self.is_embedded else {}
        return {part: _count_structures(file) for part, file in files.items()}


_ENTRIES = (
    DatasetEntry(
        name="cu-formate-mini",
        description="formate and its dehydrogenation on Cu(111) slabs of two sizes, made for mekrr (GPAW, RPBE)",
        licence="CC0-1.0",
        citation="part of mekrr; see the card cu-formate-mini.md",
        n_structures=None,
        n_atoms="slabs of two sizes",
        size_mb=0.15,
    ),
    DatasetEntry(
        name="cu-formate",
        description="dehydrogenation of formate on Cu(110), Cu48CHO2, ab initio molecular dynamics (CP2K)",
        licence="as stated in its record, doi:10.24435/materialscloud:s0-5n",
        citation="Batzner et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5",
        n_structures=6855,
        n_atoms="52",
        size_mb=40.0,
        url="https://archive.materialscloud.org/records/ycbvx-knj69/files/fcu.xyz?download=1",
        sha256="57f00395d6945a3018a873d229fd7fbb7352a44a66f00f3c6e8a36247e0851e5",
    ),
)


def datasets() -> list[DatasetEntry]:
    """All data sets that can be loaded by name."""
    return list(_ENTRIES)


def load_dataset(
    name: str, parts: Sequence[str] | str | None = None, cache: str | Path | None = None
) -> list[Structure]:
    """The structures of a data set; one that is not embedded is fetched once and kept.

    Args:
        name: of `datasets`.
        parts: of an embedded set; None for all.
        cache: folder for fetched files; by default the user's cache folder.

    Raises:
        DataError: for an unknown name or part, or when a set cannot be fetched or arrives damaged.
    """
    entry = _entry(name)
    if not entry.is_embedded:
        return read_structures(fetch(name, cache), entry.keys)
    files = _embedded_files(name)
    wanted = [parts] if isinstance(parts, str) else list(files) if parts is None else list(parts)
    return [structure for part in wanted for structure in _read_part(entry, part, files)]


def fetch(name: str, cache: str | Path | None = None) -> Path:
    """Path of the file of a data set, downloaded if it is not in the cache yet.

    Raises:
        DataError: when the set is embedded, the network fails, the hash is wrong, or another file has its name, which
            is left as it is.
    """
    entry = _entry(name)
    if entry.is_embedded:
        raise DataError(f"{name} is embedded in mekrr: load_dataset({name!r}) needs no download")
    folder = Path(cache) if cache else platformdirs.user_cache_path("mekrr") / "data"
    target = folder / f"{name}.xyz"
    _refuse_stranger(target, entry)
    try:
        import pooch

        known_hash = f"sha256:{entry.sha256}" if entry.sha256 else None
        pooch.retrieve(entry.url, known_hash, target.name, folder, downloader=pooch.HTTPDownloader(timeout=30))
    except Exception as error:  # requests and pooch raise many kinds
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{name} could not be fetched from {entry.url}: {reason}. Try again with a network, or download the file "
            f"elsewhere and put it at {target}"
        ) from error
    return target


def _refuse_stranger(target: Path, entry: DatasetEntry) -> None:
    """Raise DataError for a file that is not the data set's: pooch would replace it."""
    if not (target.exists() and entry.sha256):
        return
    if not target.is_file():
        raise DataError(f"{target} is no regular file: move it away, or give another folder (--cache)")
    with open(target, "rb") as file:
        received = hashlib.file_digest(file, "sha256").hexdigest()
    if received != entry.sha256:
        raise DataError(
            f"{target} is another file than {entry.name} (SHA-256 {received}, expected {entry.sha256}) and is left "
            "as it is: move it away, or give another folder (--cache)"
        )


def _entry(name: str) -> DatasetEntry:
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise DataError(f"unknown data set {name!r}: choose one of {', '.join(e.name for e in _ENTRIES)}, or give a file")


def _embedded_files(name: str) -> dict[str, Traversable]:
    """The files of an embedded set by part."""
    folder = resources.files("mekrr.data") / "embedded"
    pattern = re.compile(re.escape(name) + r"-(?P<part>.+)\.extxyz\.gz")
    found = {match["part"]: file for file in folder.iterdir() if (match := pattern.fullmatch(file.name))}
    return dict(sorted(found.items()))


def _count_structures(file: Traversable) -> int:
    """How many frames an embedded file holds: each has one comment line with the names of its columns."""
    with file.open("rb") as raw, gzip.open(raw, "rt") as text:
        return sum("Properties=" in line for line in text)


def _read_part(entry: DatasetEntry, part: str, files: dict[str, Traversable]) -> list[Structure]:
    if part not in files:
        known = ", ".join(files) or "none: this installation lacks the data files, reinstall mekrr"
        raise DataError(f"{entry.name} has no part {part!r}; parts: {known}")
    with resources.as_file(files[part]) as path:
        structures = read_structures(path, entry.keys)
    return [replace(structure, source=f"{entry.name} {part}") for structure in structures]
