"""Distributions of the numbers in a store: quantiles, histograms, and how texts fit the projector's output.

    histogram(store.frames).counts                          utterances in each bin of frames
    fit(vectors, store.token_counts("llm")).utterances      utterances by output vectors and tokens
    sample_norms(store).norms                               L2 norms of the feature frames of some records

Everything is counted in blocks, so that memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sm_store import Store, TargetSet
from sm_store.dtypes import to_float32

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
SAMPLE_RECORDS = 256  # whose features are read for the norms
SAMPLE_SEED = 0
SAMPLE_BATCH = 16  # records read at once: under 100 MB of minute-long ones
FEWEST_BINS, MOST_BINS = 8, 60
GRID_CELLS = 40  # along each side of `Fit`
BLOCK = 1 << 20  # records counted at once: temporary arrays stay at some megabytes
TABLE_ROWS = 4096  # of an embedding table turned into float32 at once


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
        pad_share: share of the vectors whose target is the pad token. untargeted: utterances whose text does not fit.
    """

    edges: np.ndarray
    utterances: np.ndarray
    pad_share: float
    untargeted: int


@dataclass(frozen=True, slots=True)
class NormSample:
    """L2 norms of the feature frames of some records."""

    records: int
    norms: Histogram | None


def quantiles(values: np.ndarray) -> dict[str, float]:
    """`QUANTILES` of (n,) numbers by their names; empty where there are none."""
    found = np.quantile(values, list(QUANTILES.values())).tolist() if len(values) else []
    return dict(zip(QUANTILES, found, strict=bool(found)))


def histogram(values: np.ndarray, cut_tails: bool = False) -> Histogram | None:
    """The distribution of (n,) numbers, NaN and infinity left out; None where nothing is left.

    The number of bins grows with the cube root of n (Rice's rule). Bins of integers are whole numbers wide, so that
    none holds more of them than its neighbours, and their edges lie at halves.

    Args:
        cut_tails: leave out outliers, which would squeeze all other numbers into one bar.
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
    """The range of (n,) numbers without outliers: those further from the central 98 % than its width."""
    low, early, late, high = (float(value) for value in np.quantile(values, [0, 0.01, 0.99, 1]))
    margin = late - early
    return (max(low, early - margin), min(high, late + margin)) if margin > 0 else (low, high)


def fit(vectors: np.ndarray, tokens: np.ndarray) -> Fit | None:
    """Utterances by vectors (n,) and tokens (n,), both int64; utterances without tokens are only counted.

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
