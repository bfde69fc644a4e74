"""Fields out of a store's catalog."""

from __future__ import annotations

import numpy as np

from speechmapper.tasks import StoreFields
from tests.store import building


def test_fields_are_the_records_own(tmp_path):
    store = building.build(tmp_path / "s.store")
    found = StoreFields(store)
    assert (found[1].question, found[1].answer, found[0].translation["fr"]) == ("what?", "that", "bonjour")
    for index in range(len(store)):
        assert found[index] == store[index].fields


def test_languages_are_those_of_the_chosen_utterances(tmp_path):
    store = building.build(tmp_path / "s.store")
    by_utterance = [set(store[index].fields.translation or {}) for index in range(len(store))]
    assert len(set(map(frozenset, by_utterance))) > 1
    fields = StoreFields(store)
    assert fields.languages(np.arange(len(store))) == set().union(*by_utterance)
    for index, expected in enumerate(by_utterance):
        assert fields.languages(np.array([index])) == expected
    assert fields.languages(np.array([], np.int64)) == set()


def test_what_is_asked_of_many_utterances_is_what_each_has(tmp_path):
    store = building.build(tmp_path / "s.store")
    fields, every = StoreFields(store), np.arange(len(store))[::-1]
    records = [store[int(index)].fields for index in every]
    for names in (["question"], ["question", "answer"], ["translation"], ["lang"], []):
        expected = [all(getattr(each, name) for name in names) for each in records]
        assert fields.present(names, every).tolist() == expected
    for wanted in (["fr"], ["de", "fr"], ["xx"], []):
        expected = [bool(set(wanted) & set(each.translation or {})) for each in records]
        assert fields.translated(wanted, every).tolist() == expected
    corpora = {each.corpus for each in records} - {None}
    for value in (*corpora, "none"):
        assert fields.among("corpus", [value], every).tolist() == [each.corpus == value for each in records]
    assert [each.text for each in fields.only(["text"], every)] == [each.text for each in records]
    assert all(each.question is None for each in fields.only(["text", "translation"], every))
    assert [each.translation for each in fields.only(["translation"], every)] == [each.translation for each in records]
    for mask in (fields.present(["text"], every[:0]), fields.translated(["fr"], every[:0])):
        assert mask.tolist() == []
