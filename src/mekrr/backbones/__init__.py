"""Frozen pretrained networks, one adapter a file, found through entry points and imported lazily."""

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.changed import changed
from mekrr.backbones.exchange import Exchange, exchanging
from mekrr.backbones.linear_maps import LinearMap, offer_linear_maps, tapped
from mekrr.backbones.registry import BackboneListing, available_backbones, fetch_backbone, load_backbone
from mekrr.backbones.weight_gradients import (
    WeightChange,
    WeightGradients,
    element_rows,
    weight_gradients,
    weight_gradients_along,
)

__all__ = [
    "Backbone",
    "BackboneCard",
    "BackboneEntry",
    "BackboneListing",
    "BackboneOutput",
    "Exchange",
    "LinearMap",
    "WeightChange",
    "WeightGradients",
    "available_backbones",
    "changed",
    "element_rows",
    "exchanging",
    "fetch_backbone",
    "load_backbone",
    "offer_linear_maps",
    "tapped",
    "weight_gradients",
    "weight_gradients_along",
]
