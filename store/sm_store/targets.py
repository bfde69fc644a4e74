"""Target sets: what a projector should predict, per LLM, stored beside the features and independent of them.

    targets/smollm2/target.json       the TargetSpec, and size and crc32c of the files below
    targets/smollm2/table.npy         (V, E) the LLM's input-embedding table, in the narrowest exact float
    targets/smollm2/tokenizer/...     the LLM's tokenizer files
    targets/smollm2/shards/ catalog/ ledger/    the records' token ids and, for `dense`, padded embeddings

The target of a record of T frames is U = geometry.num_vectors(T) rows: its tokens' embeddings, then the pad
token's.

    [the, cat, sat], U = 6  ->  E[the] E[cat] E[sat] E[pad] E[pad] E[pad]

`dense` sets store these rows, `table` sets make them while reading; `TargetSet.rows` is the one place that
does either, so the two are equal bit for bit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sm_store import catalog, document, paths
from sm_store.dtypes import numpy_dtype, to_float32, to_storage
from sm_store.durable import Written, move_files, staged
from sm_store.errors import ConfigError, StoreCorrupt, StoreError, StoreFormatError
from sm_store.identity import canonical, diff_json, require_same
from sm_store.records import TargetSpec
from sm_store.shards.shard_zarr import group_json

PIECE_BYTES = 16 * 2**20  # of a table, as float32


class TargetSet:
    """A target set of an open store."""

    def __init__(self, root: Path, spec: TargetSpec) -> None:
        self.root = root
        self.folder = root / paths.target_folder(spec.name)
        self.spec = spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def tokenizer_dir(self) -> Path:
        """Folder of the LLM's tokenizer files."""
        return self.folder / paths.TOKENIZER

    def added_later(self, shard: int) -> bool:
        """Whether a shard's targets were added after its features, as files of their own with a ledger.

        Its part tells; where that is damaged or missing, the existence of a ledger does.
        """
        path = paths.ledger(shard, self.name)
        try:
            part, _ = catalog.read_part(self.root, shard, [], self.name)
        except StoreError:
            return (self.root / path).is_file()
        return path in part.files

    @cached_property
    def stored_table(self) -> np.ndarray:
        """The table as it is on disk, (V, E), mapped read-only; bfloat16 as uint16 bits. Checked once."""
        path = self.folder / paths.TABLE
        if paths.TABLE not in self.files:
            raise StoreFormatError(f"{path}: not listed in {paths.SPEC}")
        self.files[paths.TABLE].require(path, mapped=True)
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.shape != (self.spec.vocabulary, self.spec.width):
            promised = (self.spec.vocabulary, self.spec.width)
            raise StoreCorrupt(f"{path}: shape {table.shape} is not {promised}")
        return table

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """target.json."""
        data = document.read(self.folder / paths.SPEC)
        require_same(diff_json(self.spec.to_json(), data["spec"]), str(self.folder))
        return data

    @property
    def files(self) -> Mapping[str, Written]:
        """The set's own files, by path below its folder, with size and crc32c. Raises StoreCorrupt."""
        entries = self.description["files"].items()
        for name, _ in entries:
            if name.startswith("/") or ".." in name.split("/"):
                raise StoreCorrupt(f"{self.folder}: target.json names a file outside it: {name!r}")
        return {name: Written(int(size), int(total)) for name, (size, total) in entries}

    @cached_property
    def table(self) -> np.ndarray:
        """The LLM's input-embedding table, (V, E) float32."""
        return to_float32(self.stored_table, self.description["table_dtype"])

    @cached_property
    def pad_row(self) -> np.ndarray:
        """The pad token's embedding, (E,) in the store's dtype."""
        return self.embed(np.asarray([self.spec.pad_id]))[0]

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Embeddings of token ids, (n,) to (n, E), in the store's dtype."""
        rows = to_float32(np.asarray(self.stored_table[ids]), self.description["table_dtype"])
        return to_storage(rows, self.spec.dtype)

    def rows(self, ids: np.ndarray, vectors: int) -> np.ndarray:
        """One record's target, (vectors, E): embeddings of `ids`, then pad rows; in the store's dtype."""
        target = np.empty((vectors, self.spec.width), self.pad_row.dtype)
        target[: len(ids)] = self.embed(ids)
        target[len(ids) :] = self.pad_row
        return target

    def fingerprint(self) -> str:
        """SHA-256 of the spec; targets of a shard must carry the same."""
        return hashlib.sha256(canonical(self.spec.to_json())).hexdigest()

    def check_tokenizer(self) -> None:
        """Raises StoreCorrupt where a tokenizer file is not what was added."""
        for name, written in self.files.items():
            if name.startswith(f"{paths.TOKENIZER}/"):
                written.require(self.folder / name)


