"""The values that go into a store and come out of it."""

from __future__ import annotations

from sm_store import (
    Record,
)
from tests.store import building


def test_a_record_is_a_plain_value(store):
    first = store[0]
    assert isinstance(first, Record) and first.features.shape == (int(store.frames[0]), building.WIDTH)


def test_record_attributes_are_the_fields(store):
    record = store[1]
    assert (record.text, record.lang, record.speaker) == (record.fields.text, "en", "sp1")
    assert (record.split, record.corpus, record.question, record.answer) == ("dev", "tiny", "what?", "that")
    assert record.translation is None and store[0].translation == {"fr": "bonjour", "de": "guten Tag"}
    assert record.duration == len(record.features) / 25
