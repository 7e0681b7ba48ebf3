"""Per-atom features: extraction in batches, scaling and the disk cache."""

from mekrr.features.cache import FeatureCache, default_cache_folder, structure_hash
from mekrr.features.environments import Environments
from mekrr.features.extraction import Extraction, extract
from mekrr.features.feature_file import FeatureFile, NetworkRecord, RecordedBackbone, write_features
from mekrr.features.observe import BATCH_ATOMS, Pass, batches, look, observe
from mekrr.features.probes import ALL, Derivatives, DerivativeStore, probe
from mekrr.features.scaling import Scaler
from mekrr.features.space import tangent_space
from mekrr.features.tangent import TangentSpace

__all__ = [
    "ALL",
    "BATCH_ATOMS",
    "DerivativeStore",
    "Derivatives",
    "Environments",
    "Extraction",
    "FeatureCache",
    "FeatureFile",
    "NetworkRecord",
    "Pass",
    "RecordedBackbone",
    "Scaler",
    "TangentSpace",
    "batches",
    "default_cache_folder",
    "extract",
    "look",
    "observe",
    "probe",
    "structure_hash",
    "tangent_space",
    "write_features",
]
