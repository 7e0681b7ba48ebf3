"""The tables of a benchmark as Markdown, to go into a paper's supplement, an issue or a readme."""

from collections.abc import Mapping, Sequence

from mekrr_comparison.tables import Table


def markdown(
    title: str, question: str, notes: Sequence[str], tables: Sequence[Table], sentences: Sequence[str],
    settings: Mapping[str, str], versions: Mapping[str, str],
) -> str:  # fmt: skip
    """The whole page without its figures.

    Args:
        title: of the task.
        question: that it asks.
        notes: on the data.
        tables: in order.
        sentences: what the numbers say.
        settings: in words.
        versions: of packages.
    """
    parts = [f"# {title}", question, *(f"- {note}" for note in notes)]
    for table in tables:
        parts += [f"## {table.title}", _table(table), table.note, *table.footnotes]
    parts += sentences
    parts += ["## Settings", "\n".join(f"- {name}: {value}" for name, value in settings.items())]
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    rules = ["---:" if k in table.numeric else "---" for k in range(len(table.columns))]
    return "\n".join("| " + " | ".join(map(_escaped, row)) + " |" for row in (table.columns, rules, *table.rows))


def _escaped(word: str) -> str:
    return word.replace("|", "\\|").replace("\n", " ")
