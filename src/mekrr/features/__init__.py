"""Per-atom features: extraction in batches, scaling and the disk cache."""

from mekrr.features.cache import FeatureCache, default_cache_folder, structure_hash
from mekrr.features.environments import Environments
from mekrr.features.extraction import Extraction, batches, extract
from mekrr.features.probes import ALL, Derivatives, DerivativeStore, probe
from mekrr.features.scaling import Scaler

__all__ = [
    "ALL",
    "DerivativeStore",
    "Derivatives",
    "Environments",
    "Extraction",
    "FeatureCache",
    "Scaler",
    "batches",
    "default_cache_folder",
    "extract",
    "probe",
    "structure_hash",
]
