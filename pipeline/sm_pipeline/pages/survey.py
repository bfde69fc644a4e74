"""What the page of a store shows, as numbers: distributions, counts, and the utterances worth a look.

    survey = take_survey(Store.open("corpus.store"))
    survey.durations.counts              utterances in each bin of seconds
    survey.targets[0].fit.utterances     utterances by output vectors and tokens
    survey.densest                       the utterances with the most tokens a second, with their texts

Lengths come from the catalog's columns of numbers, which take a few bytes an utterance. Features are read for a
seeded sample only, texts for the few utterances that are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sm_pipeline.pages.inspection import GROUPS, inspect_opened, quantiles
from sm_store import Store, TargetSet
from sm_store.dtypes import to_float32
from sm_store.errors import StoreMissing

SAMPLE_RECORDS = 256  # whose features are read for the norms
SAMPLE_SEED = 0
SAMPLE_BATCH = 16  # records read at once: under 100 MB of minute-long ones
FEWEST_BINS, MOST_BINS = 8, 60
GRID_CELLS = 40  # along each side of `Fit`
BLOCK = 1 << 20  # records counted at once: temporary arrays stay at some megabytes
TABLE_ROWS = 4096  # of an embedding table turned into float32 at once
NAMED_VALUES = 12  # of lang, speaker, ...
NAMED_UTTERANCES = 8  # least dense, and as many most dense


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often numbers fall between `edges` (bins + 1,): `counts` (bins,) int64.

    `quantiles` are those of `inspect`, by name; `whole`: the numbers are integers; `outside`: how many of them lie
    before the first or behind the last edge.
    """

    edges: np.ndarray
    counts: np.ndarray
    quantiles: Mapping[str, float]
    whole: bool
    outside: int

    @property
    def total(self) -> int:
        return int(self.counts.sum()) + self.outside


@dataclass(frozen=True, slots=True)
class Fit:
    """How well texts fit the projector's output: utterances by vectors and tokens.

    Attributes:
        edges: (cells + 1,) of both axes. utterances: (cells, cells) int64 by vectors, then tokens.
        pad_share: of all vectors, those that a pad token fills. untargeted: utterances whose text does not fit.
    """

    edges: np.ndarray
    utterances: np.ndarray
    pad_share: float
    untargeted: int


@dataclass(frozen=True, slots=True)
class TargetSurvey:
    """One target set. `tokens` and `fit` are None while shards lack it, or no utterance has a target."""

    name: str
    tokens: Histogram | None
    fit: Fit | None
    row_norms: Histogram | None
    pad_norm: float


@dataclass(frozen=True, slots=True)
class NormSample:
    """L2 norms of the feature frames of some records."""

    records: int
    norms: Histogram | None


@dataclass(frozen=True, slots=True)
class Group:
    """Utterances and hours by the values of a catalog column, most frequent first; None = not given."""

    name: str
    distinct: int
    values: Sequence[tuple[str | None, int, float]]


@dataclass(frozen=True, slots=True)
class DenseUtterance:
    """An utterance and how fast it is spoken; `rate` is tokens a second."""

    id: str
    text: str
    seconds: float
    tokens: int
    rate: float


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it; `facts` is what `inspect` prints.

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
    table = store.columns(["duration", *GROUPS])
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
        groups=[group for name in GROUPS if (group := _group(table, name)) is not None],
        densities_of=densities_of,
        sparsest=sparsest,
        densest=densest,
    )


# -- distributions ---------------------------------------------------------------------------------------


