"""Another LLM's targets for a store that is there already."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sm_pipeline.config import TargetConfig
from sm_pipeline.extraction import embed as embed_module
from sm_pipeline.extraction.embed import embed
from sm_pipeline.extraction.llm_targets import build_targets
from sm_pipeline.text import normalise
from sm_store import Geometry, Record, Store
from sm_store.errors import ConfigError, IdentityMismatch, ModelError, StoreError, StoreMissing
from sm_store.verify import verify
from tests.pipeline import llms
from tests.store import building

TEXTS = ["The old dog.", "a bird sang by the river", "we slept", "Nobody came, it was late!", "the end", "or so"]
FRAMES = [60, 24, 60, 60, 13, 60]  # 13 frames give 3 vectors: "the end" and a pad just fit


@pytest.fixture
def store(tmp_path):
    """Two shards of three records, without targets."""
    made = Store.create(tmp_path / "s.store", building.identity(plan={"shards": 2}))
    rng = np.random.default_rng(0)
    for shard in range(2):
        records = []
        for number in range(3 * shard, 3 * shard + 3):
            features = rng.standard_normal((FRAMES[number], building.WIDTH)).astype(np.float16)
            fields = building.fields(number) if hasattr(building, "fields") else None
            fields = replace(fields, text=TEXTS[number]) if fields else _fields(TEXTS[number])
            records.append(Record(f"u{number}", features, fields))
        made.commit(shard, records, [])
    return made


def _fields(text: str):
    from sm_store import Fields

    return Fields(text, 1.0)


def test_tokens_of_every_record_that_fits(store, tiny_llm):
    features = {path: path.read_bytes() for path in (store.root / "shards").rglob("*") if path.is_file()}
    summary = embed(store.root, TargetConfig(str(tiny_llm)))
    done = Store.open(store.root)
    room = Geometry().num_vectors(np.asarray(FRAMES))
    words = np.asarray([len(normalise(text).split()) for text in TEXTS])
    fits = words + 1 <= room
    assert not fits.all()
    assert fits[4]
    assert done.token_counts("tiny-llm").tolist() == np.where(fits, words, 0).tolist()
    assert (summary.name, summary.shards, summary.busy) == ("tiny-llm", 2, 0)
    assert (summary.records, summary.too_long) == (fits.sum(), (~fits).sum())
    assert summary.pad_token == "<pad>"
    assert features == {path: path.read_bytes() for path in features}
    assert verify(store.root).ok


@pytest.mark.parametrize(("normalizer", "tokens"), [("mms-1", 5), ("mms-2", 3), ("mms-2-numbers-removed", 2)])
def test_texts_are_normalised_as_the_store_records(tmp_path, tiny_llm, normalizer, tokens):
    made = Store.create(tmp_path / "s.store", building.identity(plan={"shards": 1}, normalizer=normalizer))
    features = np.zeros((60, building.WIDTH), np.float16)
    made.commit(0, [Record("u0", features, _fields("It's 5 o'clock."))], [])
    embed(made.root, TargetConfig(str(tiny_llm)))
    done = Store.open(made.root)
    assert done.targets("tiny-llm").spec.normalizer == normalizer
    assert done.token_counts("tiny-llm").tolist() == [tokens]


def test_again_it_does_nothing(store, tiny_llm):
    embed(store.root, TargetConfig(str(tiny_llm)))
    summary = embed(store.root, TargetConfig(str(tiny_llm)))
    assert (summary.shards, summary.records) == (0, 0)
    assert "complete before, nothing to do" in summary.in_words()


def test_what_was_begun_is_finished(store, tiny_llm):
    embed(store.root, TargetConfig(str(tiny_llm)))
    (store.root / "targets" / "tiny-llm" / "catalog" / "00001.parquet").unlink()
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 1
    assert Store.open(store.root).done_shards("tiny-llm") == {0, 1}


def test_several_llms_side_by_side(store, tiny_llm, tmp_path):
    other = llms.save(tmp_path / "other", llms.llama(3))
    embed(store.root, TargetConfig(str(tiny_llm)))
    embed(store.root, TargetConfig(str(other), kind="table", name="second"))
    done = Store.open(store.root)
    assert done.target_names == ["second", "tiny-llm"]
    one, two = (done.read([0], name).targets_BUE for name in done.target_names)
    assert one.shape == two.shape
    assert not np.array_equal(one, two)


def test_a_shard_another_process_is_embedding_is_left_to_it(store, tiny_llm):
    with store.claim(1):
        summary = embed(store.root, TargetConfig(str(tiny_llm)))
    assert (summary.shards, summary.busy) == (1, 1)
    assert "1 shards are being written by another process" in summary.in_words()
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 1


def test_shards_that_an_extraction_commits_meanwhile_are_left_to_the_next_call(store, tiny_llm, monkeypatch):
    """Shards and parts are of one version of the store: reading the first live was a KeyError."""

    def while_another_process_writes(*arguments):
        features = np.zeros((60, building.WIDTH), np.float16)
        Store.open(store.root).commit(len(store.done_shards()), [Record("new", features, _fields("one"))], [])
        return build_targets(*arguments)

    monkeypatch.setattr(embed_module, "build_targets", while_another_process_writes)
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 2
    monkeypatch.undo()
    assert Store.open(store.root).done_shards("tiny-llm") == {0, 1}
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 1
    assert len(Store.open(store.root).token_counts("tiny-llm")) == 7


def test_what_cannot_be(store, tiny_llm, tmp_path):
    with pytest.raises(StoreMissing):
        embed(tmp_path / "nowhere", TargetConfig(str(tiny_llm)))
    with pytest.raises(ModelError, match="--llm nope"):
        embed(store.root, TargetConfig("nope"))
    with pytest.raises(ConfigError, match="target set name"):
        embed(store.root, TargetConfig(str(tiny_llm), name="a/b"))
    embed(store.root, TargetConfig(str(tiny_llm)))
    with pytest.raises(IdentityMismatch, match=r'kind: "dense" != "table"'):
        embed(store.root, TargetConfig(str(tiny_llm), kind="table"))


def test_a_disk_without_room_is_refused_before_anything_is_written(store, tiny_llm, monkeypatch):
    vectors = int(Geometry().num_vectors(store.frames).sum())
    needed = 2 * llms.VOCABULARY * llms.WIDTH + 2 * vectors * llms.WIDTH
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(StoreError, match=r"the target set 'tiny-llm' takes about .* free on its disk"):
        embed(store.root, TargetConfig(str(tiny_llm)))
    assert Store.open(store.root).target_names == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert embed(store.root, TargetConfig(str(tiny_llm))).shards == 0


MEMORY = """
import sys
from pathlib import Path
import sm_pipeline.extraction.embed as embed_module
from sm_pipeline.config import TargetConfig
from sm_pipeline.models.llm_table import load_llm_table

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

load_llm_table(sys.argv[3])  # what a process needs anyway
before = peak()
embed_module.embed(Path(sys.argv[1]), TargetConfig(sys.argv[2], name="large"))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmHWM")
def test_the_table_is_never_held_twice(store, tiny_llm, tmp_path):
    """2.1 GB of float32 may take 3 GB: here 256 MB, stored in half of that, may take 1.43 times as much."""
    rows, width = 65_536, 1_024
    config = llms.llama(0).config.to_dict() | {"vocab_size": rows, "hidden_size": width, "head_dim": 16}
    large = shutil.copytree(tiny_llm, tmp_path / "large")
    (large / "config.json").write_text(json.dumps(config))
    table = torch.randn(rows, width).to(torch.bfloat16)
    save_file({"model.embed_tokens.weight": table}, large / "model.safetensors", metadata={"format": "pt"})
    arguments = [sys.executable, "-c", MEMORY, str(store.root), str(large), str(tiny_llm)]
    grown = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    assert grown < 3.0 / 2.1 * 4 * rows * width
    kept = Store.open(store.root).targets("large")
    assert kept.table.shape == (rows, width) and kept.stored_table.dtype == np.uint16
