"""The order of an epoch: every utterance once, within budget, little padding, a function of its arguments."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.errors import ConfigError
from speechmapper.loader.epoch import Budget, LeftOut, Order, batches_by_length, buckets, plan_epoch, usable
from tests.speech import librispeech_seconds


def librispeech_like(count: int, seed: int = 0) -> np.ndarray:
    """Stored frames (25 Hz) of LibriSpeech's lengths."""
    return (librispeech_seconds(count, seed) * 25).astype(np.int64)


def order(count: int = 500, budget: Budget | None = None, seed: int = 3) -> Order:
    frames = librispeech_like(count)
    return Order(np.arange(count) * 2, frames, np.arange(count) // 100, budget or Budget(2000), seed)


def test_an_epoch_holds_every_utterance_once():
    plan = order()
    assert sorted(np.concatenate(plan.epoch(0)).tolist()) == plan.indices.tolist()


@pytest.mark.parametrize("budget", [Budget(900), Budget(4096), Budget(4096, max_utterances=3), Budget(1500, window=64)])
def test_batches_stay_within_the_budget_after_padding(budget):
    plan = order(budget=budget)
    frames = dict(zip(plan.indices.tolist(), plan.frames.tolist(), strict=True))
    for batch in plan.epoch(1):
        longest = max(frames[index] for index in batch.tolist())
        assert len(batch) * longest <= budget.frames
        assert len(batch) <= (budget.max_utterances or len(batch))


def test_one_over_the_budget_is_alone_where_max_frames_allows_it():
    plan = order(budget=Budget(300, max_frames=875))
    frames = dict(zip(plan.indices.tolist(), plan.frames.tolist(), strict=True))
    long = [batch for batch in plan.epoch(0) if max(frames[index] for index in batch.tolist()) > 300]
    assert long and all(len(batch) == 1 for batch in long)


def test_little_padding_on_librispeech_lengths():
    for frames in (500, 4096, 32768):
        assert order(20_000, Budget(frames, max_frames=875)).padding(0) < 0.08


def test_buckets_are_neighbouring_steps_of_length_that_hold_enough_together():
    frames = np.array([40, 210, 41, 60, 43, 200])
    assert buckets(frames, 2).tolist() == [0, 2, 0, 1, 1, 2]
    assert buckets(frames, 1).tolist() == [0, 4, 0, 2, 1, 3]  # steps of 10 %, however few hold it
    assert buckets(frames, 4).tolist() == [0] * 6  # two of four would need eight
    assert buckets(frames[:0], 4).tolist() == []


@pytest.mark.parametrize("count", [1, 100, 1000, 8000, 40_000])
@pytest.mark.parametrize("least", [1, 64, 512])
def test_every_bucket_holds_enough_or_is_the_only_one(count, least):
    frames = librispeech_like(count)
    bucket = buckets(frames, least)
    sizes = np.bincount(bucket)
    assert sizes.min() >= min(least, count)
    by_length = bucket[np.argsort(frames, kind="stable")]
    assert (np.diff(by_length) >= 0).all()  # a range of lengths each


def test_batches_of_a_small_corpus_hold_all_lengths_and_of_a_large_one_near_ones():
    """In a small corpus a batch of one length would always have the same number of words."""

    def spread(count: int) -> float:
        """Standard deviation of lengths inside a batch over that of all, mean of the batches."""
        plan = order(count, Budget(4096, max_frames=875))
        inside = [plan.frames[batch // 2].std() for batch in plan.epoch(0)]
        return float(np.mean(inside) / plan.frames.std())

    assert spread(1000) > 0.8
    assert spread(20_000) < 0.2


def test_buckets_of_one_step_are_as_they_were():
    """`bucket_utterances=1` is the order of runs before there was a choice."""
    frames = librispeech_like(3000)
    expected = np.floor(np.log(np.maximum(frames, 1)) / np.log(1.1)).astype(np.int64)
    assert buckets(frames, 1).tolist() == np.unique(expected, return_inverse=True)[1].tolist()


def test_without_buckets_padding_would_be_much_more():
    """The bound above is worth something: random batches of the same size pad several times as much."""
    frames = librispeech_like(2000)
    random = np.random.default_rng(0).permutation(frames).reshape(-1, 20)
    assert 1 - random.sum() / (random.max(axis=1) * 20).sum() > 0.25


def test_same_arguments_same_order_and_other_seed_or_epoch_another():
    def flat(plan: Order, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan.epoch(epoch)]

    assert flat(order(), 5) == flat(order(), 5)
    assert flat(order(), 5) != flat(order(), 6)
    assert flat(order(seed=3), 5) != flat(order(seed=4), 5)


def test_mates_change_from_epoch_to_epoch():
    """Sorting all utterances by length would give the same batches each time."""
    plan = order()
    mates = [{frozenset(batch.tolist()) for batch in plan.epoch(epoch)} for epoch in (0, 1)]
    assert len(mates[0] & mates[1]) < 0.1 * len(mates[0])


def test_step_is_the_slice_of_its_epoch_and_needs_no_history():
    budget = Budget(1500, micro_batches=3)
    whole = order(budget=budget)
    steps_of_epoch_0 = len(whole.epoch(0)) // 3
    expected = [batch.tolist() for epoch in (0, 1) for batch in whole.epoch(epoch)[: len(whole.epoch(epoch)) // 3 * 3]]
    walked = [batch.tolist() for step in range(len(expected) // 3) for batch in order_step(whole, step)]
    assert walked == expected
    fresh = order(budget=budget)
    assert [batch.tolist() for batch in fresh.step(steps_of_epoch_0 + 1)] == expected[3 * steps_of_epoch_0 + 3 :][:3]


def order_step(plan: Order, step: int) -> list[np.ndarray]:
    batches = plan.step(step)
    assert len(batches) == plan.budget.micro_batches
    return batches


def test_locate_crosses_epochs():
    plan = order(budget=Budget(1500, micro_batches=2))
    per_epoch = len(plan.epoch(0)) // 2
    assert plan.locate(0) == (0, 0)
    assert plan.locate(per_epoch - 1) == (0, 0)
    assert plan.locate(per_epoch) == (1, per_epoch)


def test_what_does_not_fill_a_step_is_counted():
    plan = order(budget=Budget(1500, micro_batches=4))
    used = sum(len(batch) for step in range(plan.locate(0)[1], len(plan.epoch(0)) // 4) for batch in plan.step(step))
    assert used + plan.dropped(0) == 500


def test_windows_keep_shards_together():
    """With windows of one shard's size, a window reads from at most two shards."""
    frames = librispeech_like(1000)
    shards = np.arange(1000) // 100
    batches = plan_epoch(np.arange(1000), frames, shards, Budget(2000, window=100), (1, 0))
    flat = np.concatenate(batches)
    for start in range(0, 1000, 100):
        assert len(set(shards[flat[start : start + 100]].tolist())) <= 2
    assert shards[flat[0]] != 0 or shards[flat[500]] != 5  # and the shards' own order is shuffled


def test_usable_leaves_out_and_counts():
    frames = np.array([100, 100, 100, 4000, 8])
    tokens = np.array([5, 0, 25, 5, 1])
    vectors = np.array([25, 25, 25, 1000, 2])
    keep, left_out = usable(frames, tokens, vectors, Budget(1000))
    assert keep.tolist() == [True, False, False, False, True]  # 25 tokens leave no room for a pad
    assert left_out == LeftOut(too_long=1, no_target=2)
    assert "1 over the frame limit, 2 without" in str(left_out)


def test_empty_and_impossible_plans_say_what_to_change():
    with pytest.raises(ConfigError, match="no utterance can be used"):
        Order(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), Budget(100), 1)
    with pytest.raises(ConfigError, match=r"lower data\.micro_batches"):
        order(10, Budget(10_000, micro_batches=8)).step(0)


def test_evaluation_batches_hold_everything_once_longest_first():
    frames = np.array([10, 90, 30, 50, 70, 20, 400])
    batches = batches_by_length(np.arange(7), frames, Budget(180, max_utterances=3))
    assert [batch.tolist() for batch in batches] == [[6], [1, 4], [3, 2, 5], [0]]
    assert batches_by_length(np.arange(0), frames, Budget(180)) == []
