"""Fits and predictions from a feature file, where the network is not: what is possible, and what is said."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mekrr.data import Structure
from mekrr.features import ALL, FeatureFile
from mekrr.potential.advice import MekrrWarning
from mekrr.potential.evaluate import Wanted
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import AUTO, NO_ANCHORS, FitOptions


def options_with_file(options: FitOptions, file: FeatureFile) -> FitOptions:
    """The options with the file's backbone, probes and seed of the probes.

    Raises:
        ValueError: for options that ask for another backbone, other probes or another seed than the file has.
    """
    made, default = file.made, FitOptions()
    own: dict[str, Any] = {"backbone": made.spec, "seed": made.seed} | (
        {} if made.probes is None else {"probes": made.probes}
    )
    for name, value in own.items():
        given = getattr(options, name)
        if given not in (value, getattr(default, name)):
            raise ValueError(
                f"{file.path} was made with {name} {value}, and {name} {given} was asked for; leave it out, or make "
                "another file"
            )
    return replace(options, **own)


def fit_options(
    options: FitOptions, file: FeatureFile, structures: Sequence[Structure], remarks: list[str]
) -> FitOptions:
    """What a fit can do without the network; `remarks` grows by what was decided.

    Raises:
        DataError: when the file lacks structures, or derivatives that were asked for.
        ValueError: for refinement and anchors, which need the network.
    """
    file.require(structures)
    if options.refine != 0:
        raise ValueError(f"--refine changes the network's weights, and {file.path} holds its features alone")
    if options.anchors not in (AUTO, NO_ANCHORS):
        raise ValueError(f"--anchors: {file.path} holds features of training structures, not of {options.anchors}")
    possible = options.embedding == "sum" and options.solver != "exact" and options.forces is not False
    if not possible:
        return options
    labelled = any(s.forces is not None or s.stress is not None for s in structures)
    if not file.has_derivatives(structures, options.forces is True):
        if labelled:
            remarks.append(f"{file.path} holds no derivatives: the fit is to energies alone")
        return replace(options, forces=False, probes=FitOptions().probes)
    if options.anchors == AUTO and options.tangent_share != 0.0 and file.made.maps:
        remarks.append(f"{file.path} holds features of training structures alone, so there are no anchors")
    options = replace(options, anchors=NO_ANCHORS)
    if options.exact_forces and file.made.probes != ALL:
        remarks.append(
            f"{file.path} holds derivatives along {file.made.probes} random directions a structure, and the network is "
            "not here: the solution stops at these (--no-exact-forces). Features made with --probes all have no such "
            "limit, or fit where the network is"
        )
        return replace(options, exact_forces=False)
    return options


def wanted_from_file(wanted: Wanted, fitted: Fitted, file: FeatureFile, structures: Sequence) -> Wanted:
    """What can be predicted without the network; a warning says what is left out.

    Raises:
        DataError: when the file lacks structures.
        ValueError: for a potential or a quantity that needs the network.
    """
    file.require(structures)
    network = f"needs the network {file.made.spec}, and {file.path} holds its features alone"
    if fitted.model.tangent is not None:
        raise ValueError(
            f"this potential changes the network's weights (tangent kernel), so that predicting {network}; predict "
            "where the network is, or fit with --tangent-share 0"
        )
    if wanted.forces_std:
        raise ValueError(f"the deviation of forces {network}; leave it out, or predict where the network is")
    if wanted.gradients:
        message = f"no forces and no stress are predicted: that {network}"
        warnings.warn(message, MekrrWarning, stacklevel=4)
    return replace(wanted, forces=False, backbone_forces=False)
