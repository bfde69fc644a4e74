"""Where each file of a store is, against FORMAT.md and the stores of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sm_store import paths
from tests.store import building

FORMAT = Path(__file__).parents[2] / "store/FORMAT.md"
TARGETS = (None, "llm", "late")


def test_every_path_is_in_the_format():
    listed = FORMAT.read_text(encoding="utf-8").split("## Files")[1].split("```")[1]
    known = [
        paths.STORE,
        paths.RECIPE,
        paths.REPAIR,
        *(paths.target_spec("NAME"), f"{paths.target_folder('NAME')}/{paths.TABLE}"),
        f"{paths.target_folder('NAME')}/{paths.TOKENIZER}/*",
        f"{paths.LOCKS}/*",
        *(f"{paths.shards_folder(target)}/..." for target in (None, "NAME")),
        *paths.GROUPS,
    ]
    for function in (paths.part, paths.part_seal, paths.ledger):
        known += [function(7, target).replace("00007", "SHARD") for target in (None, "NAME")]
    assert [path for path in known if path not in listed] == []
    assert paths.index() in listed and Path(paths.index_seal()).name in listed


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (paths.part(7), "catalog/00007.parquet"),
        (paths.part(123456, "llm"), "targets/llm/catalog/123456.parquet"),
        (paths.part_seal(0, "llm"), "targets/llm/catalog/_00000.crc32c"),
        (paths.index("llm"), "targets/llm/catalog/_index.arrow"),
        (paths.index_seal(), "catalog/_index.crc32c"),
        (paths.ledger(7), "ledger/00007.jsonl"),
        (paths.ledger(7, "llm"), "targets/llm/ledger/00007.jsonl"),
        (paths.shard_folder(7), "shards/00007"),
        (paths.shard_tar(7, "llm"), "targets/llm/shards/00007.tar"),
        (paths.target_spec("llm"), "targets/llm/target.json"),
        (paths.shard_lock(7), "shard-00007"),
    ],
)
def test_paths(path, expected):
    assert path == expected


def test_every_file_of_a_store_has_a_function(store, tmp_path, layout):
    store.add_target_set(building.target_spec("late", dtype=store.identity.dtype), building.table(), building.TOKENIZER)
    for shard in range(3):
        store.commit_targets("late", shard, building.token_ids(shard, building.records(shard)))
    known = {paths.STORE, *paths.GROUPS}
    for name in ("llm", "late"):
        own = (paths.SPEC, paths.TABLE, paths.GROUP, f"{paths.SHARDS}/{paths.GROUP}")
        known |= {f"{paths.target_folder(name)}/{file}" for file in own}
    for shard in range(3):
        for function in (paths.part, paths.part_seal, paths.ledger, paths.shard_tar):
            known |= {function(shard, target) for target in TARGETS}
    inside = tuple(f"{paths.shard_folder(shard, target)}/" for shard in range(3) for target in TARGETS)
    tokenizers = tuple(f"{paths.target_folder(name)}/{paths.TOKENIZER}/" for name in ("llm", "late"))
    files = building.tree(tmp_path / "s.store")
    assert [file for file in files if file not in known and not file.startswith((*inside, *tokenizers))] == []
    data = {file for file in files if paths.is_shard_data(file)}
    assert data and data == {file for file in files if re.search(r"(^|/)shards/", file)}


@pytest.mark.parametrize("target", TARGETS)
def test_parts_may_list_the_files_of_shards_only(target):
    files = (paths.shard_tar(3, target), f"{paths.shard_folder(3, target)}/features/c/0/0", paths.ledger(3, target))
    assert all(map(paths.is_file_of_a_shard, files))


@pytest.mark.parametrize(
    "path", ["", "/shards/0.tar", "../shards/0.tar", "shards/../../x", "shards/..", "catalog/00000.parquet", "shards"]
)
def test_parts_may_not_list_other_files(path):
    assert not paths.is_file_of_a_shard(path)
