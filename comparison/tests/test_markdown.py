from mekrr_comparison.markdown import markdown
from mekrr_comparison.tables import Table


def test_tables_have_a_row_a_line_and_no_stray_bars():
    table = Table("Errors", ("method", "E"), (("a|b", "1.0"), ("two\nlines", "2")), frozenset({1}), "meV", ("[1] why",))
    text = markdown("Title", "Why?", ["one note"], [table], ["So."], {"seeds": "0"}, {"mekrr": "1"})
    assert "| method | E |\n| --- | ---: |\n| a\\|b | 1.0 |\n| two lines | 2 |" in text
    order = [text.index(words) for words in ("# Title", "Why?", "- one note", "## Errors", "[1] why", "So.", "- seeds")]
    assert order == sorted(order)
    assert text.endswith("Versions: mekrr 1.\n")
