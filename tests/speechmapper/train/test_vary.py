"""`--vary`: its values, the product of them, the names of the run folders, and what is refused."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.config_file import to_plain
from speechmapper.train.vary import (
    LONGEST_NAME,
    named_in_errors,
    parse_axes,
    run_name,
    stage1_variants,
    stage2_variants,
)
from tests.speechmapper.tiny import stage1_config


def variants(*vary, layers=()):
    return stage1_variants([("tests", to_plain(stage1_config())), *layers], parse_axes(vary))


def test_several_settings_give_their_product_the_first_changes_slowest():
    found = variants("optimizer.lr=1e-3,1e-4", "seed=1,2")
    assert [each.name for each in found] == [
        "lr-0.001_seed-1",
        "lr-0.001_seed-2",
        "lr-0.0001_seed-1",
        "lr-0.0001_seed-2",
    ]
    assert [dict(each.settings) for each in found][1] == {"optimizer.lr": 1e-3, "seed": 2}
    assert [(each.config.optimizer.lr, each.config.seed) for each in found][2] == (1e-4, 1)
    assert found[0].flags == "--vary optimizer.lr=0.001 --vary seed=1"


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("objective.alpha=5,7.5,9", ["alpha-5", "alpha-7.5", "alpha-9"]),
        ("model.strides=[2,2],[2,1]", ["strides-2x2", "strides-2x1"]),
        ("objective.name=mse,mse+cosine", ["name-mse", "name-mse+cosine"]),
        ("model.scale_to_table=true,false", ["scale_to_table-true", "scale_to_table-false"]),
        ("data.max_frames=null,300", ["max_frames-null", "max_frames-300"]),
        ("run.trackers=[],[tensorboard]", ["trackers-none", "trackers-tensorboard"]),
        ("optimizer.lr=0.00001", ["lr-1e-05"]),
        ("run.eet='/a b/c,d',\"../x\"", ["eet-a-b-c-d", "eet-..-x"]),
    ],
)
def test_names_are_short_and_safe_for_file_systems(setting, names):
    assert [each.name.replace("eet--", "eet-") for each in variants(setting)] == names


def test_values_with_commas_are_kept_whole():
    first, second = variants("run.eet='a,b',c")
    assert (first.config.run.eet, second.config.run.eet) == ("a,b", "c")


def test_keys_that_end_alike_are_named_in_full():
    assert run_name({"objective.name": "mse", "model.name": 3}) == "objective.name-mse_model.name-3"


def test_long_names_are_cut_and_stay_different():
    long, other = (variants(f"run.eet=/{'x' * 300}{end}")[0].name for end in "ab")
    assert len(long) == len(other) == LONGEST_NAME and long != other


def test_vary_is_laid_over_set_and_only_the_whole_need_be_possible():
    found = variants(
        "schedule.warmup=0,5", layers=[("--set schedule.steps=6", {"schedule": {"steps": 6, "warmup": 9}})]
    )
    assert [each.config.schedule.warmup for each in found] == [0, 5]


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ([], "--vary: name at least one setting"),
        (["seed"], "--vary seed: write key=value,value"),
        (["=1"], "--vary =1: write key"),
        (["seed="], "--vary seed=: give at least one value"),
        (["seed=1,,2"], "--vary seed=1,,2: the value is not valid YAML"),
        (["seed=[1"], "not valid YAML"),
        (["optimizer.lrr=1"], r"--vary optimizer.lrr: unknown key optimizer.lrr; did you mean lr\?"),
        (["optimizer.lr=1e-3,fast"], "--vary optimizer.lr: optimizer.lr: 'fast' is not a number"),
        (["seed=1", "optimizer.lr=1,-1"], "run of --vary seed=1 --vary optimizer.lr=-1: .*give a positive number"),
        (["seed=1", "seed=2"], "--vary seed: given twice"),
        (["seed=1,1"], "--vary seed=1: the run would have the folder seed-1 of --vary seed=1; give different values"),
        (["optimizer.lr=0.1,0.10000001"], "numbers rounded to six digits"),
        (["run.eet=A,a"], "the folder eet-A"),
        (
            ["objective={name: mse},{name: l1}"],
            "--vary objective: a group of keys; vary one of them, such as objective",
        ),
        (["run.precision=fp32,bf16"], "--vary run.precision: all runs of one process share it"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(vary, words):
    with pytest.raises(ConfigError, match=words) as caught:
        variants(*vary)
    assert "\n" not in str(caught.value)


def test_an_error_that_names_its_source_is_not_put_on_the_run():
    with pytest.raises(ConfigError, match=r"^--set sed=1: unknown key"):
        variants("seed=1", layers=[("--set sed=1", {"sed": 1})])
    with pytest.raises(ConfigError, match=r"^run of --vary a=1: bad"), named_in_errors("--vary a=1"):
        raise ConfigError("bad")


def test_stage_2_is_varied_with_its_own_defaults_and_one_llm():
    found = stage2_variants([], parse_axes(["tuning.sigma=0,0.5", "tuning.task=asr,sqa"]))
    assert [each.name for each in found] == [
        f"sigma-{sigma}_task-{task}" for sigma in ("0", "0.5") for task in ("asr", "sqa")
    ]
    assert [each.config.optimizer.lr for each in found] == [1e-4, 1e-4, 5e-5, 5e-5]
    assert [each.config.tuning.asr_share for each in found] == [0, 0.5, 0, 0.5]
    for key in ("tuning.llm_dtype=float32,bfloat16", "llm.attention=eager,sdpa"):
        with pytest.raises(ConfigError, match="all runs of one process share it"):
            parse_axes([key])
