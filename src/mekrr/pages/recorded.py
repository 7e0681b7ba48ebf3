"""What pages read of the record that a fitted potential carries; the one place that knows its keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mekrr.potential import Fitted


@dataclass(frozen=True)
class Recorded:
    """The record of a fit, by subject.

    Attributes:
        fitted: the potential.
    """

    fitted: Fitted

    @property
    def options(self) -> dict[str, Any]:
        """As given by the user."""
        return self.fitted.facts["options"]

    @property
    def criterion(self) -> str:
        """By which was chosen."""
        return self.options["criterion"]

    @property
    def solver(self) -> dict[str, Any]:
        """Which one, and what it did."""
        return self.fitted.facts["solver"]

    @property
    def search(self) -> dict[str, Any] | None:
        """What was tried; None where nothing was."""
        return self.fitted.facts.get("search")

    @property
    def leave_one_out(self) -> dict[str, Any]:
        """Errors, and the worst structures."""
        return self.fitted.facts["leave_one_out"]

    @property
    def data(self) -> dict[str, Any]:
        """Of the training set."""
        return self.fitted.facts["data"]

    @property
    def backbone(self) -> dict[str, Any]:
        """Name, origin, licence and reference."""
        return self.fitted.facts["backbone"]

    @property
    def versions(self) -> dict[str, str]:
        """Of packages, when it was fitted."""
        return self.fitted.facts["versions"]

    @property
    def warnings(self) -> list[str]:
        """Said when it was fitted."""
        return self.fitted.facts.get("warnings", [])

    @property
    def seconds(self) -> Mapping[str, float]:
        """By stage; empty where they were not kept."""
        return self.fitted.facts.get("seconds") or {}
