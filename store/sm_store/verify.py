"""Check every byte of a store against what was written: the data behind `sm-pipeline verify` and `repair`.

    report = verify("corpus.store")
    report.ok                  False
    str(report.damages[0])     shard 7 record 12 'en-0412' (shards/00007/features/c/0/0): bytes differ
    report.bad_shards()        [7]     to discard and extract again
    discard("corpus.store", report)

Unlike opening a store, verifying continues after the first damage and names every one, down to the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sm_store import catalog, commit, document, durable, ledger, paths
from sm_store.catalog import PartInfo
from sm_store.durable import Written, checksum
from sm_store.errors import StoreError
from sm_store.index import drop_index, indexed_columns, read_index, remove_part
from sm_store.reading.blocks import BlockReader
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import Stream
from sm_store.reading.remote import local_folder
from sm_store.records import TargetSpec
from sm_store.repeated import repeated
from sm_store.rows import RowKind, feature_rows, target_rows
from sm_store.shards.shard_zarr import data_file, group_json, offsets_name
from sm_store.targets import TargetSet

_PIECE = 8 * 1024 * 1024
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """One difference from what was written.

    Attributes:
        file: path below the store. problem: what is wrong with it.
        shard, record, id: which, where known; target: the target set it belongs to, None for features.
    """

    file: str
    problem: str
    shard: int | None = None
    record: int | None = None
    id: str | None = None
    target: str | None = None

    @property
    def is_index(self) -> bool:
        """Whether it is a catalog's index, which only repeats what the parts say."""
        return self.file == paths.index(self.target)

    def __str__(self) -> str:
        target = [f"targets {self.target}"] if self.target is not None else []
        shard = [f"shard {self.shard}"] if self.shard is not None else []
        record = [f"record {self.record} {self.id!r}"] if self.record is not None else []
        where = " ".join([*target, *shard, *record])
        return f"{where} ({self.file}): {self.problem}" if where else f"{self.file}: {self.problem}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a full check found.

    Attributes:
        shards, records, bytes: how much was read. missing: shards planned and not there.
        missing_targets: committed shards without targets, by target set.
        leftovers: files of interrupted writers; harmless, replaced when their shard is made.
    """

    damages: tuple[Damage, ...]
    shards: int
    records: int
    bytes: int
    missing: tuple[int, ...]
    missing_targets: Mapping[str, tuple[int, ...]]
    leftovers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.damages

    def bad_shards(self) -> list[int]:
        """Shards whose features must be extracted again."""
        return sorted({d.shard for d in self.damages if d.shard is not None and d.target is None})

    def bad_targets(self) -> dict[str, list[int]]:
        """Shards whose targets must be embedded again, by target set."""
        found: dict[str, set[int]] = {}
        for damage in self.damages:
            if damage.target is not None and damage.shard is not None:
                found.setdefault(damage.target, set()).add(damage.shard)
        return {name: sorted(shards) for name, shards in sorted(found.items())}

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ok": self.ok,
            "bad_shards": self.bad_shards(),
            "bad_targets": self.bad_targets(),
        }


def verify(path: str | Path, progress: Progress | None = None) -> VerifyReport:
    """Read every file of a store against its size and checksum.

    Args:
        progress: called with the number of bytes read since the last call.

    Raises:
        StoreMissing, StoreFormatError, StoreCorrupt: store.json itself cannot be used.
    """
    root = local_folder(path)
    return _Verifier(root, progress or (lambda _: None)).report()


def discard(path: str | Path, report: VerifyReport) -> None:
    """Make what a report found damaged uncommitted, so that the next extract (or embed) makes it again.

    Raises:
        StoreBusy: a shard is being written.
    """
    root = local_folder(path)
    for damage in report.damages:
        if damage.is_index:
            drop_index(root, damage.target)
        elif damage.file in paths.GROUPS:
            durable.write_file(root / damage.file, group_json())
    for shard in report.bad_shards():
        with durable.locked(root, paths.shard_lock(shard)):
            commit.discard_shard(root, shard)
    for name, shards in report.bad_targets().items():
        for shard in shards:
            with durable.locked(root, paths.shard_lock(shard)):
                remove_part(root, shard, name)


class _Verifier:
    """One pass over a store, collecting damages."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.identity, self.specs = document.read_store(root)
        self.progress = progress
        self.damages: list[Damage] = []
        self.bytes = 0
        self.records = 0
        self.ids: dict[int, list[str]] = {}
        self.rejected: dict[int, list[str]] = {}

    def report(self) -> VerifyReport:
        self._groups()
        self._index(catalog.schema_of(self.identity), self.identity.sha256(), None)
        done = catalog.committed_shards(self.root)
        for shard in done:
            self._shard(shard)
        self._duplicates()
        for spec in self.specs.values():
            self._target(spec, done)
        planned = self.identity.plan.get("shards")
        missing = tuple(sorted(set(range(planned)) - set(done))) if isinstance(planned, int) else ()
        left = tuple(sorted(str(entry.relative_to(self.root)) for entry in self.root.rglob(".*.tmp-*")))
        have = {name: catalog.committed_shards(self.root, name) for name in self.specs}
        bare = {name: tuple(sorted(set(done) - set(shards))) for name, shards in have.items()}
        return VerifyReport(tuple(self.damages), len(done), self.records, self.bytes, missing, bare, left)

    def _groups(self) -> None:
        if self.identity.layout != "zarr":
            return
        for name in paths.GROUPS:
            written = Written(len(group_json()), checksum(group_json()))
            problem = self._file(name, written)
            if problem:
                self.damages.append(Damage(name, problem))

    def _index(self, schema: pa.Schema, made_by: str, target: str | None) -> None:
        """Check an index against the parts it repeats."""
        file = paths.index(target)
        try:
            index = read_index(self.root, made_by, target)
        except StoreError as error:
            self.damages.append(Damage(file, str(error), target=target))
            return
        if index is None:
            return
        for part, start, stop in zip(index.parts, index.starts[:-1].tolist(), index.starts[1:].tolist(), strict=True):
            with suppress(StoreError):  # a damaged part is named when its shard is read
                info, table = catalog.read_part(self.root, part.shard, indexed_columns(schema), target)
                if info != part or not table.equals(index.table.slice(start, stop - start).cast(table.schema)):
                    self.damages.append(Damage(file, f"differs from the part of shard {part.shard}", target=target))

    def _shard(self, shard: int) -> None:
        kinds = feature_rows(self.identity)
        names = ["id", "frames", *(name for kind in kinds for name in kind.columns)]
        read = self._part(shard, names, self.identity.sha256(), None)
        if read is None:
            return
        info, table = read
        self.ids[shard] = table.column("id").to_pylist()
        self.records += len(table)
        bad = self._files(info, None)
        for kind in kinds:
            self._rows(info, table, kind, bad, None)
        with suppress(StoreError):  # a damaged ledger is named already, as one of the shard's files
            self.rejected[shard] = [entry.id for entry in ledger.read(self.root, info)]

    def _target(self, spec: TargetSpec, done: Sequence[int]) -> None:
        target = TargetSet(self.root, spec)
        try:
            own = target.files
        except StoreError as error:
            self.damages.append(Damage(paths.target_spec(spec.name), str(error), target=spec.name))
            own = {}
        for name, written in own.items():
            path = f"{paths.target_folder(spec.name)}/{name}"
            problem = self._file(path, written)
            if problem:
                self.damages.append(Damage(path, problem, target=spec.name))
        self._index(catalog.TARGET_SCHEMAS[spec.kind], target.fingerprint(), spec.name)
        for shard in sorted(set(catalog.committed_shards(self.root, spec.name)) & set(done)):
            read = self._part(shard, catalog.TARGET_SCHEMAS[spec.kind].names, target.fingerprint(), spec.name)
            if read is not None:
                info, table = read
                bad = self._files(info, spec.name)
                for kind in target_rows(spec, self.identity.compression):
                    self._rows(info, table, kind, bad, spec.name)

    def _part(
        self, shard: int, names: Sequence[str], made_by: str, target: str | None
    ) -> tuple[PartInfo, pa.Table] | None:
        file = paths.part(shard, target)
        try:
            info, table = catalog.read_part(self.root, shard, names, target)
        except StoreError as error:
            self.damages.append(Damage(file, str(error), shard, target=target))
            return None
        if info.made_by != made_by:
            self.damages.append(Damage(file, "belongs to another store", shard, target=target))
            return None
        self.bytes += (self.root / file).stat().st_size
        return info, table

    def _files(self, info: PartInfo, target: str | None) -> set[str]:
        """Check every file of a shard; returns the bad ones."""
        bad = set()
        for name, written in info.files.items():
            problem = self._file(name, written)
            if problem:
                bad.add(name)
                self.damages.append(Damage(name, problem, info.shard, target=target))
        return bad

    def _file(self, name: str, written: Written) -> str | None:
        size, total = 0, 0
        try:
            for piece in _pieces(self.root / name):
                size, total = size + len(piece), checksum(piece, total)
                self.progress(len(piece))
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        self.bytes += size
        return written.difference(size, total)

    def _rows(self, info: PartInfo, table: pa.Table, kind: RowKind, bad: set[str], target: str | None) -> None:
        """Name the records of one kind of rows that are damaged; check the offsets for stock tools."""
        file = info.data.get(kind.array, "")
        if file in bad and kind.codec is not None:
            self._coded_records(info, file, table, kind, target)
        elif file in bad:
            self._records(info, file, _extents(table, kind), target)
        if self.identity.layout == "zarr":
            self._offsets(info, kind.array, table.column(kind.counts).to_numpy(), target)

    def _offsets(self, info: PartInfo, data: str, counts: np.ndarray, target: str | None) -> None:
        """Check the offsets that stock tools read against the catalog.

        They end with a crc32c of their own, and the crc32c of bytes followed by their crc32c is the same for
        all bytes of one length: the file's checksum alone would not notice another shard's offsets.
        """
        file = f"{paths.shard_folder(info.shard, target)}/{data_file(offsets_name(data), wide=False)}"
        expected = np.cumsum([0, *counts], dtype="<i8").tobytes()
        path = self.root / file
        if path.is_file() and path.read_bytes()[:-4] != expected:
            self.damages.append(Damage(file, "differs from the catalog", info.shard, target=target))

    def _records(self, info: PartInfo, file: str, extents: Sequence[tuple[int, int, int]], target: str | None) -> None:
        """Name the records of a bad file whose own bytes are wrong."""
        path, ids = self.root / file, self.ids.get(info.shard, [])
        if not path.is_file():
            return
        with path.open("rb") as source:
            for row, (offset, size, total) in enumerate(extents):
                source.seek(offset)
                data = source.read(size)
                if len(data) != size or checksum(data) != total:
                    problem = "bytes differ" if len(data) == size else "cut off"
                    name = ids[row] if row < len(ids) else None
                    self.damages.append(Damage(file, problem, info.shard, row, name, target))

    def _coded_records(self, info: PartInfo, file: str, table: pa.Table, kind: RowKind, target: str | None) -> None:
        """The same for records of a compressed shard."""
        path, ids = self.root / file, self.ids.get(info.shard, [])
        if kind.codec is None or not path.is_file():
            return
        counts, offsets, stored, sums = (table.column(name).to_numpy() for name in (kind.counts, *kind.columns))
        size, codec = path.stat().st_size, kind.codec
        stream = Stream(
            kind.label, (kind.row_bytes,), np.dtype(np.uint8), counts, offsets, sums, np.asarray([0, len(counts)]),
            np.asarray([info.shard]), [file], [Written(size, 0)], codec, stored,
        )  # fmt: skip
        reader = BlockReader(ShardFiles(self.root), stream, codec, "always")
        for row in range(len(counts)):
            try:
                reader.flat(np.asarray([row]))
            except StoreError:
                name = ids[row] if row < len(ids) else None
                self.damages.append(Damage(file, "bytes differ", info.shard, row, name, target))

    def _duplicates(self) -> None:
        for shard, name, row, problem in repeated(self.ids, self.rejected):
            file = paths.part(shard) if row is not None else paths.ledger(shard)
            self.damages.append(Damage(file, problem, shard, row, name))


def _extents(table: pa.Table, kind: RowKind) -> list[tuple[int, int, int]]:
    """First byte, size and crc32c of each record's rows."""
    names = (f"{kind.prefix}offset", kind.counts, f"{kind.prefix}crc32c")
    columns = [table.column(name).to_pylist() for name in names]
    return [(offset, count * kind.row_bytes, total) for offset, count, total in zip(*columns, strict=True)]


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(_PIECE):
            yield piece