def histogram(values: np.ndarray, cut_tails: bool = False) -> Histogram | None:
    """The distribution of (n,) numbers, NaN and infinity left out; None where nothing is left.

    The number of bins grows with the cube root of n (Rice's rule). Bins of integers are whole numbers wide, so that
    none holds more of them than its neighbours, and begin and end at halves.

    Args:
        cut_tails: leave out what lies far from most of the numbers, which would be one bar otherwise.
    """
    whole = values.dtype.kind in "iu"
    kept = values if whole else values[np.isfinite(values)]
    if not len(kept):
        return None
    low, high = _body(kept) if cut_tails else (kept.min(), kept.max())
    bins = int(np.clip(round(2 * len(kept) ** (1 / 3)), FEWEST_BINS, MOST_BINS))
    if whole:
        width = -(-(int(high) - int(low) + 1) // bins)
        edges = np.arange(int(low), int(high) + width + 1, width) - 0.5
    else:
        edges = np.linspace(low, high, bins + 1) if high > low else np.asarray([low - 0.5, high + 0.5])
    counts = np.zeros(len(edges) - 1, np.int64)
    for at in range(0, len(kept), BLOCK):
        counts += np.histogram(kept[at : at + BLOCK], edges)[0]
    return Histogram(edges, counts, quantiles(kept), whole, len(kept) - int(counts.sum()))


def _body(values: np.ndarray) -> tuple[float, float]:
    """The range of (n,) numbers without far tails: what is further from the middle 98 % than that is wide."""
    low, early, late, high = (float(value) for value in np.quantile(values, [0, 0.01, 0.99, 1]))
    margin = late - early
    return (max(low, early - margin), min(high, late + margin)) if margin > 0 else (low, high)


def fit(vectors: np.ndarray, tokens: np.ndarray) -> Fit | None:
    """Utterances by vectors (n,) and tokens (n,), both int64; those of no tokens are only counted.

    Returns None where no utterance has tokens.
    """
    longest = int(max(vectors.max(initial=0), tokens.max(initial=0)))
    width = longest // GRID_CELLS + 1
    cells = longest // width + 1
    counts = np.zeros(cells * cells, np.int64)
    used, filled, targeted = 0, 0, 0
    for at in range(0, len(tokens), BLOCK):
        some_vectors, some_tokens = vectors[at : at + BLOCK], tokens[at : at + BLOCK]
        has = some_tokens > 0
        some_vectors, some_tokens = some_vectors[has], some_tokens[has]
        counts += np.bincount(some_vectors // width * cells + some_tokens // width, minlength=cells * cells)
        used, filled, targeted = used + some_vectors.sum(), filled + some_tokens.sum(), targeted + len(some_tokens)
    if not targeted:
        return None
    edges = np.arange(cells + 1) * width - 0.5
    return Fit(edges, counts.reshape(cells, cells), 1 - float(filled) / float(used), len(tokens) - targeted)


def sample_norms(store: Store, records: int = SAMPLE_RECORDS) -> NormSample:
    """Norms of the frames of up to `records` records, the same ones each time."""
    rng = np.random.default_rng(SAMPLE_SEED)
    count = min(records, len(store))
    chosen = np.sort(rng.choice(len(store), count, replace=False)) if count else np.zeros(0, np.int64)
    norms = []
    for at in range(0, len(chosen), SAMPLE_BATCH):
        batch = store.read(chosen[at : at + SAMPLE_BATCH])
        for features_TD, frames in zip(batch.features_BTD, batch.frames_B.tolist(), strict=True):
            norms.append(np.linalg.norm(to_float32(features_TD[:frames], store.identity.dtype), axis=1))
    return NormSample(len(chosen), histogram(np.concatenate(norms), cut_tails=True) if norms else None)


def row_norms(target: TargetSet) -> np.ndarray:
    """(V,) float32: the L2 norm of each row of a target set's embedding table."""
    table, dtype = target.stored_table, target.description["table_dtype"]
    blocks = [table[at : at + TABLE_ROWS] for at in range(0, len(table), TABLE_ROWS)]
    return np.concatenate([np.linalg.norm(to_float32(np.asarray(block), dtype), axis=1) for block in blocks])


# -- parts of the survey ---------------------------------------------------------------------------------


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
    """The utterances of the fewest and of the most tokens a second, the extreme ones first."""
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
