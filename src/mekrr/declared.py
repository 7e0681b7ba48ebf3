"""Options declared once, as fields of a dataclass: Python, the command line and the documentation follow from them."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a field says of itself beside its type and default.

    Attributes:
        help: one line.
        flag: on the command line, e.g. "--force-weight"; empty for a switch that Python alone has.
        words: that may stand in place of a number.
        repeatable: given once for each value.
        switch: of a boolean: its flag and its opposite, or its flag alone.
    """

    help: str
    flag: str
    words: tuple[str, ...] = ()
    repeatable: bool = False
    switch: str = ""


@dataclass(frozen=True)
class Declared:
    """An option with its place.

    Attributes:
        name: of the field.
        type: annotation.
        default: of the field.
        option: what it says of itself.
    """

    name: str
    type: Any
    default: Any
    option: Option


def option(
    default: Any,
    text: str,
    flag: str,
    words: tuple[str, ...] = (),
    repeatable: bool = False,
    switch: str = "",
) -> Any:
    """A dataclass field that is an option; see Option."""
    return field(default=default, metadata={KEY: Option(text, flag, words, repeatable, switch)})


def declared(kind: type) -> Iterator[Declared]:
    """The options that a dataclass declares, in order."""
    for one in fields(kind):
        if KEY in one.metadata:
            default = None if one.default is MISSING else one.default
            yield Declared(one.name, one.type, default, one.metadata[KEY])


def as_table(kind: type) -> str:
    """The options of a dataclass as a Markdown table."""
    rows = ["| option | default | |", "|---|---|---|"]
    for one in declared(kind):
        shown = ", ".join(f"`{flag}`" for flag in (one.option.switch or one.option.flag).split("/"))
        default = "" if one.default is None else f"`{one.default}`"
        rows.append(f"| {shown} | {default} | {one.option.help} |")
    return "\n".join(rows) + "\n"
