"""What a task is: the fits it needs, and what is shown of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.pages.figures import Panel
from mekrr_comparison.cell import Cell
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import DataSet, Parts, Sizes
from mekrr_comparison.tables import CACHED, Table, error_table


@dataclass(frozen=True)
class Inputs:
    """Everything a task is asked with.

    Attributes:
        sets: data.
        methods: names; empty for the task's own choice.
        seeds: of splits and methods.
        sizes: of training, validation and test.
        train_sizes: of learning curves and scaling; empty for the task's own.
        group: info key of grouped splits.
        pairs: of transfer, as "A+B:C"; empty for every pair of different sets.
        align: "auto", "always" or "never": shift a test set to the zero of the training set.
        backbone: for the methods that stand on one.
        device: where networks compute.
        cluster: as --cluster says; None for none.
        cap: seconds a fit may take.
        cache: folder of features, None for none.
        options: of methods, by method.
    """

    sets: Sequence[DataSet]
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    sizes: Sizes = field(default_factory=Sizes)
    train_sizes: tuple[int, ...] = ()
    group: str | None = None
    pairs: tuple[str, ...] = ()
    align: str = "auto"
    backbone: str = "sevennet-0"
    device: str = "cpu"
    cluster: str | None = None
    cap: float | None = None
    cache: Path | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def cell(self, method: str, labels: dict[str, Any], parts: Parts, seed: int, **more: Any) -> Cell:
        """A cell on one split, tested on the set called test unless `tests` is given.

        Args:
            method: name.
            labels: see Cell.
            parts: what it is trained and tested on.
            seed: of the method.
            **more: `options` that go before those of the user, and other fields of Cell.
        """
        options = {**more.pop("options", {}), **self.options.get(method, {})}
        tests: dict[str, Sequence[Structure]] = more.pop("tests", {"test": parts.test})
        cell = Cell(method, labels, parts.training, parts.validation, tests, seed, self.backbone, options, self.cap)
        return replace(cell, device=self.device, cluster=self.cluster, **({"cache": self.cache} | more))


@dataclass(frozen=True)
class Finding:
    """What a task shows of its results.

    Attributes:
        tables: in order.
        panels: figures.
        sentences: what the numbers say, in words.
    """

    tables: list[Table]
    panels: list[Panel] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


class Task(ABC):
    """One experiment.

    Attributes:
        name: on the command line.
        title: of the page.
        question: what it asks, in a sentence.
        methods: compared unless the user names others.
        own_only: whether only mekrr's own methods make sense.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    own_only: ClassVar[bool] = False

    @abstractmethod
    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """The cells, in the order of the tables, and notes on the data for the settings.

        Raises:
            DataError: when the data do not allow the task.
        """

    @abstractmethod
    def find(self, results: Sequence[Result]) -> Finding:
        """Tables, figures and sentences."""

    def chosen_methods(self, inputs: Inputs) -> tuple[str, ...]:
        """The user's methods, or the task's.

        Raises:
            DataError: for a method that makes no sense here.
        """
        chosen = inputs.methods or self.methods
        strangers = [name for name in chosen if self.own_only and not name.startswith("mekrr")]
        if strangers:
            raise DataError(f"{self.name} is about mekrr's own methods; {', '.join(strangers)} cannot take part")
        return chosen


def main_table(results: Sequence[Result], title: str, note: str = "") -> Table:
    """The table of errors, with the word on cached features where there are any."""
    cached = any(r.record.get("features_from_cache") for r in results if r.is_done)
    return error_table(results, title, " ".join(filter(None, (note, CACHED * cached))))


def notes_of(sets: Sequence[DataSet]) -> list[str]:
    """What was done to the data, each thing once."""
    return list(dict.fromkeys(note for data in sets for note in data.notes))
