"""What the pages for newcomers show is run as it stands there."""

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
