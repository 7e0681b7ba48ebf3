"""metatomic: a potential as a file that its engines load, without mekrr where it runs."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, no_type_check  # noqa: UP035 (TorchScript reads these)

import torch
from ase.data import chemical_symbols

from mekrr.errors import EngineError
from mekrr.files import atomic_path
from mekrr.potential import KernelPotential
from mekrr.potential.scripted import MEMBERS, ScriptedPotential

INSTALL = 'pip install "mekrr[metatomic]", or pip install metatomic-torch'

ARTICLE = "https://arxiv.org/abs/2306.01589"

OUTPUTS = {
    "energy": "total energy",
    "energy_uncertainty": "calibrated standard deviation of the energy, of the potential's posterior",
    "energy_ensemble": "energies of draws of the posterior: functions, whose differences have gradients",
}

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ModuleNotFoundError as error:
    raise EngineError(f"metatomic is not installed here ({error}): {INSTALL}") from error
except (ImportError, OSError, RuntimeError) as error:  # its libraries are built for certain versions of PyTorch
    raise EngineError(
        f"metatomic does not fit PyTorch {torch.__version__} ({error}): install a PyTorch that it is built for, as "
        "constraints.txt has it, or a newer metatomic-torch"
    ) from error


@no_type_check  # TorchScript reads the annotations, and takes its own classes in them
class MetatomicPotential(torch.nn.Module):
    """What metatomic calls: systems with their neighbours to quantities of systems or atoms.

    Args:
        potential: as TorchScript.
        cutoff: of its edges, Angstrom.
        elements: that it knows.
    """

    def __init__(self, potential: Any, cutoff: float, elements: list[int]) -> None:
        super().__init__()
        self.potential = potential
        self.cutoff = cutoff
        self.elements = elements

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """All pairs within the cutoff, both ways."""
        return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=True)]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """See metatomic."""
        found: Dict[str, TensorMap] = {}  # noqa: UP006
        if len(systems) == 0:
            return found
        device, dtype = systems[0].positions.device, systems[0].positions.dtype
        species: List[torch.Tensor] = []  # noqa: UP006
        pairs: List[torch.Tensor] = []  # noqa: UP006
        vectors: List[torch.Tensor] = []  # noqa: UP006
        samples: List[torch.Tensor] = []  # noqa: UP006
        sizes: List[int] = []  # noqa: UP006
        start = 0
        for t, system in enumerate(systems):
            neighbours = system.get_neighbor_list(self.requested_neighbor_lists()[0])
            pairs.append(start + neighbours.samples.values[:, :2].to(torch.int64))
            vectors.append(neighbours.values.squeeze(-1))
            species.append(system.types.to(torch.int64))
            atom = torch.arange(len(system), dtype=torch.int32, device=device)
            samples.append(torch.stack([torch.full_like(atom, t), atom], dim=1))
            sizes.append(len(system))
            start += len(system)
        n_atoms = torch.tensor(sizes, dtype=torch.int64, device=device)
        sample, pair = torch.cat(samples), torch.cat(pairs)
        structure = sample[:, 0].to(torch.int64)
        counted = torch.ones(start, dtype=torch.float64, device=device)
        chosen = torch.arange(start, device=device)
        if selected_atoms is not None:
            picked = selected_atoms.values.to(torch.int64)
            starts = torch.cumsum(n_atoms, 0) - n_atoms
            chosen = starts[picked[:, 0]] + picked[:, 1]
            counted = torch.zeros_like(counted)
            counted[chosen] = 1.0
        of_systems: List[str] = []  # noqa: UP006
        of_atoms: List[str] = []  # noqa: UP006
        for name, output in outputs.items():
            if output.sample_kind == "atom":
                of_atoms.append(name)
            else:
                of_systems.append(name)
        values = self.potential(
            torch.cat(species),
            structure,
            n_atoms,
            pair[:, 0],
            pair[:, 1],
            torch.cat(vectors),
            counted,
            selected_atoms is None,
            of_systems,
            of_atoms,
        )
        by_system = Labels(["system"], torch.arange(len(systems), dtype=torch.int32, device=device).unsqueeze(1))
        by_atom = Labels(["system", "atom"], sample[chosen])
        for name, output in outputs.items():
            if output.sample_kind == "atom":
                found[name] = self.mapped(values[name + "/atom"][chosen].to(dtype), by_atom)
            else:
                found[name] = self.mapped(values[name].to(dtype), by_system)
        return found

    def mapped(self, values: torch.Tensor, samples: Labels) -> TensorMap:
        """Values with their labels."""
        device = values.device
        properties = torch.arange(values.shape[1], dtype=torch.int32, device=device).unsqueeze(1)
        block = TensorBlock(values, samples, torch.jit.annotate(List[Labels], []), Labels(["energy"], properties))  # noqa: UP006
        return TensorMap(Labels(["_"], torch.zeros((1, 1), dtype=torch.int32, device=device)), [block])


def metatomic_model(potential: KernelPotential, members: int = MEMBERS) -> AtomisticModel:
    """The potential as a model of metatomic: energies, deviations and an ensemble of energies, in eV and Angstrom.

    Args:
        potential: fitted with the sum embedding, on a network that can be scripted (SevenNet).
        members: of the ensemble.

    Raises:
        BackboneUnavailableError: see KernelPotential.backbone.
        ValueError: for a potential that cannot be written as TorchScript.
    """
    fitted, backbone = potential.fitted_, potential.backbone
    if backbone.device.type != "cpu":
        raise ValueError("load the potential with device cpu: a model is written there and moved where it runs")
    elements = sorted(fitted.known_species)
    module = MetatomicPotential(ScriptedPotential(fitted, backbone, members).eval(), float(backbone.cutoff), elements)
    capabilities = ModelCapabilities(
        outputs={name: ModelOutput(unit="eV", sample_kind="atom", description=text) for name, text in OUTPUTS.items()},
        atomic_types=elements,
        interaction_range=float(backbone.cutoff) * backbone.reach,
        length_unit="Angstrom",
        supported_devices=["cpu", "cuda"],
        dtype="float64",
    )
    metadata = ModelMetadata(
        name="mekrr",
        description=str(potential),
        references={"architecture": [ARTICLE], "model": [backbone.card.citation]},
    )
    return AtomisticModel(module.eval(), metadata, capabilities)


@dataclass(frozen=True)
class Written:
    """What a model file offers.

    Attributes:
        elements: symbols; structures with others are refused by metatomic.
        outputs: names.
        members: of the ensemble.
    """

    elements: list[str]
    outputs: list[str]
    members: int


def export_metatomic(potential: KernelPotential, path: str | Path, members: int = MEMBERS) -> Written:
    """Write the potential as a model file of metatomic.

    Args:
        potential: see metatomic_model.
        path: of the file, .pt.
        members: of the ensemble.

    Raises:
        BackboneUnavailableError, ValueError: see metatomic_model.
        OSError: when the file cannot be written.
    """
    model = metatomic_model(potential, members)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's, of TorchScript
        model.save(str(temporary))
    elements = [chemical_symbols[z] for z in model.capabilities().atomic_types]
    return Written(elements, list(OUTPUTS), members)
