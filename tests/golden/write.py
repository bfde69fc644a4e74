"""Writes the golden stores of the present format version: `python -m tests.golden.write`.

They are committed once and never written again: a release that cannot read them has another format version, and gets
golden stores of its own beside them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sm_store import Store
from sm_store.document import FORMAT_VERSION
from tests.store import building

FOLDER = Path(__file__).parent
# name: layout, kind, dtype, compression
FORMS = {
    "zarr-dense": ("zarr", "dense", "float16", None),
    "zarr-table-zstd": ("zarr", "table", "float32", "zstd:1"),
    "zarr-dense-int8": ("zarr", "dense", "float16", "int8"),
    "tars-dense-blosc": ("webdataset", "dense", "bfloat16", "blosc:lz4:5:bitshuffle"),
    "tars-table-int8": ("webdataset", "table", "bfloat16", "int8"),
}
SHARDS, RECORDS = 2, 3


def write(path: Path, name: str) -> Store:
    """The store of that name: two shards with a target set made with them, and one added later."""
    layout, kind, dtype, compression = FORMS[name]
    store = Store.create(path, building.identity(layout=layout, dtype=dtype, compression=compression))
    store.add_target_set(building.target_spec("llm", kind=kind, dtype=dtype), building.table(), building.TOKENIZER)
    for shard in range(SHARDS):
        made = building.records(shard, count=RECORDS, dtype=dtype)
        store.commit(shard, made, building.rejects(shard), {"llm": building.token_ids(shard, made)})
    store.add_target_set(building.target_spec("late", kind="table", dtype=dtype), building.table(), building.TOKENIZER)
    for shard in range(SHARDS):
        ids = building.token_ids(shard, building.records(shard, count=RECORDS, dtype=dtype))
        store.commit_targets("late", shard, ids)
    return store


if __name__ == "__main__":
    for form in FORMS:
        where = FOLDER / f"v{FORMAT_VERSION}" / form
        write(where, form)
        shutil.rmtree(where / ".locks", ignore_errors=True)
