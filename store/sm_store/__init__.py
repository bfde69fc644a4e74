"""The feature store: speech features and LLM targets, extracted once, read millions of times."""

from sm_store.errors import (
    IdentityMismatch,
    SpeechMapperError,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFormatError,
    StoreMissing,
)
from sm_store.fields import Fields
from sm_store.geometry import Geometry
from sm_store.identity import Identity
from sm_store.records import Batch, Record, Reject, TargetSpec
from sm_store.store import Store
from sm_store.targets import TargetSet
from sm_store.version import __version__

__all__ = [
    "Batch",
    "Fields",
    "Geometry",
    "Identity",
    "IdentityMismatch",
    "Record",
    "Reject",
    "SpeechMapperError",
    "Store",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFormatError",
    "StoreMissing",
    "TargetSet",
    "TargetSpec",
    "__version__",
]
