"""Another LLM's targets for an existing store: features are not touched, no audio is read.

    summary = embed(Path("corpus.store"), TargetConfig(llm="utter-project/EuroLLM-9B"))
    summary.shards, summary.too_long            8, 12

Texts come from the catalog. A text that does not fit its vectors gets no target and is listed in the target
set's own ledger; the features stay, since another LLM's tokens may fit. Run again, it continues.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sm_pipeline.config import TargetConfig
from sm_pipeline.console import Progress, progress
from sm_pipeline.extraction.llm_targets import build_targets
from sm_pipeline.models.tokenizer import TextTokenizer
from sm_pipeline.signals import raise_on_signals
from sm_store import Store, TargetSpec
from sm_store.dtypes import numpy_dtype
from sm_store.errors import StoreBusy
from sm_store.reading.remote import local_folder
from sm_store.space import require_space


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What `embed` did.

    Attributes:
        name: of the target set. shards: written by this run. busy: left to another process that is writing them.
        records: that got a target in this run. too_long: records whose text does not fit.
    """

    name: str
    llm: str
    pad_token: str
    shards: int
    busy: int
    records: int
    too_long: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        if not self.shards and not self.busy:
            return f"targets {self.name!r} from {self.llm}: complete before, nothing to do"
        busy = f"; {self.busy} shards are being written by another process" if self.busy else ""
        return (
            f"targets {self.name!r} from {self.llm}: {self.records} records in {self.shards} shards, "
            f"{self.too_long} texts too long, pad token {self.pad_token!r}{busy}"
        )


def embed(path: Path, config: TargetConfig) -> EmbedSummary:
    """Add a target set to the store at `path`, or finish one that was started.

    Raises:
        StoreError: no store there. ModelError: an LLM that cannot be used.
        IdentityMismatch: a target set of that name is there and differs.
    """
    began = time.monotonic()
    store = Store.open(local_folder(path))
    targets = build_targets(config, store.identity.dtype, store.identity.normalizer)
    spec = targets.spec
    require_space(store.root, _bytes_of(store, spec), f"the target set {spec.name!r}")
    targets.add_to(store)
    name = spec.name
    del targets  # the table is in the store now, which maps it
    todo = lacking_shards(store, name)
    with raise_on_signals(), progress(len(todo), f"embed {name}", "shards") as shown:
        counts = embed_shards(store, name, todo, shown)
    store.compact()
    return EmbedSummary(
        name,
        spec.llm,
        spec.pad_token,
        counts.shards,
        counts.busy,
        counts.records,
        counts.too_long,
        time.monotonic() - began,
    )


@dataclass(frozen=True, slots=True)
class EmbedCounts:
    """Shards made and left to others, records with a target, and records whose text does not fit."""

    shards: int
    busy: int
    records: int
    too_long: int


def _bytes_of(store: Store, spec: TargetSpec) -> int:
    """What a target set will take on disk at least, as far as it is not written."""
    there = spec.name in store.target_names
    table = 0 if there else 2 * spec.vocabulary * spec.width  # in the narrowest float
    if spec.kind != "dense":
        return table
    lacking = set(lacking_shards(store, spec.name))
    ranges = zip(store.parts, store.starts, store.starts[1:], strict=False)
    frames = [store.frames[start:end] for part, start, end in ranges if part.shard in lacking]
    vectors = sum(int(spec.geometry.num_vectors(each).sum()) for each in frames)
    return table + vectors * spec.width * numpy_dtype(spec.dtype).itemsize


def lacking_shards(store: Store, name: str) -> list[int]:
    """Shards without the targets `name`, ascending, of those that were committed when the store was opened or
    refreshed; what another process commits meanwhile is for the next call."""
    return sorted({part.shard for part in store.parts} - store.done_shards(name))


def embed_shards(store: Store, name: str, shards: Iterable[int], shown: Progress | None = None) -> EmbedCounts:
    """Write the targets `name` of some of the shards that `store.parts` shows."""
    tokenizer = TextTokenizer.from_target_set(store.targets(name))
    texts = store.columns(["text"]).column("text")
    row_of = {part.shard: row for row, part in enumerate(store.parts)}
    made, busy, records, too_long = 0, 0, 0, 0
    for shard in shards:
        start, end = store.starts[row_of[shard] : row_of[shard] + 2].tolist()
        ids = [tokenizer.token_ids(text) for text in texts.slice(start, end - start).to_pylist()]
        try:
            rejects = store.commit_targets(name, shard, ids)
        except StoreBusy:
            busy += 1
            continue
        made, records, too_long = made + 1, records + len(ids) - len(rejects), too_long + len(rejects)
        if shown is not None:
            shown.advance(1, too_long=too_long)
    return EmbedCounts(made, busy, records, too_long)
