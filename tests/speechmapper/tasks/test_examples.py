"""Examples out of a store."""

from __future__ import annotations

from speechmapper.tasks import Example, StoreExamples
from tests.store import building


def test_fields_of_the_catalog_are_the_example(tmp_path):
    store = building.build(tmp_path / "s.store")
    examples = StoreExamples(store)
    assert examples[1] == Example(building.records(0)[1].fields.text, "what?", "that")
    for index in range(len(store)):
        fields = store[index].fields
        assert examples[index] == Example(fields.text, fields.question, fields.answer, fields.translation)
