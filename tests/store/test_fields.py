"""The one list of an utterance's fields, and what derives from it."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from sm_pipeline.manifest import Utterance
from sm_store import Fields, Record, catalog, fields
from sm_store.fields import CATEGORIES, FIELDS, TEXTS, FieldType
from sm_store.index import indexed_columns
from tests.store import building

OWN_OF_A_MANIFEST = {"id", "audio", "offset", "sha256"}


def test_types_and_which_may_be_absent():
    assert list(FIELDS) == [each.name for each in dataclasses.fields(Fields)]
    assert FIELDS["text"] == FieldType(str, nullable=False) and FIELDS["duration"] == FieldType(float, nullable=False)
    assert FIELDS["speaker"] == FieldType(str, nullable=True)
    assert FIELDS["translation"] == FieldType(TEXTS, nullable=True)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_described(name):
    assert f"{name}:" in fields.Fields.__doc__ or f"`{name}`" in fields.Fields.__doc__


def test_only_fields_that_are_set_are_json_values():
    assert Fields("a", 1.5, lang="en").to_json() == {"text": "a", "duration": 1.5, "lang": "en"}


def test_the_catalog_has_a_column_for_each():
    columns = {name: (catalog.SCHEMA.field(name).type, catalog.SCHEMA.field(name).nullable) for name in FIELDS}
    texts = dict.fromkeys(FIELDS, (pa.string(), True))
    special = {
        "text": (pa.string(), False),
        "duration": (pa.float64(), False),
        "translation": (pa.map_(pa.string(), pa.string()), True),
    }
    assert columns == texts | special


def test_the_index_holds_numbers_and_categories():
    indexed = set(indexed_columns(catalog.SCHEMA)) & set(FIELDS)
    assert indexed == {"duration", *CATEGORIES} and CATEGORIES == ("lang", "speaker", "split", "corpus")


def test_a_manifest_line_has_them_and_what_is_its_own():
    assert {each.name for each in dataclasses.fields(Utterance)} == FIELDS.keys() | OWN_OF_A_MANIFEST


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_has_them_as_attributes(name):
    record = building.records(0)[1]
    assert getattr(record, name) == getattr(record.fields, name)


def test_a_record_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no field 'txt'; there are text, duration"):
        _ = building.records(0)[0].txt
    assert not hasattr(Record("a", building.records(0)[0].features, Fields("a", 1.0)), "__array__")
