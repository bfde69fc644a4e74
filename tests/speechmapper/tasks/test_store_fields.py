"""Fields out of a store's catalog."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from speechmapper.tasks import StoreFields
from tests.store import building


def test_fields_are_the_records_own_but_for_where_it_is_from(tmp_path):
    store = building.build(tmp_path / "s.store")
    found = StoreFields(store)
    assert (found[1].question, found[1].answer, found[0].translation["fr"]) == ("what?", "that", "bonjour")
    for index in range(len(store)):
        assert found[index] == replace(store[index].fields, speaker=None, split=None)


def test_languages_are_those_of_the_chosen_utterances(tmp_path):
    store = building.build(tmp_path / "s.store")
    by_utterance = [set(store[index].fields.translation or {}) for index in range(len(store))]
    assert len(set(map(frozenset, by_utterance))) > 1
    fields = StoreFields(store)
    assert fields.languages(np.arange(len(store))) == set().union(*by_utterance)
    for index, expected in enumerate(by_utterance):
        assert fields.languages(np.array([index])) == expected
    assert fields.languages(np.array([], np.int64)) == set()
