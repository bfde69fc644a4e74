"""Small stores for the tests: seeded records, a small embedding table, everything in a few kilobytes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from sm_store import Fields, Geometry, Identity, Record, Reject, Store, TargetSpec
from sm_store.dtypes import to_storage
from sm_store.int8 import quantize
from sm_store.targets import table_scale, table_sha256, tokenizer_sha256

WIDTH, VOCABULARY, LLM_WIDTH, PAD = 12, 40, 6, 3
TOKENIZER = {"tokenizer.json": b'{"model": {}}', "tokenizer_config.json": b"{}"}
SPLITS = ("train", "dev", "test", None)


def identity(**changes) -> Identity:
    """An identity with what a test wants to differ."""
    encoder = {
        "id": "tiny",
        "revision": None,
        "weights_sha256": "ab",
        "layer": 24,
        "tap": "norm",
        "width": WIDTH,
    }
    base = Identity(
        encoder=encoder,
        front_end={"name": "fbank", "mel_bins": 80},
        manifest_sha256="cd",
        plan={"shards": 3},
        packages={"numpy": "2"},
    )
    return replace(base, **changes)


def table(seed: int = 0) -> np.ndarray:
    """An LLM's embedding table, (VOCABULARY, LLM_WIDTH) float32."""
    return np.random.default_rng(seed).standard_normal((VOCABULARY, LLM_WIDTH)).astype(np.float32)


def target_spec(name: str = "llm", kind: str = "dense", **changes) -> TargetSpec:
    """A target set over `table()`."""
    spec = TargetSpec(
        name=name,
        llm="tiny-llm",
        revision="0" * 40,
        tokenizer_sha256=tokenizer_sha256(TOKENIZER),
        table_sha256=table_sha256(table()),
        table_scale=table_scale(table()),
        pad_token="<pad>",
        pad_id=PAD,
        width=LLM_WIDTH,
        vocabulary=VOCABULARY,
        kind=kind,
        geometry=Geometry(),
    )
    return replace(spec, **changes)


def records(shard: int = 0, count: int = 5, dtype: str = "float16", width: int = WIDTH) -> list[Record]:
    """Ragged records, every field used somewhere."""
    made = []
    for row in range(count):
        rng = np.random.default_rng([shard, row])
        frames = int(rng.integers(8, 60))
        features = to_storage(rng.standard_normal((frames, width)).astype(np.float32), dtype)
        fields = Fields(
            text=f"Utterance {row} of shard {shard}: größer, 音",
            duration=frames / 25,
            lang="en" if row % 2 else None,
            speaker=f"sp{row}",
            split=SPLITS[row % 4],
            corpus="tiny",
            question="what?" if row == 1 else None,
            answer="that" if row == 1 else None,
            translation={"fr": "bonjour", "de": "guten Tag"} if row % 3 == 0 else None,
        )
        made.append(Record(f"utt-{shard}.{row}/a", features, fields))
    return made


def as_read(record: Record, compression: str | None, dtype: str = "float16") -> Record:
    """A record as a store of that compression gives it back."""
    return (
        replace(record, features=quantize(record.features, dtype).features(dtype)) if compression == "int8" else record
    )


def rejects(shard: int = 0) -> list[Reject]:
    """One reject a shard."""
    return [Reject(f"bad-{shard}", "audio_missing", "x.wav: no such file")]


def token_ids(shard: int, made: list[Record]) -> list[np.ndarray]:
    """Token ids that leave room for a pad; the second record of each shard has none."""
    rng = np.random.default_rng([7, shard])
    room = [Geometry().num_vectors(len(record.features)) - 1 for record in made]
    counts = [0 if row == 1 else int(rng.integers(1, max(2, space + 1))) for row, space in enumerate(room)]
    return [rng.integers(0, VOCABULARY, min(n, s)).astype(np.int32) for n, s in zip(counts, room, strict=True)]


def build(path: Path, shards: int = 3, kind: str | None = "dense", **changes) -> Store:
    """A store of `shards` shards; `kind` None = no target set. Opened after it was written.

    Written once a session and copied from then on: committing waits for the disk, copying does not.
    """
    shutil.copytree(_template(shards, kind, tuple(sorted(changes.items()))), path)
    return Store.open(path)


@cache
def _template(shards: int, kind: str | None, changes: tuple) -> Path:
    folder = fast_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write(folder / "s", shards, kind, **dict(changes))
    return folder / "s"


def fast_folder() -> Path:
    """A new folder, in memory where there is one: committing waits for the disk, and these tests commit a
    lot."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="sm-store-", dir=memory if memory.is_dir() else None))


def write(path: Path, shards: int = 3, kind: str | None = "dense", **changes) -> None:
    """The same store, really written."""
    store = Store.create(path, identity(**changes))
    dtype = store.identity.dtype
    if kind:
        store.add_target_set(target_spec(kind=kind, dtype=dtype), table(), TOKENIZER)
    for shard in range(shards):
        made = records(shard, dtype=dtype)
        ids = {"llm": token_ids(shard, made)} if kind else {}
        store.commit(shard, made, rejects(shard), ids)


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a store by relative path; lock files, which are not part of it, left out."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.parent.name != ".locks"]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def written(shards: int = 3, dtype: str = "float16") -> list[Record]:
    """Every record that `write` puts into a store."""
    return [record for shard in range(shards) for record in records(shard, dtype=dtype)]


def slow_targets(ids, frames: int, dtype: str = "float16") -> np.ndarray:
    """A record's padded target as the definition says it."""
    embeddings, vectors = table(), Geometry().num_vectors(frames)
    rows = [embeddings[token] for token in ids] + [embeddings[PAD]] * (vectors - len(ids))
    return to_storage(np.stack(rows) if rows else np.zeros((0, LLM_WIDTH)), dtype)
