"""What becomes of structures whose electronic loop did not converge."""

import warnings
from collections.abc import Sequence

from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError, MekrrWarning

CONVERGED = "scf_converged"
"""Key of `info` that is False where the electronic loop stopped unconverged; readers set it where the format tells."""

POLICIES = ("drop", "keep", "refuse")


def check_policy(policy: str) -> None:
    """Refuse what is no policy.

    Raises:
        DataError: listing those there are.
    """
    if policy not in POLICIES:
        raise DataError(f"unknown treatment of unconverged steps {policy!r}: use one of {', '.join(POLICIES)}")


def without_unconverged(structures: Sequence[Structure], policy: str) -> list[Structure]:
    """The structures without those whose electronic loop did not converge, or all of them; a warning counts them.

    Raises:
        DataError: by the policy "refuse", or when nothing is left.
    """
    unconverged = [s for s in structures if str(s.info.get(CONVERGED)).lower() in ("false", "f")]
    if not unconverged:
        return list(structures)
    places = ", ".join(str(s.index) for s in unconverged[:5]) + (", ..." if len(unconverged) > 5 else "")
    what = (
        f"{unconverged[0].source or 'structures'}: the electronic loop of {len(unconverged)} of {len(structures)} "
        f"structures stopped unconverged (index {places})"
    )
    if policy == "refuse":
        raise DataError(f"{what}; repeat them, or leave them out with --unconverged drop")
    if policy == "keep":
        warnings.warn(f"{what}; kept as asked", MekrrWarning, stacklevel=3)
        return list(structures)
    left = [s for s in structures if s not in unconverged]
    if not left:
        raise DataError(f"{what}, so nothing is left; repeat them, or read them with --unconverged keep")
    warnings.warn(f"{what}; left out (--unconverged keep reads them)", MekrrWarning, stacklevel=3)
    return left
