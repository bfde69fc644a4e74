"""Operations that read a whole store, with a progress bar: verify, export, merge.

report = verify_store(Path("corpus.store"))
verify_words(report)                  "1488 records in 3 shards, 0.412 GB read: every byte as written"
export_store(Path("corpus.store"), Path("corpus.tars"), "webdataset")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sm_pipeline.console import progress
from sm_store import Store
from sm_store.convert import Converted, export, merge
from sm_store.verify import VerifyReport, verify

GIGABYTE = 1e9


def verify_store(path: Path) -> VerifyReport:
    """Read every byte of the store, showing progress.

    Raises:
        StoreError: no store there.
    """
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with progress(total / GIGABYTE, "verify", "GB") as shown:
        return verify(path, lambda count: shown.advance(count / GIGABYTE))


def export_store(path: Path, out: Path, layout: str) -> Converted:
    """The store in another layout, showing progress. Raises as `sm_store.convert.export`."""
    with progress(len(Store.open(path)), "export", "records") as shown:
        return export(path, out, layout, shown.advance)


def merge_stores(out: Path, paths: Sequence[Path], layout: str | None, targets: Sequence[str] | None) -> Converted:
    """Several stores as one, showing progress. Raises as `sm_store.convert.merge`."""
    with progress(sum(len(Store.open(path)) for path in paths), "merge", "records") as shown:
        return merge(out, paths, layout, targets, shown.advance)


def verify_words(report: VerifyReport) -> str:
    """The outcome of `verify` in a sentence."""
    read = f"{report.records} records in {report.shards} shards, {report.bytes / GIGABYTE:.3f} GB read"
    missing = (
        f"; {len(report.missing)} planned shards are not there yet (`status` names them)" if report.missing else ""
    )
    return f"{read}: {'every byte as written' if report.ok else f'{len(report.damages)} damages'}{missing}"
