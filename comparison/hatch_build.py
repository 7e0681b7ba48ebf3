"""The version of mekrr beside it, and the dependency on exactly that version."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SameVersion(MetadataHookInterface):
    """The two distributions are made from one commit: results are compared between them, and internals are used."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what pyproject.toml calls dynamic; a source distribution brings it in its PKG-INFO."""
        source = Path(self.root).parent / "src" / "mekrr" / "_version.py"
        found = re.search(r'__version__\s*=\s*"([^"]+)"', source.read_text("utf-8"))
        if found is None:
            raise ValueError(f"{source}: no __version__ in it")
        metadata["version"] = found.group(1)
        metadata["dependencies"] = [f"mekrr=={found.group(1)}"]
