"""What each ingredient is worth: everything else chosen as usual, one thing changed."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mekrr.backbones import load_backbone
from mekrr.pages.figures import Panel
from mekrr.prior import NEEDS_BACKBONE, PRIORS
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import QUANTITIES, bars
from mekrr_comparison.own import UNTRAINED
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import divide, union
from mekrr_comparison.tables import grouped
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of

NOTE = (
    "Untrained features come from the same network with the numbers in each weight tensor shuffled. Features are "
    "compared with the prior composition, because an untrained network has no energy worth falling back on."
)


WITH_FORCES = ("mekrr", "mekrr-sparse")


class Ablation(Task):
    """Features, layers, kernel and its components, embedding, species weight and prior."""

    name: ClassVar[str] = "ablation"
    title: ClassVar[str] = "What each ingredient is worth"
    question: ClassVar[str] = (
        "How much of the accuracy comes from what the network has learnt, from which layer, from the kernel, from "
        "adding instead of averaging atoms, from telling species apart, and from the prior?"
    )
    methods: ClassVar[tuple[str, ...]] = ("mekrr-exact",)
    own_only: ClassVar[bool] = True

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Each variant on each split."""
        data = union(inputs.sets)
        splits = [divide(data.structures, inputs.sizes, seed, inputs.group) for seed in inputs.seeds]
        cells = []
        for method in self.chosen_methods(inputs):
            forces = method in WITH_FORCES and any(s.forces is not None for s in data.structures)
            for ingredient, choice, options in variants(inputs.backbone, forces):
                labels = {"ingredient": ingredient, "choice": choice}
                for parts, seed in zip(splits, inputs.seeds, strict=True):
                    cells.append(inputs.cell(method, labels, parts, seed, options=options))
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """One table, one figure an ingredient."""
        return Finding([main_table(results, "Errors", NOTE)], _panels(results))


def variants(spec: str, forces: bool = False) -> list[tuple[str, str, dict[str, Any]]]:
    """Ingredient, choice and options of every variant for a backbone; the tangent kernel's where forces are fitted."""
    backbone = load_backbone(spec)
    components: list[tuple[str, str, dict[str, Any]]] = [
        ("components", "features", {"tangent_share": 0.0}),
        ("components", "tangent", {"tangent_share": 0.999}),
        ("components", "both", {}),
    ]
    priors = [name for name in PRIORS if backbone.has_energy or name not in NEEDS_BACKBONE]
    return [
        ("everything", "auto", {}),
        ("features", "pretrained", {"prior": "composition"}),
        ("features", "untrained", {"prior": "composition", UNTRAINED: True}),
        *(("layers", name, {"layers": [name]}) for name in backbone.layers),
        ("layers", "all", {"layers": list(backbone.layers)}),
        *(("kernel", name, {"kernel": name}) for name in ("gaussian", "linear")),
        *(components if forces and backbone.linear_maps else []),
        *(("embedding", name, {"embedding": name}) for name in ("sum", "mean")),
        ("species weight", "0: one for all", {"species_weight": 0.0}),
        ("species weight", "1: one each", {"species_weight": 1.0}),
        ("species weight", "auto", {}),
        *(("prior", name, {"prior": name}) for name in priors),
    ]


def _panels(results: Sequence[Result]) -> list[Panel]:
    groups, panels = grouped(results), []
    for ingredient in dict.fromkeys(group.labels["ingredient"] for group in groups):
        part = [group for group in groups if group.labels["ingredient"] == ingredient]
        for metric, title in QUANTITIES.items():
            drawn = bars(f"{ingredient.replace(' ', '-')}-{metric}", part, metric, title)
            if drawn is not None and ingredient != "everything":
                panels.append(Panel(drawn.name, f"{ingredient}: {title}", drawn.spec, drawn.height))
    return panels
