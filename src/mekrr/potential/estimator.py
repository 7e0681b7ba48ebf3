"""The manners of a scikit-learn estimator: parameters by name, and a text that shows the choices."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from mekrr.potential.fitted import Fitted

Same = TypeVar("Same", bound="Estimator")


class Estimator:
    """Parameters by name.

    A subclass stores what its constructor was given through `_take`, which checks it and keeps it in `_parameters`.
    """

    _parameters: dict[str, Any]

    def _take(self, parameters: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor was given, by name; `deep` is scikit-learn's and changes nothing."""
        return dict(self._parameters)

    def set_params(self: Same, **parameters: Any) -> Same:
        """Change what the constructor was given; a fit that is there stays as it is until the next one.

        Raises:
            ValueError: for a name that is none of the constructor's, or a value that it would refuse.
        """
        unknown = [name for name in parameters if name not in self._parameters]
        if unknown:
            raise ValueError(f"no parameter is called {', '.join(unknown)}; there are {', '.join(self._parameters)}")
        self._take(self._parameters | parameters)
        return self

    def __sklearn_tags__(self) -> Any:
        """For scikit-learn, which alone asks: a regressor whose samples are structures."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=False),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(two_d_array=False),
        )

    def __repr__(self) -> str:
        defaults = parameter_defaults(type(self))
        given = [
            f"{name}={value!r}"
            for name, value in self._parameters.items()
            if name == "backbone" or value != defaults[name]
        ]
        text = f"{type(self).__name__}({', '.join(given)})"
        fitted = getattr(self, "fitted_", None)
        return text if fitted is None else f"{text}, fitted to {choices(fitted)}"


def parameter_defaults(kind: type) -> dict[str, Any]:
    """Names of a constructor's parameters in order, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def choices(fitted: Fitted) -> str:
    """What a fit was made of and what it chose, in a line."""
    data, best = fitted.record.data, fitted.record.search.best
    if fitted.is_network:
        return f"{data.n_structures} structures of {' '.join(data.elements)}: a refined network with shifts"
    share = f"tangent share {fitted.tangent_share:.2g}, " if fitted.tangent_share else ""
    return (
        f"{data.n_structures} structures of {' '.join(data.elements)}: {fitted.model.solver} solver, prior "
        f"{fitted.prior.name}, layers {' '.join(fitted.layers)}, length scale {best.length_scale:.3g}, species weight "
        f"{fitted.species_weight:.2g}, {share}ridge {fitted.ridge:.1e}"
    )
