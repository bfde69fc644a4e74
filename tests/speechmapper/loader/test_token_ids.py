"""Token ids of the training texts."""

from __future__ import annotations

import numpy as np

from sm_store import Geometry
from speechmapper.config import DataConfig
from speechmapper.loader.data import DataRequest, open_data
from speechmapper.loader.token_ids import token_counts, token_ids
from tests.speechmapper.tiny import tokenizer


def test_every_training_text_and_no_other(world):
    data = open_data(DataRequest(world.path), Geometry(), DataConfig(frames=200), seed=1)
    words, counts_V = tokenizer(), np.zeros(data.spec.vocabulary, np.int64)
    found = dict(token_ids(data))
    assert sorted(found) == sorted(data.order.indices.tolist())
    assert {world.store[index].split for index in found} == {"train"}
    for index, ids in found.items():
        expected = words(world.texts[index])["input_ids"]
        assert ids.tolist() == expected
        for token in expected:
            counts_V[token] += 1
    assert token_counts(data).tolist() == counts_V.tolist()
