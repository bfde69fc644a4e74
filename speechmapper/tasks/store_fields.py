"""The fields of a store's utterances that tasks draw on, by index.

StoreFields(store)[7]  ->  Fields("The dog slept.", 1.2, translation={"de": "Der Hund schlief."})
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sm_store import Fields
from sm_store.fields import CATEGORIES, FIELDS
from speechmapper.loader.stores import OpenStore

# Categories (speaker, split, ...) describe where an utterance is from; to a task matter its language, and whether its
# corpus has transcripts.
USED = tuple(name for name in FIELDS if name in ("lang", "corpus") or name not in CATEGORIES)


class StoreFields:
    """The fields of a store's utterances; they stay in Arrow's columns until asked for."""

    def __init__(self, store: OpenStore) -> None:
        self._columns = store.columns(list(USED))

    def __getitem__(self, index: int) -> Fields:
        row = {name: self._columns[name][int(index)].as_py() for name in USED}
        translation = dict(row.pop("translation") or {})
        return Fields(**row, translation=translation or None)

    def languages(self, indices: np.ndarray) -> set[str]:
        """The languages that any of the utterances (n,) has a translation in."""
        chunks = self._columns["translation"].take(indices).chunks
        return {language for chunk in chunks for language in chunk.keys.unique().to_pylist()}

    def present(self, names: Sequence[str], indices: np.ndarray) -> np.ndarray:
        """Which of the utterances (n,) have all of these fields: a mask (n,), bool."""
        mask = np.ones(len(indices), bool)
        for name in names:
            mask &= np.asarray(self._columns[name].take(indices).is_valid())
        return mask
