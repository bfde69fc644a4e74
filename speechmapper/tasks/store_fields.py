"""The fields of a store's utterances that tasks draw on, by index.

    StoreFields(store)[7]  ->  Fields("The dog slept.", 1.2, translation={"de": "Der Hund schlief."})
    StoreFields(store).translated(["de"], np.array([6, 7]))  ->  [False, True]

What is asked of many utterances at once (`present`, `translated`, `among`) is answered from whole columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sm_store import Fields
from sm_store.fields import FIELDS, TEXTS
from speechmapper.loader.stores import OpenStore

ROWS = 65_536  # read together where the fields of many utterances are gone through
ABSENT = {"text": "", "duration": 0.0}  # of the fields that every utterance has, where they are not asked for


class StoreFields:
    """The fields of a store's utterances; they stay in Arrow's columns until asked for."""

    def __init__(self, store: OpenStore) -> None:
        self._columns = store.columns(list(FIELDS))

    def __getitem__(self, index: int) -> Fields:
        return _fields({name: self._columns[name][int(index)].as_py() for name in FIELDS})

    def only(self, names: Sequence[str], indices: np.ndarray) -> Iterator[Fields]:
        """Each of the utterances (n,) with these fields and no others."""
        for start in range(0, len(indices), ROWS):
            rows = indices[start : start + ROWS]
            columns = [self._columns[name].take(rows).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                yield _fields({**ABSENT, **dict(zip(names, values, strict=True))})

    def languages(self, indices: np.ndarray) -> set[str]:
        """The languages that any of the utterances (n,) has a translation in."""
        chunks = self._columns["translation"].take(indices).chunks
        return {language for chunk in chunks for language in chunk.keys.unique().to_pylist()}

    def present(self, names: Sequence[str], indices: np.ndarray) -> np.ndarray:
        """Which of the utterances (n,) have all of these fields, and not empty: a mask (n,), bool."""
        import pyarrow.compute as pc

        mask = np.ones(len(indices), bool)
        for name in names:
            column = self._columns[name].take(indices)
            filled = column.is_valid()
            if FIELDS[name].type is str:
                filled = pc.and_(filled, pc.fill_null(pc.not_equal(column, ""), False))
            mask &= np.asarray(filled)
        return mask

    def translated(self, languages: Collection[str], indices: np.ndarray) -> np.ndarray:
        """Which of the utterances (n,) have a translation in one of these languages: a mask (n,), bool."""
        import pyarrow as pa
        import pyarrow.compute as pc

        masks = [np.zeros(0, bool)]
        for chunk in self._columns["translation"].take(indices).chunks:
            wanted = np.asarray(pc.is_in(chunk.keys, pa.array(list(languages), chunk.keys.type)))
            before = np.concatenate([[0], np.cumsum(wanted)])  # wanted keys before each position
            masks.append(np.diff(before[np.asarray(chunk.offsets)]) > 0)
        return np.concatenate(masks)

    def among(self, name: str, values: Collection[str], indices: np.ndarray) -> np.ndarray:
        """Which of the utterances (n,) have one of these values in a field: a mask (n,), bool."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return np.asarray(pc.is_in(self._columns[name].take(indices).cast(pa.string()), pa.array(list(values))))


def _fields(row: Mapping[str, Any]) -> Fields:
    texts = {name: dict(row.get(name) or {}) or None for name in FIELDS if FIELDS[name].type == TEXTS}
    return Fields(**{**row, **texts})
