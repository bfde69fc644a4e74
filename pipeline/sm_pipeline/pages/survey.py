"""The numbers of a store's page: distributions, counts, and the slowest and fastest utterances.

    survey = take_survey(Store.open("corpus.store"))
    survey.durations.counts              utterances in each bin of seconds
    survey.targets[0].fit.utterances     utterances by output vectors and tokens
    survey.densest                       the utterances with the most tokens per second, with their texts

Lengths come from the catalog's columns of numbers, which take a few bytes per utterance. Features are read for a
seeded sample only, texts for the few utterances that are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sm_pipeline.pages.distributions import Fit, Histogram, NormSample, fit, histogram, row_norms, sample_norms
from sm_pipeline.pages.inspection import inspect_opened
from sm_store import Store
from sm_store.errors import StoreMissing
from sm_store.fields import CATEGORIES

NAMED_VALUES = 12  # of lang, speaker, ...
NAMED_UTTERANCES = 8  # least dense, and as many most dense


@dataclass(frozen=True, slots=True)
class TargetSurvey:
    """One target set. `tokens` and `fit` are None while shards lack it, or no utterance has a target."""

    name: str
    tokens: Histogram | None
    fit: Fit | None
    row_norms: Histogram | None
    pad_norm: float


@dataclass(frozen=True, slots=True)
class Group:
    """Utterances and hours by the values of a catalog column, most frequent first; None = not given."""

    name: str
    distinct: int
    values: Sequence[tuple[str | None, int, float]]


@dataclass(frozen=True, slots=True)
class DenseUtterance:
    """An utterance and its speech rate; `rate` is tokens per second."""

    id: str
    text: str
    seconds: float
    tokens: int
    rate: float


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything the page shows; `facts` is what `inspect` prints.

    `sparsest` and `densest` are measured in the tokens of target set `densities_of`, None where no set is complete.
    """

    facts: Mapping[str, Any]
    durations: Histogram | None
    frames: Histogram | None
    features: NormSample
    targets: Sequence[TargetSurvey]
    groups: Sequence[Group]
    densities_of: str | None
    sparsest: Sequence[DenseUtterance]
    densest: Sequence[DenseUtterance]


def take_survey(store: Store) -> Survey:
    """Measure an open store.

    Raises:
        StoreCorrupt: names the shard and record.
    """
    facts = inspect_opened(store)
    table = store.columns(["duration", *CATEGORIES])
    seconds = table.column("duration").to_numpy()
    complete = _token_counts(store)
    densities_of = next(iter(complete), None)
    sparsest, densest = _densities(store, seconds, complete[densities_of]) if densities_of else ([], [])
    return Survey(
        facts=facts,
        durations=histogram(seconds),
        frames=histogram(store.frames),
        features=sample_norms(store),
        targets=[_target(store, name, complete.get(name)) for name in store.target_names],
        groups=[group for name in CATEGORIES if (group := _group(table, name)) is not None],
        densities_of=densities_of,
        sparsest=sparsest,
        densest=densest,
    )


def _token_counts(store: Store) -> dict[str, np.ndarray]:
    """Tokens of each record, by target set, of the sets that every shard has."""
    counts = {}
    for name in store.target_names:
        try:
            counts[name] = store.token_counts(name)
        except StoreMissing:
            continue  # the page says which shards lack it
    return counts


def _target(store: Store, name: str, tokens: np.ndarray | None) -> TargetSurvey:
    target = store.targets(name)
    norms = row_norms(target)
    row_histogram = histogram(norms, cut_tails=True)
    pad_norm = float(norms[target.spec.pad_id])
    if tokens is None:
        return TargetSurvey(name, None, None, row_histogram, pad_norm)
    fitted = fit(target.spec.geometry.num_vectors(store.frames), tokens)
    return TargetSurvey(name, histogram(tokens[tokens > 0]), fitted, row_histogram, pad_norm)


def _group(table: pa.Table, name: str) -> Group | None:
    column = table.column(name)
    if column.null_count == len(column):
        return None
    # One thread, so that sums of hours are the same each time.
    by = table.select([name, "duration"]).group_by(name, use_threads=False)
    counted = by.aggregate([("duration", "count"), ("duration", "sum")])
    first = counted.sort_by([("duration_count", "descending"), (name, "ascending")]).slice(0, NAMED_VALUES).to_pylist()
    values = [(row[name], row["duration_count"], row["duration_sum"] / 3600) for row in first]
    return Group(name, len(counted), values)


def _densities(
    store: Store, seconds: np.ndarray, tokens: np.ndarray
) -> tuple[list[DenseUtterance], list[DenseUtterance]]:
    """The utterances with the fewest and with the most tokens per second, the most extreme first."""
    usable = np.flatnonzero((tokens > 0) & (seconds > 0) & np.isfinite(seconds))
    rates = tokens[usable] / seconds[usable]
    order = np.argsort(rates, kind="stable")
    least = min(NAMED_UTTERANCES, (len(order) + 1) // 2)
    most = min(NAMED_UTTERANCES, len(order) - least)

    def named(position: int) -> DenseUtterance:
        index = int(usable[position])
        record = store[index]
        return DenseUtterance(record.id, record.text, record.duration, int(tokens[index]), float(rates[position]))

    densest = order[::-1][:most]
    return [named(at) for at in order[:least].tolist()], [named(at) for at in densest.tolist()]
