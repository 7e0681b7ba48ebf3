"""SevenNet as TorchScript: sevenn's stock modules, which other programs can load, with what meets its linear maps.

The convolution of `mekrr.backbones.convolution` is faster and cannot be scripted. sevenn's own can, and allows reverse
mode twice, which is how the tangent kernel's signals dE/dy get gradients of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List, Tuple  # noqa: UP035 (TorchScript reads these)

import torch
from torch import Tensor

_ONEHOT = "onehot_idx_to_onehot"


class ScriptedSevenNet(torch.nn.Module):
    """A pass up to atomic energies, from edges and their vectors.

    `forward` is compiled: its arguments are species (atoms,), structure (atoms,), n_atoms (structures,), centre and
    neighbour (edges,), vectors (edges, 3) in Angstrom, and whether linear maps are to be tracked. It returns features
    (atoms, features), atomic energies (atoms,) in eV and, if tracked, for each linear map in the network's order the
    activation (atoms, n_in x components) and the output (atoms, n_out x components), in which energies can be
    differentiated.

    Args:
        model: sevenn's AtomGraphSequential, on the CPU.
        scalars: columns of the features of each layer that is asked for, by the name of its gate, in order.
        linear: widths of the outputs, and columns of the inputs, of each linear layer's maps, by name of the module.
        modality: level of theory, None for models of one.
    """

    types: Tensor
    unit: Tensor
    tapped: List[List[int]]  # noqa: UP006
    order: List[int]  # noqa: UP006
    widths: List[List[int]]  # noqa: UP006
    starts: List[List[int]]  # noqa: UP006
    ends: List[List[int]]  # noqa: UP006
    inputs: List[str]  # noqa: UP006
    outputs: List[str]  # noqa: UP006

    def __init__(
        self,
        model: Any,
        scalars: Mapping[str, Sequence[int]],
        linear: Mapping[str, tuple[Sequence[int], Sequence[slice]]],
        modality: int | None,
    ) -> None:
        super().__init__()
        modules = dict(model.named_children())
        names = list(modules)[: list(modules).index("rescale_atomic_energy") + 1]
        self.layers = torch.nn.ModuleList([modules[name] for name in names])
        self.tapped = [list(scalars.get(name, ())) for name in names]
        met = [name for name in names if name in scalars]
        self.order = [met.index(name) for name in scalars]
        self.widths = [list(linear[name][0]) if name in linear else [] for name in names]
        self.starts = [[part.start for part in linear[name][1]] if name in linear else [] for name in names]
        self.ends = [[part.stop for part in linear[name][1]] if name in linear else [] for name in names]
        self.inputs = [getattr(modules[name], "key_input", "x") for name in names]
        self.outputs = [getattr(modules[name], "key_output", "x") for name in names]
        self.onehot = names.index(_ONEHOT)
        self.modality = -1 if modality is None else modality
        types = torch.zeros(120, dtype=torch.int64)
        types[list(model.type_map)] = torch.tensor(list(model.type_map.values()))
        self.register_buffer("types", types)
        self.register_buffer("unit", next(model.parameters()).new_ones(()))  # has the dtype of the network

    def forward(
        self,
        species: Tensor,
        structure: Tensor,
        n_atoms: Tensor,
        centre: Tensor,
        neighbour: Tensor,
        vectors: Tensor,
        tracked: bool,
    ) -> Tuple[Tensor, Tensor, List[Tensor], List[Tensor]]:  # noqa: UP006
        """See the class."""
        data: Dict[str, Tensor] = {  # noqa: UP006
            "x": self.types[species],
            "edge_index": torch.stack([centre, neighbour]),
            "edge_vec": vectors.to(self.unit.dtype),
            "num_atoms": n_atoms,
            "batch": structure,
        }
        if self.modality >= 0:
            data["modal_type"] = torch.full_like(n_atoms, self.modality)
        features: List[Tensor] = []  # noqa: UP006
        activations: List[Tensor] = []  # noqa: UP006
        found: List[Tensor] = []  # noqa: UP006
        for k, layer in enumerate(self.layers):
            met = data[self.inputs[k]]
            data = layer(data)
            if k == self.onehot:  # sevenn makes one-hot species in float32, whatever the network's precision
                for key in ["x", "node_attr"]:
                    data[key] = data[key].to(self.unit.dtype)
            widths = self.widths[k]
            if tracked and len(widths) > 0:
                parts: List[Tensor] = []  # noqa: UP006
                for m, y in enumerate(data[self.outputs[k]].split(widths, dim=1)):
                    part = y if y.requires_grad else y.detach().requires_grad_(True)
                    activations.append(met[:, self.starts[k][m] : self.ends[k][m]])
                    found.append(part)
                    parts.append(part)
                data[self.outputs[k]] = torch.cat(parts, dim=1)
            columns = self.tapped[k]
            if len(columns) > 0:
                features.append(data["x"][:, columns])
        wanted = torch.cat([features[k] for k in self.order], dim=1)
        return wanted, data["atomic_energy"].squeeze(1), activations, found


def scripted_sevennet(
    source: Path,
    layers: Mapping[str, Any],
    scalars: Mapping[str, Sequence[int]],
    linear: Mapping[str, tuple[Sequence[int], Sequence[slice]]],
    modality: int | None,
) -> Any:
    """A TorchScript module that computes what `ScriptedSevenNet` says.

    Args:
        source: the checkpoint that the network was built from, checked or trusted then.
        layers: linear layers that may have other weights than the checkpoint, by the name of sevenn's module.
        scalars: see ScriptedSevenNet.
        linear: see ScriptedSevenNet.
        modality: see ScriptedSevenNet.
    """
    from e3nn.util.jit import script
    from sevenn.checkpoint import SevenNetCheckpoint

    model = SevenNetCheckpoint(source).build_model().eval().requires_grad_(False)
    modules: dict[str, Any] = dict(model.named_children())
    for name, layer in layers.items():
        modules[name].linear.weight.copy_(layer.weight.detach().cpu())
    return script(ScriptedSevenNet(model, scalars, linear, modality).eval())
