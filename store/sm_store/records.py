"""The values that go into a store and come out of it, and the description of a target set.

    Record("1089-134686-0000", features_TD, Fields(text="he hoped", duration=1.2))     in, and out of store[i]
    Reject("1089-134686-0001", "audio_missing", "wav/0001.flac: no such file")         in
    Batch(features_BTD, frames_B, indices_B, targets_BUE, vectors_B, tokens_B, ...)    out of store.read

Shapes: B batch, T encoder frames after averaging, D encoder width, U projector vectors, E LLM embedding
width, V vocabulary. `bfloat16`, which numpy lacks, is represented by its uint16 bits everywhere
(`torch.from_numpy(x).view(bfloat16)` or `sm_store.dtypes.to_float32(x, "bfloat16")` turns them into numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from sm_store.errors import StoreFormatError
from sm_store.fields import FIELDS, Fields
from sm_store.geometry import Geometry
from sm_store.int8 import Quantized

TargetKind = Literal["dense", "table"]


@dataclass(frozen=True, slots=True)
class Record:
    """One utterance: features (T, D) in the store's dtype, and its fields.

    Attributes:
        quantized: the int8 form the features were made from; an int8 store keeps it unchanged.
    """

    id: str
    features: np.ndarray
    fields: Fields
    quantized: Quantized | None = None

    def __getattr__(self, name: str) -> Any:
        """The fields by name: `record.text`."""
        if name in FIELDS:
            return getattr(self.fields, name)
        raise AttributeError(f"a record has no field {name!r}; there are {', '.join(FIELDS)}")


@dataclass(frozen=True, slots=True)
class Reject:
    """One utterance that is not in the store: `reason` is a code of `sm_store.ledger.REASONS`."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded arrays of some records, in the requested order.

    The arrays are views of a buffer that is used again once nothing refers to it: keep the arrays (or tensors
    made from them) as long as the numbers are needed (with asynchronous copies to a GPU: until the copy has
    ended).

    Attributes:
        features_BTD: (B, T, D) in the store's dtype, zero beyond each record's frames.
        frames_B: (B,) int64.
        indices_B: (B,) int64, positions in the store.
        targets_BUE: (B, U, E) token embeddings, then pad rows up to the record's own U, then zeros.
        vectors_B: (B,) int64, each record's own U.
        tokens_B: (B,) int64; 0 = this record has no target (its text is too long for its frames).
        token_ids: one int32 array (tokens,) per record.
    """

    features_BTD: np.ndarray
    frames_B: np.ndarray
    indices_B: np.ndarray
    targets_BUE: np.ndarray | None = None
    vectors_B: np.ndarray | None = None
    tokens_B: np.ndarray | None = None
    token_ids: list[np.ndarray] | None = None


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """The identity of a target set: which LLM's embeddings, and how they were laid out.

    Attributes:
        name: folder and column name: letters, digits, `.`, `_`, `-`.
        llm: model id as the user named it; `revision` its commit, None for a local folder.
        tokenizer_sha256: of the tokenizer files (`sm_store.targets.tokenizer_sha256`).
        table_sha256: of the embedding table (`sm_store.targets.table_sha256`).
        table_scale: mean square of the table's numbers: the mean squared error per dimension of predicting zero.
        pad_token: the token whose embedding fills positions after the text; `pad_id` its row.
        width: E. vocabulary: V, rows of the table.
        kind: `dense` = padded embeddings stored per record; `table` = token ids, embedded when read.
        geometry: frames to vectors, as the projector's convolutions do it.
        dtype: of the embeddings read: the store's own.
        normalizer: version of the text normalisation before the tokenizer.
    """

    name: str
    llm: str
    revision: str | None
    tokenizer_sha256: str
    table_sha256: str
    table_scale: float
    pad_token: str
    pad_id: int
    width: int
    vocabulary: int
    kind: TargetKind = "dense"
    geometry: Geometry = field(default_factory=Geometry)
    dtype: str = "float16"
    normalizer: str = "mms-1"

    def to_json(self) -> dict[str, Any]:
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        data["geometry"] = self.geometry.to_json()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TargetSpec:
        """Raises StoreFormatError where a key is missing or unknown."""
        names = {item.name for item in fields(cls)}
        wrong = sorted(names.symmetric_difference(data))
        if wrong:
            raise StoreFormatError(f"target set {data.get('name')!r}: missing or unknown keys {wrong}")
        return cls(**{**data, "geometry": Geometry.from_json(data["geometry"])})
