"""What is done, missing and rejected."""

from __future__ import annotations

import json

import pytest

from sm_store import Store
from sm_store.status import status
from tests.store import building


def test_status(store, layout):
    state = status(store)
    assert state["shards"] == {"done": 3, "planned": 3, "missing": [], "retried": 0}
    assert state["finished"]
    assert state["records"] == 15 and state["rejected"] == 3 and state["rejects"] == {"audio_missing": 3}
    assert state["targets"] == {"llm": {"llm": "tiny-llm", "kind": "dense", "done": 3, "missing": []}}
    assert state["hours"] == pytest.approx(float(store.frames.sum()) / 25 / 3600)
    assert state["layout"] == layout
    assert json.loads(json.dumps(state)) == state


def test_status_of_an_unfinished_store(tmp_path):
    store = Store.create(tmp_path / "s", building.identity())
    store.add_target_set(building.target_spec(), building.table(), building.TOKENIZER)
    store.commit(1, building.records(1), [])
    state = status(store)
    assert state["shards"]["missing"] == [0, 2] and not state["finished"]
    assert state["targets"]["llm"]["missing"] == [1]
