"""Verify, export and merge with progress: they report what the store's own functions do, and count to the end."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from sm_pipeline import whole_store
from sm_pipeline.whole_store import GIGABYTE, export_store, merge_stores, verify_store, verify_words
from sm_store import Store
from tests.store import building


@pytest.fixture
def shown(monkeypatch):
    """The progress bars that were opened: label, total, and the sum of the steps."""
    bars = []

    @contextmanager
    def progress(total, label, unit):
        bar = Bar(label, total)
        bars.append(bar)
        yield bar

    monkeypatch.setattr(whole_store, "progress", progress)
    return bars


class Bar:
    def __init__(self, label, total):
        self.label, self.total, self.done = label, total, 0.0

    def advance(self, steps=1, **figures):
        self.done += steps


def test_a_sound_store(tmp_path, shown):
    building.build(tmp_path / "s")
    report = verify_store(tmp_path / "s")
    assert report.ok
    assert verify_words(report).startswith("15 records in 3 shards, 0.000 GB read: every byte as written")
    (bar,) = shown
    assert bar.label == "verify"
    assert 0.5 * bar.total <= bar.done <= bar.total * 1.01
    assert bar.total * GIGABYTE == pytest.approx(sum(map(len, building.tree(tmp_path / "s").values())), rel=0.2)


def test_damage_and_missing_shards_are_counted(tmp_path):
    building.build(tmp_path / "s", shards=2)
    part = tmp_path / "s/catalog/00001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    report = verify_store(tmp_path / "s")
    words = verify_words(report)
    assert f"{len(report.damages)} damages" in words and "1 planned shards are not there yet" in words


def test_export_and_merge_count_every_record(tmp_path, shown):
    building.build(tmp_path / "s")
    exported = export_store(tmp_path / "s", tmp_path / "tars", "webdataset")
    assert (exported.records, shown[0].label, shown[0].total, shown[0].done) == (15, "export", 15, 15)
    other = Store.create(tmp_path / "other", building.identity(manifest_sha256="ef", plan={"shards": 1}))
    other.commit(0, building.records(9), [])
    merged = merge_stores(tmp_path / "all", [tmp_path / "s", tmp_path / "other"], None, [])
    assert (merged.records, shown[1].label, shown[1].total, shown[1].done) == (20, "merge", 20, 20)
