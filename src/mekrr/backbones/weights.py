"""Checkpoints on disk: found, hashed, and trusted or not."""

from importlib.util import find_spec
from pathlib import Path

from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of


def packaged_file(module: str, relative: str, sha256: str, package: str) -> Path:
    """Path of a checkpoint inside an installed package, after checking its content.

    Args:
        module: importable name of the package; it is not imported.
        relative: path below the package's folder.
        sha256: what the content must hash to.
        package: distribution name, for the message.

    Raises:
        BackboneUnavailableError: if the file is missing or its hash is another one.
    """
    spec = find_spec(module)
    folder = Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()
    path = folder / relative
    if not path.is_file():
        raise BackboneUnavailableError(
            f"{package} is installed without {relative}, which holds the weights; install a version that ships it: "
            f'pip install --force-reinstall "{package}"'
        )
    received = sha256_of(path)
    if received != sha256:
        raise BackboneUnavailableError(
            f"the weights in the installed {package} are not the ones mekrr knows: {path.name} has SHA-256 {received}, "
            f"expected {sha256}; features would not be comparable, install another version of {package} or load the "
            "file by its path"
        )
    return path


def require_file(path: Path) -> None:
    """Raise BackboneUnavailableError unless `path` is a file."""
    if not path.is_file():
        raise BackboneUnavailableError(f"there is no checkpoint at {path}; check the path after the colon")


def require_trust(path: Path, trust_checkpoint: bool) -> None:
    """Raise BackboneUnavailableError unless the user vouches for a file that can run code when loaded."""
    if not trust_checkpoint:
        raise BackboneUnavailableError(
            f"{path} is a pickle, and loading a pickle can run any code that its author put there; if you trust where "
            "it comes from, say so: --trust-checkpoint, or trust_checkpoint=True"
        )