class DenseRows(Sequence[np.ndarray]):
    """The targets of a shard's records, made one at a time."""

    def __init__(self, target: TargetSet, ids: Sequence[np.ndarray], vectors: Sequence[int]) -> None:
        self._target, self._ids, self._vectors = target, ids, vectors

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: Any) -> Any:
        return self._target.rows(self._ids[row], self._vectors[row])


def table_rows(table: np.ndarray) -> Iterator[np.ndarray]:
    """A table (V, E) in pieces of at most PIECE_BYTES as float32: whatever is computed of it needs no second table."""
    rows = max(PIECE_BYTES // (4 * table.shape[1]), 1)
    return (table[start : start + rows] for start in range(0, len(table), rows))


def table_sha256(table: np.ndarray) -> str:
    """Fingerprint of an embedding table (V, E): its shape, then its numbers as little-endian float32."""
    digest = hashlib.sha256(f"{table.shape[0]}x{table.shape[1]}:".encode())
    for rows in table_rows(table):
        digest.update(np.ascontiguousarray(rows, "<f4").tobytes())
    return digest.hexdigest()


def table_scale(table: np.ndarray) -> float:
    """Mean square of a table's numbers."""
    total = 0.0
    for start in range(0, len(table), 4096):  # in these pieces ever since: other sums would differ in their last bits
        total += float(np.square(table[start : start + 4096], dtype=np.float64).sum())
    return total / table.size


def tokenizer_sha256(files: Mapping[str, bytes]) -> str:
    """Fingerprint of tokenizer files: names and contents, in name order."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def write_target_set(
    folder: Path, spec: TargetSpec, table: np.ndarray, tokenizer: Mapping[str, bytes], zarr: bool
) -> None:
    """Put a target set's own folder in place, without any shard yet.

    Args:
        zarr: whether the store's shards are zarr arrays, so that the folder is a zarr group.

    Raises:
        StoreError: the table or the tokenizer is not what the spec says.
    """
    _check_spec(spec, table, tokenizer)
    dtype = narrowest(table)
    with staged(folder) as stage:
        if zarr:
            stage.add(paths.GROUP, group_json({"target": spec.to_json()}))
            stage.add(f"{paths.SHARDS}/{paths.GROUP}", group_json())
        with stage.create(paths.TABLE) as out:
            out.write(_npy_header(table.shape, numpy_dtype(dtype)))
            for rows in table_rows(table):
                out.write(to_storage(np.asarray(rows, np.float32), dtype))
        for name in sorted(tokenizer):
            stage.add(f"{paths.TOKENIZER}/{name}", tokenizer[name])
        files = {name: [entry.size, entry.crc32c] for name, entry in stage.files.items()}
        body = {"spec": spec.to_json(), "table_dtype": dtype, "files": files}
        stage.add(paths.SPEC, document.encode(body))


def restore_target_set(root: Path, spec: TargetSpec, table: np.ndarray, tokenizer: Mapping[str, bytes]) -> None:
    """Write a target set's own files again, as they were; its shards stay.

    Raises:
        StoreError: the table or the tokenizer is not what the spec says.
    """
    folder = root / paths.target_folder(spec.name)
    made = folder.with_name(f".{spec.name}.tmp-restored")
    write_target_set(made, spec, table, tokenizer, zarr=(root / paths.GROUP).exists())
    move_files(made, folder)


def narrowest(table: np.ndarray) -> str:
    """The narrowest storage dtype that holds every number of a table (V, E) of floats exactly."""
    for dtype in ("bfloat16", "float16"):
        pieces = (np.asarray(rows, np.float32) for rows in table_rows(table))
        if all(np.array_equal(to_float32(to_storage(rows, dtype), dtype), rows) for rows in pieces):
            return dtype
    return "float32"


def _check_spec(spec: TargetSpec, table: np.ndarray, tokenizer: Mapping[str, bytes]) -> None:
    what = f"target set {spec.name!r}"
    if table.shape != (spec.vocabulary, spec.width):
        raise StoreError(f"{what}: table of shape {table.shape}, spec says ({spec.vocabulary}, {spec.width})")
    if not 0 <= spec.pad_id < spec.vocabulary:
        raise StoreError(f"{what}: pad_id {spec.pad_id} is not a row of its table of {spec.vocabulary}")
    if spec.kind not in ("dense", "table"):
        raise ConfigError(f"{what}: kind {spec.kind!r}: choose dense or table")
    if not all(np.isfinite(rows).all() for rows in table_rows(table)):
        raise StoreError(f"{what}: the embedding table holds NaN or infinite numbers")
    if spec.table_sha256 != table_sha256(table):
        raise StoreError(f"{what}: table_sha256 is not sm_store.targets.table_sha256 of the table")
    if spec.tokenizer_sha256 != tokenizer_sha256(tokenizer):
        raise StoreError(f"{what}: tokenizer_sha256 is not sm_store.targets.tokenizer_sha256 of the files")
    for name in tokenizer:
        if "/" in name or name.startswith(".") or not name:
            raise StoreError(f"{what}: tokenizer file name {name!r}: plain names only")


def _npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    out = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()
