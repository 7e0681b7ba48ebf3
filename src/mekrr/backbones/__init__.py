"""Frozen pretrained networks, one adapter a file, found through entry points and imported lazily."""

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.registry import BackboneListing, available_backbones, fetch_backbone, load_backbone

__all__ = [
    "Backbone",
    "BackboneCard",
    "BackboneEntry",
    "BackboneListing",
    "BackboneOutput",
    "available_backbones",
    "fetch_backbone",
    "load_backbone",
]
