"""The text fields of an utterance that tasks draw on, and where they are in a store.

StoreExamples(store)[7]  ->  Example("The dog slept.", translation={"de": "Der Hund schlief."})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sm_store import Store


@dataclass(frozen=True, slots=True)
class Example:
    """The fields of an utterance that tasks draw on; None where the manifest has none."""

    text: str
    question: str | None = None
    answer: str | None = None
    translation: Mapping[str, str] | None = None


class StoreExamples:
    """The examples of a store, by index; they stay in Arrow's columns until asked for."""

    def __init__(self, store: Store) -> None:
        self._columns = store.columns([field.name for field in fields(Example)])

    def __getitem__(self, index: int) -> Example:
        row = {name: self._columns[name][int(index)].as_py() for name in self._columns.column_names}
        translation = dict(row.pop("translation") or {})
        return Example(**row, translation=translation or None)
