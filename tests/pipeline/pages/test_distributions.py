"""Distributions, compared with the slow way to count them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sm_pipeline.pages import distributions
from sm_pipeline.pages.distributions import fit, histogram, row_norms, sample_norms
from sm_store import Store
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
    monkeypatch.setattr(distributions, "BLOCK", 7)
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
    monkeypatch.setattr(distributions, "BLOCK", 16)
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
    assert len(shown.edges) <= distributions.GRID_CELLS + 1
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
    monkeypatch.setattr(distributions, "SAMPLE_BATCH", 3)
    assert sample_norms(store, 7).records == 7
    first = read.copy()
    assert first == sorted(set(first))
    assert len(first) == 7
    sample_norms(store, 7)
    assert read == first * 2


def test_norms_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(distributions, "TABLE_ROWS", 7)
    target = building.build(tmp_path / "s.store").targets("llm")
    np.testing.assert_allclose(row_norms(target), [math.hypot(*row) for row in building.table().tolist()], rtol=1e-5)
