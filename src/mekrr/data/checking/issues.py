"""A fault, the structures that have it, and the words for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mekrr.data.reading.structure import Structure


@dataclass(frozen=True)
class Issue:
    """One kind of fault and the structures that have it.

    Attributes:
        level: errors forbid using the data, warnings do not.
        code: short name, stable from version to version.
        message: file, index, what is wrong, what to do.
        indices: positions of the structures in the list that was validated, the worst or first one leading.
    """

    level: Literal["error", "warning"]
    code: str
    message: str
    indices: tuple[int, ...] = ()


def found_issue(
    level: Literal["error", "warning"], code: str, found: Sequence[tuple[int, str]], structures: Sequence[Structure],
    advice: str,
) -> list[Issue]:  # fmt: skip
    """One issue about all structures found, whose message describes the first."""
    if not found:
        return []
    index, complaint = found[0]
    more = f" ({len(found) - 1} more like it: {_listed(structures, found[1:])})" if len(found) > 1 else ""
    message = f"{structures[index].where}: {complaint}{more}; {advice}"
    return [Issue(level, code, message, tuple(i for i, _ in found))]


def _listed(structures: Sequence[Structure], found: Sequence[tuple[int, str]]) -> str:
    places = ", ".join(str(structures[i].index) for i, _ in found[:5])
    return f"index {places}{', ...' if len(found) > 5 else ''}"


def named_sources(structures: Sequence[Structure]) -> str:
    """The files that structures came from, in words."""
    return ", ".join(sorted({s.source for s in structures if s.source})) or "these structures"
