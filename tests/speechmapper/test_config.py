"""Settings: the paper's defaults, and values that are refused."""

from __future__ import annotations

import dataclasses

import pytest

from sm_store.errors import ConfigError
from speechmapper.config_file import load_stage1, load_stage2, to_plain


def test_the_defaults_are_the_papers_projector():
    from speechmapper.projector import ProjectorConfig

    ours, default = to_plain(load_stage1(None, None, []).model), ProjectorConfig()
    left_to_the_objective = {"head", "rows_temperature"}
    assert {name for name, value in ours.items() if value is None} == left_to_the_objective
    for name, value in ours.items():
        if name not in {"scale_to_table", *left_to_the_objective}:
            assert getattr(default, name) == value, name


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tuning.sigma=1.5", "tuning.sigma"),
        ("model.dropout=0", "unknown key model"),
        ("seed=-1", "seed -1: give 0 to"),
    ],
)
def test_bad_stage2_settings(setting, words):
    with pytest.raises(ConfigError, match=words):
        load_stage2(None, None, [setting])


def test_nothing_can_be_changed_afterwards():
    config = load_stage1(None, None, [])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 1.0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed=-1", "seed -1: give 0 to 4294967295"),
        ("seed=4294967296", "seed 4294967296: give 0 to 4294967295"),
        ("data.frames=0", "data.frames 0: give 1 or more"),
        ("optimizer.lr=-1", "optimizer.lr -1.0: give a positive number"),
        ("optimizer.betas=[0.9]", "optimizer.betas"),
        ("schedule.shape=linear", "schedule.shape 'linear': use one of cosine, constant"),
        ("schedule.warmup=3000000", "schedule.warmup 3000000"),
        ("run.precision=int8", "run.precision 'int8'"),
        ("run.trackers=[tensorbord]", "run.trackers"),
        ("model.dropout=1", "model.dropout 1.0"),
        ("run.keep=0", "run.keep 0"),
    ],
)
def test_impossible_values_are_one_line_naming_key_and_remedy(setting, words):
    with pytest.raises(ConfigError) as error:
        load_stage1(None, None, [setting])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
