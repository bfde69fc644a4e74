"""The learning rate is a function of the step."""

from __future__ import annotations

import itertools
import math

import pytest

from speechmapper.config import ScheduleConfig
from speechmapper.train.schedule import lr_factor


def test_warms_up_linearly_then_follows_a_cosine_to_zero():
    schedule = ScheduleConfig(steps=110, warmup=10, shape="cosine")
    factors = [lr_factor(step, schedule) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[85] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


def test_constant_after_warmup():
    schedule = ScheduleConfig(steps=100, warmup=4, shape="constant")
    assert [lr_factor(step, schedule) for step in (0, 3, 4, 50, 99)] == [0.25, 1.0, 1.0, 1.0, 1.0]


def test_no_warmup_starts_at_the_peak():
    assert lr_factor(0, ScheduleConfig(steps=10, warmup=0)) == 1.0


def test_steps_beyond_the_end_stay_at_zero():
    assert lr_factor(500, ScheduleConfig(steps=100, warmup=10)) == pytest.approx(0.0)
