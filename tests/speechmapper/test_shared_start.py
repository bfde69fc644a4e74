"""The shared start of prompts: which ids it has, and layers that hand out its keys and values and keep nothing."""

from __future__ import annotations

import torch

from speechmapper.shared_start import ReadLayer, StartLayer, common_start


def test_common_start():
    assert common_start([(1, 2, 3), (1, 2, 4)]) == (1, 2)
    assert common_start([(1, 2), (1, 2, 4)]) == (1, 2)
    assert common_start([(1,), (2,)]) == ()


def test_a_layer_hands_out_the_start_before_what_follows_and_does_not_grow():
    start, more = torch.arange(4.0).reshape(1, 1, 2, 2), torch.ones(1, 1, 1, 2)
    layer = StartLayer(start, -start)
    for _ in range(2):
        keys, values = layer.update(more, 2 * more)
        assert keys.tolist() == [[[[0, 1], [2, 3], [1, 1]]]] and values.tolist() == [[[[0, -1], [-2, -3], [2, 2]]]]
    assert layer.get_seq_length() == 2


def test_a_layer_that_reads_keeps_what_it_was_last_given():
    layer = ReadLayer()
    for value in (1.0, 2.0):
        given = torch.full((1, 1, 3, 2), value)
        assert layer.update(given, -given)[0] is given
    assert layer.keys.unique().tolist() == [2.0] and layer.values.unique().tolist() == [-2.0]
