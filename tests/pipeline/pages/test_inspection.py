"""What `status` and `inspect` say of a store, as values and as lines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sm_pipeline.pages.inspection import inspect_lines, inspect_store, reject_lines, status_lines, store_status
from sm_store import Store
from sm_store.errors import StoreMissing
from tests.store import building


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three shards with a dense target set. Read only."""
    folder = tmp_path_factory.mktemp("inspection") / "s"
    building.build(folder)
    return folder


def test_the_facts_are_plain_json(path):
    facts = inspect_store(path)
    assert json.loads(json.dumps(facts)) == facts


def test_status_counts_shards_records_and_rejects(path):
    facts = store_status(path)
    lines = status_lines(facts)
    assert facts["finished"] and lines[0] == f"{path}: finished"
    assert any(line.split() == ["shards", "3", "of", "3"] for line in lines)
    assert any(line.split()[:2] == ["records", "15,"] for line in lines)
    assert any(line.split() == ["rejected", "3"] for line in lines)
    assert sum(facts["rejects"].values()) == 3
    assert "rejected_utterances" not in facts


def test_every_reject_is_a_line_of_its_own(path):
    facts = store_status(path, with_rejects=True)
    rejects = Store.open(path).rejects()
    assert reject_lines(facts) == [f"{each.id}\t{each.reason}\t{each.detail}" for each in rejects]
    assert len(rejects) == 3


def test_inspection_measures_what_the_catalog_holds(path):
    store, facts = Store.open(path), inspect_store(path)
    assert facts["frames_per_record"]["median"] == np.median(store.frames)
    assert facts["frames_per_record"]["longest"] == store.frames.max()
    seconds = store.columns(["duration"])["duration"].to_numpy()
    assert facts["seconds"]["shortest"] == pytest.approx(seconds.min())
    counts = store.token_counts("llm")
    assert facts["targets"]["llm"]["tokens_per_record"]["longest"] == counts.max()
    assert facts["targets"]["llm"]["untargeted"] == (counts == 0).sum()
    for name, values in facts["fields"].items():
        column = [value for value in store.columns([name])[name].to_pylist() if value is not None]
        assert values["distinct"] == len(set(column))


def test_the_lines_name_encoder_features_and_targets(path):
    lines = inspect_lines(inspect_store(path))
    assert any(line.startswith("  encoder   ") and "width" in line for line in lines)
    assert any(line.startswith("  features  float16") for line in lines)
    assert any(line.startswith("  target    llm: ") for line in lines)


def test_a_store_that_is_not_finished(tmp_path):
    building.build(tmp_path / "s", shards=2)
    facts = store_status(tmp_path / "s")
    assert not facts["finished"]
    assert any("missing 2" in line for line in status_lines(facts))


def test_no_store(tmp_path):
    with pytest.raises(StoreMissing):
        store_status(tmp_path / "nothing")
