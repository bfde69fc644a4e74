"""The numbers behind a store's page, held against the slow way to count them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sm_pipeline.pages import survey
from sm_pipeline.pages.inspection import GROUPS
from sm_pipeline.pages.survey import fit, histogram, row_norms, sample_norms, take_survey
from sm_store import Fields, Record, Store
from sm_store.dtypes import to_float32
from tests.store import building


def held(values, edges) -> list[int]:
    """How many values lie in each bin, one by one; the last bin includes its end."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        for place in range(len(counts)):
            last = place == len(counts) - 1
            if edges[place] <= value < edges[place + 1] or (last and value == edges[-1]):
                counts[place] += 1
                break
    return counts


# -- histograms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("number", [1, 2, 7, 500])
def test_a_histogram_counts_every_number_once(kind, number):
    values = (np.random.default_rng(number).standard_normal(number) * 30).astype(kind)
    shown = histogram(values)
    assert shown.counts.tolist() == held(values.tolist(), shown.edges.tolist())
    assert (shown.total, shown.outside) == (number, 0)
    assert shown.edges[0] <= values.min() <= values.max() <= shown.edges[-1]
    assert shown.quantiles["median"] == pytest.approx(np.median(values))
    assert shown.whole == (kind in (np.int32, np.int64))


def test_bins_of_integers_hold_equally_many_of_them():
    for spread in range(1, 300, 7):
        values = np.arange(5, 5 + spread)
        shown = histogram(values)
        assert set(np.diff(shown.edges)) == {np.diff(shown.edges)[0]}
        assert float(np.diff(shown.edges)[0]).is_integer()
        assert len(set(shown.counts[:-1].tolist())) <= 1  # no comb: all full but the last
        assert shown.counts.sum() == spread
        assert shown.counts[-1] > 0


def test_bins_grow_with_the_numbers_and_end():
    bins = [len(histogram(np.linspace(0, 1, number)).counts) for number in (5, 100, 1_000, 10_000, 100_000)]
    assert bins == [8, 9, 20, 43, 60]


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(0, np.int64), np.full(3, np.nan), np.asarray([np.inf])])
def test_nothing_to_count(values):
    assert histogram(values) is None


def test_what_is_not_finite_is_left_out():
    assert histogram(np.asarray([1.0, np.nan, 2.0, np.inf, -np.inf])).total == 2


@pytest.mark.parametrize("value", [0.0, 12.5, -3.0])
def test_one_number_many_times(value):
    shown = histogram(np.full(9, value), cut_tails=True)
    assert shown.counts.tolist() == [9]
    assert shown.edges[0] < value < shown.edges[-1]


def test_blocks_do_not_change_the_counts(monkeypatch):
    values = np.random.default_rng(0).standard_normal(1000)
    whole = histogram(values)
    monkeypatch.setattr(survey, "BLOCK", 7)
    assert histogram(values).counts.tolist() == whole.counts.tolist()


def test_far_tails_are_cut_and_counted():
    values = np.concatenate([np.linspace(10, 12, 998), [1e6, -1e6]]).astype(np.float32)
    shown = histogram(values, cut_tails=True)
    assert (shown.outside, shown.total) == (2, 1000)
    assert 7 < shown.edges[0] < shown.edges[-1] < 15
    assert (shown.quantiles["shortest"], shown.quantiles["longest"]) == (-1e6, 1e6)
    assert histogram(values).outside == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_tails_that_are_near_stay(kind):
    values = np.random.default_rng(1).standard_normal(5000).astype(kind)
    shown = histogram(values, cut_tails=True)
    assert (shown.outside, shown.edges[0], shown.edges[-1]) == (0, values.min(), values.max())


# -- tokens against vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [1, 5, 39, 40, 41, 200])
def test_the_fit_of_texts(longest, monkeypatch):
    monkeypatch.setattr(survey, "BLOCK", 16)
    rng = np.random.default_rng(longest)
    vectors = rng.integers(1, longest + 1, 70)
    vectors[0] = longest
    tokens = np.asarray([int(rng.integers(0, most)) for most in vectors])
    if not tokens.any():
        tokens[0] = 1
    shown = fit(vectors, tokens)
    width = shown.edges[1] - shown.edges[0]
    expected = np.zeros_like(shown.utterances)
    for vector, token in zip(vectors.tolist(), tokens.tolist(), strict=True):
        if token:
            expected[math.floor(vector / width), math.floor(token / width)] += 1
    np.testing.assert_array_equal(shown.utterances, expected)
    assert shown.edges[-2] < longest <= shown.edges[-1]
    assert len(shown.edges) <= survey.GRID_CELLS + 1
    assert shown.untargeted == (tokens == 0).sum()
    targeted = tokens > 0
    assert shown.pad_share == pytest.approx(1 - tokens[targeted].sum() / vectors[targeted].sum())


def test_no_tokens_no_fit():
    assert fit(np.asarray([4, 5]), np.asarray([0, 0])) is None
    assert fit(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None


# -- norms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_norms_of_every_frame(tmp_path, layout, dtype):
    store = building.build(tmp_path / "s.store", dtype=dtype, layout=layout)
    sample = sample_norms(store)
    norms = [
        math.sqrt(math.fsum(number * number for number in frame.tolist()))
        for record in store
        for frame in to_float32(record.features, dtype)
    ]
    assert sample.records == len(store)
    assert sample.norms.total == len(norms) == store.frames.sum()
    assert sample.norms.quantiles["longest"] == pytest.approx(max(norms), rel=1e-5)
    assert sample.norms.quantiles["shortest"] == pytest.approx(min(norms), rel=1e-5)


def test_a_sample_is_the_same_each_time_and_without_repeats(tmp_path, monkeypatch):
    store = building.build(tmp_path / "s.store")
    read = []
    whole = Store.read
    monkeypatch.setattr(Store, "read", lambda self, indices: read.extend(indices.tolist()) or whole(self, indices))
    monkeypatch.setattr(survey, "SAMPLE_BATCH", 3)
    assert sample_norms(store, 7).records == 7
    first = read.copy()
    assert first == sorted(set(first))
    assert len(first) == 7
    sample_norms(store, 7)
    assert read == first * 2


def test_norms_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "TABLE_ROWS", 7)
    target = building.build(tmp_path / "s.store").targets("llm")
    np.testing.assert_allclose(row_norms(target), [math.hypot(*row) for row in building.table().tolist()], rtol=1e-5)


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
    assert tuple(groups) == GROUPS
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
    assert set(read) == {"duration", *GROUPS}
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
