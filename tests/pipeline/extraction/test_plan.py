"""Work units and batches: nothing lost, nothing doubled, and cut by the manifest alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sm_pipeline.extraction.plan import ASSUMED_SECONDS, UnitRule, assumed_seconds, plan_batches, plan_units, same_audio
from sm_pipeline.manifest import Utterance
from sm_store.errors import ConfigError


def utterances(*durations: float | None) -> list[Utterance]:
    return [Utterance(f"u{n}", f"{n}.wav", "text", duration=each) for n, each in enumerate(durations)]


def spans(units) -> list[tuple[int, int]]:
    return [(unit.start, unit.stop) for unit in units]


def test_units_are_full_by_count():
    units = plan_units(utterances(*[1.0] * 10), UnitRule(1.0, max_utterances=4))
    assert spans(units) == [(0, 4), (4, 8), (8, 10)]
    assert [unit.shard for unit in units] == [0, 1, 2]
    assert [len(unit) for unit in units] == [4, 4, 2]
    assert [unit.seconds for unit in units] == [4.0, 4.0, 2.0]


def test_units_are_full_by_bytes():
    units = plan_units(utterances(3, 3, 3, 9, 20, 1, 1), UnitRule(10.0, max_bytes=100))
    assert spans(units) == [(0, 3), (3, 4), (4, 5), (5, 7)]  # 9 s fills no unit of 90 B; 20 s is alone


def test_unknown_durations_count_as_assumed():
    assert assumed_seconds(utterances(None)[0]) == ASSUMED_SECONDS
    units = plan_units(utterances(None, None, None), UnitRule(1.0, max_bytes=int(2 * ASSUMED_SECONDS)))
    assert spans(units) == [(0, 2), (2, 3)]


def test_nothing_to_plan():
    assert plan_units([], UnitRule(1.0)) == []
    assert plan_batches([], 10.0) == []


@pytest.mark.parametrize("rule", [{"max_utterances": 0}, {"max_bytes": 0}])
def test_impossible_rules(rule):
    with pytest.raises(ConfigError, match="at least one"):
        UnitRule(1.0, **rule)


def test_units_partition_any_manifest():
    rng = np.random.default_rng(0)
    for _ in range(50):
        durations = rng.exponential(8, rng.integers(1, 200))
        rule = UnitRule(rng.uniform(1, 100), int(rng.integers(1, 40)), int(rng.integers(1, 5000)))
        units = plan_units(utterances(*durations), rule)
        assert [index for unit in units for index in range(unit.start, unit.stop)] == list(range(len(durations)))
        for unit in units:
            assert 1 <= len(unit) <= rule.max_utterances
            heavy = durations[unit.start : unit.stop].sum() * rule.bytes_per_second
            assert len(unit) == 1 or heavy <= rule.max_bytes


def test_what_a_line_says_besides_its_length_moves_no_cut():
    lines = utterances(*[1.0] * 6)
    rule = UnitRule(1.0, max_utterances=2)
    before = plan_units(lines, rule)
    lines[3] = replace(lines[3], text="another")
    assert plan_units(lines, rule) == before
    assert [(unit.shard, unit.start, unit.stop, unit.seconds) for unit in before] == [
        (0, 0, 2, 2.0),
        (1, 2, 4, 2.0),
        (2, 4, 6, 2.0),
    ]


def test_the_same_part_of_the_same_file_is_one_group():
    base = Utterance("a", "talk.wav", "text", offset=1.0, duration=2.0)
    others = [
        replace(base, **change) for change in ({"offset": 0.0}, {"duration": 3.0}, {"audio": "b"}, {"sha256": "0"})
    ]
    asked = replace(base, id="b", question="Who?", text="other")
    assert same_audio([each.segment for each in (base, *others, asked)]) == [[0, 5], [1], [2], [3], [4]]


def test_batches_are_longest_first_within_the_budget():
    assert plan_batches([3.1, 12.0, 2.9, 11.8], 24.0) == [[1, 3], [0, 2]]
    assert plan_batches([5.0, 5.0, 5.0], 10.0) == [[0, 1], [2]]  # equal lengths keep the manifest's order
    assert plan_batches([100.0, 1.0], 10.0) == [[0], [1]]  # one alone may exceed the budget
    assert plan_batches([0.0, 0.0, 0.0], 1.0) == [[0, 1, 2]]


def test_batches_partition_and_hold_the_budget():
    rng = np.random.default_rng(1)
    for _ in range(50):
        seconds = rng.exponential(6, rng.integers(1, 300)).tolist()
        budget = float(rng.uniform(5, 100))
        batches = plan_batches(seconds, budget)
        assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
        padded = [len(batch) * max(seconds[index] for index in batch) for batch in batches]
        assert all(size <= budget or len(batch) == 1 for size, batch in zip(padded, batches, strict=True))
        longest = [max(seconds[index] for index in batch) for batch in batches]
        assert longest == sorted(longest, reverse=True)


def test_sorting_leaves_little_padding():
    seconds = np.random.default_rng(2).uniform(1, 20, 500).tolist()
    padded = sum(len(batch) * max(seconds[index] for index in batch) for batch in plan_batches(seconds, 80.0))
    assert sum(seconds) / padded > 0.95
