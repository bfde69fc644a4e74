"""The numbers of a store's page, compared with the slow way to count them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sm_pipeline.pages import survey
from sm_pipeline.pages.survey import take_survey
from sm_store import Fields, Record, Store
from sm_store.fields import CATEGORIES
from tests.store import building

# -- the whole -----------------------------------------------------------------------------------------------


def test_the_survey_of_a_store(tmp_path, layout, kind):
    store = building.build(tmp_path / "s.store", kind=kind, layout=layout)
    taken = take_survey(store)
    assert taken.facts["records"] == taken.durations.total == taken.frames.total == 15
    (target,) = taken.targets
    counts = store.token_counts("llm")
    assert (target.name, target.tokens.total, target.fit.untargeted) == ("llm", 12, 3)
    assert target.fit.utterances.sum() == 12
    assert target.tokens.quantiles["longest"] == counts.max()
    assert target.row_norms.total == building.VOCABULARY
    assert target.pad_norm == pytest.approx(math.hypot(*building.table()[building.PAD].tolist()), rel=1e-6)
    assert taken.densities_of == "llm"


def test_slow_and_fast_utterances(tmp_path):
    store = building.build(tmp_path / "s.store")
    taken = take_survey(store)
    counts = store.token_counts("llm").tolist()
    ranked = sorted(
        (tokens / record.duration, record.id, record.text, tokens)
        for tokens, record in zip(counts, store, strict=True)
        if tokens
    )
    assert [(each.rate, each.id, each.text, each.tokens) for each in taken.sparsest] == ranked[:6]
    assert [(each.rate, each.id, each.text, each.tokens) for each in taken.densest] == ranked[6:][::-1]


def test_each_end_names_only_some(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "NAMED_UTTERANCES", 2)
    taken = take_survey(building.build(tmp_path / "s.store"))
    rates = [each.rate for each in (*taken.sparsest, *reversed(taken.densest))]
    assert len(rates) == 4
    assert rates == sorted(rates)


def test_groups_count_utterances_and_hours(tmp_path):
    store = building.build(tmp_path / "s.store")
    groups = {group.name: group for group in take_survey(store).groups}
    assert tuple(groups) == CATEGORIES
    for name, group in groups.items():
        tally: dict = {}
        for record in store:
            number, seconds = tally.get(getattr(record, name), (0, 0.0))
            tally[getattr(record, name)] = (number + 1, seconds + record.duration)
        assert group.distinct == len(tally)
        assert {value: number for value, number, _ in group.values} == {v: number for v, (number, _) in tally.items()}
        for value, _, hours in group.values:
            assert hours == pytest.approx(tally[value][1] / 3600)
    assert groups["lang"].values[0][:2] == (None, 9)  # most frequent first, missing ones too


def test_only_the_most_frequent_values_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "NAMED_VALUES", 2)
    group = take_survey(building.build(tmp_path / "s.store")).groups[1]
    assert (group.name, group.distinct) == ("speaker", 5)
    assert [value for value, _, _ in group.values] == ["sp0", "sp1"]


def test_an_empty_store(tmp_path):
    taken = take_survey(Store.create(tmp_path / "s.store", building.identity()))
    assert (taken.durations, taken.frames, taken.features.norms, taken.densities_of) == (None, None, None, None)
    assert (taken.features.records, taken.targets, taken.groups, taken.sparsest) == (0, [], [], [])


def test_a_target_set_that_shards_lack(tmp_path):
    store = building.build(tmp_path / "s.store", kind=None)
    store.add_target_set(building.target_spec("later"), building.table(), building.TOKENIZER)
    (target,) = take_survey(store).targets
    assert (target.tokens, target.fit, target.row_norms.total) == (None, None, building.VOCABULARY)
    assert take_survey(store).densities_of is None


def test_texts_are_read_of_the_named_utterances_only(tmp_path, monkeypatch):
    store = building.build(tmp_path / "s.store")
    read = []
    whole = Store.columns
    monkeypatch.setattr(Store, "columns", lambda self, names: read.extend(names) or whole(self, names))
    taken = take_survey(store)
    assert set(read) == {"duration", *CATEGORIES}
    assert taken.sparsest[0].text.startswith("Utterance")


def test_utterances_of_no_length(tmp_path):
    """No division by zero, and no rank for what has no rate."""
    store = Store.create(tmp_path / "s.store", building.identity(plan={"shards": 1}))
    store.add_target_set(building.target_spec(), building.table(), building.TOKENIZER)
    features = np.ones((20, building.WIDTH), np.float16)
    records = [Record(f"u{n}", features, Fields("a", seconds)) for n, seconds in enumerate((0.0, 1.0, 0.0))]
    store.commit(0, records, [], {"llm": [np.ones(2, np.int32)] * 3})
    taken = take_survey(store)
    assert ([each.id for each in taken.sparsest], taken.densest) == (["u1"], [])
    assert taken.durations.total == 3
