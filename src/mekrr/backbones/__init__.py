"""Frozen pretrained networks, one adapter a file, found through entry points and imported lazily."""

from mekrr.backbones.base import Backbone, BackboneCard, BackboneOutput

__all__ = ["Backbone", "BackboneCard", "BackboneOutput"]
