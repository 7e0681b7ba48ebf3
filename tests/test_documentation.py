"""What the pages for newcomers show is run as it stands there."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not beside the tests")
def test_the_page_on_kernel_components_ends_with_a_check_that_passes():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-kernel-component.md").read_text(encoding="utf-8"), re.S)
    assert "check_pointwise_kernel" in blocks[-1]
    names: dict = {}
    for block in blocks:
        exec(compile(block, "add-a-kernel-component.md", "exec"), names)
    assert len(names["kernel"].components) == 2


def _texts():
    """Every text in the sources of the package, with dots where something is filled in."""
    for path in (DOCS.parent / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not beside the tests")
def test_the_messages_among_the_pitfalls_are_those_of_the_package():
    bold = re.findall(r"^\*\*(.*?)\*\*", (DOCS / "pitfalls.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    quoted = [" ".join(text.split()) for part in bold for text in re.findall(r'"([^"]+)"', part)]
    assert len(quoted) > 8
    said = [re.sub(r"(\.\.\.)+", "...", text) for text in _texts()]
    assert [text for text in quoted if not any(text in one for one in said)] == []
