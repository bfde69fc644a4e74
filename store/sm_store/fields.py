"""The fields of an utterance: the one list that manifest, records and catalog derive from.

    Fields("He hoped.", duration=1.2, lang="en", translation={"de": "Er hoffte."})

    FIELDS          each field's name, type (str, float or a mapping of texts) and whether it may be absent
      -> sm_store.catalog         one column of the catalog each
      -> sm_store.records         attributes of a record: `record.text`
      -> sm_pipeline.manifest     how a manifest line is checked
    CATEGORIES      fields with few values, such as `split`: counted, and kept in the catalog's index

A new field is one line in `Fields` (and in the manifest's `Utterance`); stores without its column are of an older
format version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

TEXTS = Mapping[str, str]  # text by language code
_CATEGORY = {"category": True}


@dataclass(frozen=True, slots=True)
class Fields:
    """What the manifest says about an utterance.

    Attributes:
        text: the transcript as given, before normalisation.
        duration: seconds of audio that the features were made from.
        lang: language code of the speech.
        speaker: name or number of the speaker.
        split: part of the corpus: train, dev, test, ...
        corpus: name of the corpus.
        question: a question about the speech; `answer` its answer.
        translation: text by language code.
    """

    text: str
    duration: float
    lang: str | None = field(default=None, metadata=_CATEGORY)
    speaker: str | None = field(default=None, metadata=_CATEGORY)
    split: str | None = field(default=None, metadata=_CATEGORY)
    corpus: str | None = field(default=None, metadata=_CATEGORY)
    question: str | None = None
    answer: str | None = None
    translation: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FieldType:
    """The type of a field: `str`, `float` or `TEXTS`; `nullable`: it may be absent."""

    type: Any
    nullable: bool


def _types() -> dict[str, FieldType]:
    found = {}
    for name, hint in get_type_hints(Fields).items():
        options = [each for each in get_args(hint) if each is not NoneType] if NoneType in get_args(hint) else [hint]
        found[name] = FieldType(options[0], NoneType in get_args(hint))
    return found


FIELDS: Mapping[str, FieldType] = _types()
CATEGORIES = tuple(each.name for each in fields(Fields) if "category" in each.metadata)
