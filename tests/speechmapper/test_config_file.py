"""Where a configuration comes from: precedence, types, unknown keys, files, presets."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from sm_store.errors import LONGEST_MESSAGE, ConfigError
from speechmapper.config import AUTO, Stage1Config, Stage2Config
from speechmapper.config_file import (
    PRESET_FOLDER,
    PRESETS,
    TUNING_PRESETS,
    load_stage1,
    load_stage2,
    parse_setting,
    parse_values,
    to_yaml,
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_is_preset_then_file_then_set(tmp_path):
    file = write(tmp_path / "mine.yaml", "stage1:\n  optimizer: {lr: 2.0e-4, clip: 0.5}\n  seed: 9\n")
    config = load_stage1("demo", file, ["optimizer.lr=3e-4"])
    assert config.optimizer.lr == 3e-4  # --set over the file
    assert (config.optimizer.clip, config.seed) == (0.5, 9)  # the file over the preset
    assert config.model.block_sizes == load_stage1("demo", None, []).model.block_sizes  # the preset's
    assert config.data.window == 32_768  # the default's


def test_the_resolved_file_gives_the_same_configuration(tmp_path):
    for stage, load in (("stage1", load_stage1), ("stage2", load_stage2)):
        config = load("demo", None, ["seed=4", "optimizer.betas=[0.8, 0.9]", "run.trackers=[]"])
        file = write(tmp_path / f"{stage}.yaml", to_yaml(stage, config))
        assert load(None, file, []) == config


def test_a_later_setting_wins_over_an_earlier_one():
    assert load_stage1(None, None, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_parses_for_both_stages(preset):
    assert isinstance(load_stage1(preset, None, []), Stage1Config)
    assert isinstance(load_stage2(preset, None, []), Stage2Config)
    assert (PRESET_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8").startswith("#")


def test_every_preset_file_is_listed():
    assert {path.stem for path in PRESET_FOLDER.glob("*.yaml")} == {*PRESETS, *TUNING_PRESETS}


@pytest.mark.parametrize(
    ("preset", "task", "sigma", "asr_share", "lr"),
    [
        ("paper-asr-ce", "asr", 0.0, 0.0, 1e-4),
        ("paper-asr-ce-mse", "asr", 0.9, 0.0, 5e-5),
        ("paper-st-ce", "st", 0.0, 0.0, 1e-4),
        ("paper-sqa-ce", "sqa", 0.0, 0.5, 1e-4),
    ],
)
def test_presets_of_stage_2_hold_the_published_settings(preset, task, sigma, asr_share, lr):
    config = load_stage2(preset, None, [])
    assert (config.tuning.task, config.tuning.sigma, config.tuning.asr_share) == (task, sigma, asr_share)
    assert (config.optimizer.lr, config.schedule.shape) == (lr, "constant")
    assert (config.schedule.steps, config.schedule.warmup) == (1000, 0)
    assert (config.data.max_utterances, config.data.micro_batches) == (12, 8)
    assert (config.objective.name, config.objective.alpha, config.objective.cosine_weight) == ("mse", 5.0, None)
    assert (PRESET_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8").startswith("#")
    with pytest.raises(ConfigError, match=rf"--preset {preset}: has settings of stage 2 alone; use one of demo"):
        load_stage1(preset, None, [])


def test_presets_of_stage_2_differ_from_the_papers_in_what_they_name_alone():
    paper = load_stage2("paper-llama", None, [])
    for preset in TUNING_PRESETS:
        config = load_stage2(preset, None, [])
        assert dataclasses.replace(config, tuning=paper.tuning, optimizer=paper.optimizer) == paper
    assert load_stage2("paper-asr-ce-mse", None, []) == paper


@pytest.mark.parametrize("preset", ["paper-llama", "paper-eurollm"])
def test_paper_presets_hold_the_published_numbers(preset):
    one, two = load_stage1(preset, None, []), load_stage2(preset, None, [])
    assert (one.optimizer.lr, one.schedule.warmup, one.schedule.steps) == (1e-4, 100_000, 2_000_000)
    assert (one.model.block_sizes, one.model.block_outputs) == ((1024, 2048), (2048, 4096))
    assert (one.model.num_layers, one.model.kernel_sizes, one.model.strides) == ((6, 6), (6, 6), (2, 2))
    assert (one.objective.alpha, one.schedule.shape) == (5.0, "cosine")
    assert one.data.frames == 500  # 1,000 frames of 20 ms are 500 stored ones
    assert (two.data.max_utterances, two.data.micro_batches, two.schedule.steps) == (12, 8, 1000)
    assert (two.tuning.sigma, two.optimizer.lr, two.schedule.shape) == (0.9, 5e-5, "constant")


@pytest.mark.parametrize("preset", PRESETS)
def test_stage_2_of_every_preset_is_cross_entropy_and_mse_without_a_cosine(preset):
    objective = load_stage2(preset, None, []).objective
    ours = preset in ("demo", "best")  # that of stage 1, which aligns
    assert (objective.name, objective.cosine_weight) == (AUTO if ours else "mse", None)


def test_our_recipe_is_the_papers_projector_with_another_objective_and_head():
    best, paper = load_stage1("best", None, []), load_stage1("paper-llama", None, [])
    assert (best.objective.name, best.model.head) == ("ctc-embedding", "rows")
    assert dataclasses.replace(best.model, head=None) == paper.model


@pytest.mark.parametrize("preset", [None, "paper-llama", "paper-eurollm", "modern-gpu"])
def test_stage_2_has_the_papers_rate_and_share_unless_they_are_set(tmp_path, preset):
    def values(file, *settings):
        config = load_stage2(preset, file, settings)
        return config.optimizer.lr, config.tuning.asr_share

    assert values(None) == values(None, "tuning.task=st") == (5e-5, 0.0)
    assert values(None, "tuning.sigma=0") == (1e-4, 0.0)
    assert values(None, "tuning.sigma=0", "tuning.sigma=0.9", "tuning.task=sqa") == (5e-5, 0.5)
    assert values(None, "tuning.sigma=0", "optimizer.lr=2e-4") == (2e-4, 0.0)
    assert values(None, "tuning.task=sqa", "tuning.asr_share=0") == (5e-5, 0.0)
    file = write(tmp_path / "mine.yaml", "stage2: {tuning: {task: sqa, sigma: 0.0}, optimizer: {weight_decay: 0.1}}")
    assert values(file) == (1e-4, 0.5)
    file = write(tmp_path / "mine.yaml", "stage2: {tuning: {asr_share: 0.25}, optimizer: {lr: 3.0e-4}}")
    assert values(file, "tuning.task=sqa", "tuning.sigma=0") == (3e-4, 0.25)


def test_a_presets_own_rate_stays_with_sigma_0():
    assert load_stage2("demo", None, ["tuning.sigma=0"]).optimizer.lr == 3e-4


def test_modern_gpu_reads_as_much_audio_as_the_paper():
    paper, modern = load_stage1("paper-llama", None, []), load_stage1("modern-gpu", None, [])
    assert modern.data.frames * modern.schedule.steps == pytest.approx(
        paper.data.frames * paper.schedule.steps, rel=0.05
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.lrr=1", "unknown key optimizer.lrr; did you mean lr?"),
        ("optimzer.lr=1", "unknown key optimzer; did you mean optimizer?"),
        ("zzz=1", "unknown key zzz; known: seed, model"),
        ("optimizer=3", "optimizer is a group of keys"),
        ("optimizer.lr=fast", "optimizer.lr: 'fast' is not a number"),
        ("optimizer.lr=true", "optimizer.lr: True is not a number"),
        ("optimizer.lr=.nan", "is not a number"),
        ("optimizer.lr.x=1", "is not a number"),
        ("data.frames=1.5", "data.frames: 1.5 is not a whole number"),
        ("data.frames=1e400", "is not a whole number"),
        ("data.max_frames=x", "data.max_frames: 'x' is not a whole number"),
        ("model.scale_to_table=1", "is not true or false"),
        ("objective.name=5", "is not text"),
        ("model.num_layers=[1, x]", "model.num_layers: 'x' is not a whole number"),
        ("seed", "write key=value"),
        ("=3", "write key=value"),
        ("seed={", "not valid YAML"),
    ],
)
def test_bad_settings_are_one_line_naming_key_and_remedy(setting, words):
    with pytest.raises(ConfigError) as error:
        load_stage1(None, None, [setting])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage1: [", "not valid YAML"),
        ("", "expected `stage1:`"),
        ("- 1", "expected `stage1:`"),
        ("optimizer: {lr: 1}", "unknown key 'optimizer'"),
        ("stage2: {seed: 1}", "has no `stage1:` section"),
        ("stage1: 3", "is not a mapping"),
        ("stage1: {sed: 3}", "did you mean seed?"),
        ("stage1: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files_name_the_file(tmp_path, text, words):
    file = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError, match=r"bad\.yaml") as error:
        load_stage1(None, file, [])
    assert words in str(error.value)


def aliases(levels: int) -> str:
    """YAML whose text would be 9 ** levels words long, were its aliases written out."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize("text", ["stage1:\n  seed:\n", "stage1:\n  optimizer:\n", "stage1:\n  model:\n   strides:\n"])
def test_aliases_of_aliases_are_quoted_short(tmp_path, text):
    (tmp_path / "bomb.yaml").write_text(text + aliases(30))
    with pytest.raises(ConfigError, match=r"bomb\.yaml: ") as caught:
        load_stage1(None, tmp_path / "bomb.yaml", [])
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("value", ["9" * 1_000_000, "0x" + "f" * 100_000, "a" * 1_000_000, "[" * 100_000, "2001-99-99"])
def test_a_setting_of_any_length_is_an_error_of_one_bounded_line(value):
    with pytest.raises(ConfigError, match=r"--set seed="):
        load_stage1(None, None, [f"seed={value}"])
    with pytest.raises(ConfigError) as caught:
        load_stage1(None, None, [f"seed={value}"])
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_missing_file_and_unknown_preset(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_stage1(None, tmp_path / "none.yaml", [])
    with pytest.raises(ConfigError, match="demo, best, paper-llama"):
        load_stage1("paper", None, [])


def test_values_take_the_fields_type():
    config = load_stage1(None, None, ["optimizer.lr=1e-3", "model.num_layers=2", "data.max_frames=null", "seed=1e3"])
    assert config.optimizer.lr == 1e-3  # YAML reads 1e-3 as text
    assert config.model.num_layers == (2,)
    assert config.data.max_frames is None
    assert config.seed == 1000 and isinstance(config.seed, int)


def test_parse_setting_nests():
    assert parse_setting("a.b=[1, 2]") == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("5,7,9", [5, 7, 9]),
        (" 5 , 7.5", [5, 7.5]),
        ("[2,2],[2,1]", [[2, 2], [2, 1]]),
        ("'a,b',\"c,d\",e", ["a,b", "c,d", "e"]),
        ("mse,mse+cosine", ["mse", "mse+cosine"]),
        ("null,true", [None, True]),
        ("asr=0.5", ["asr=0.5"]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_and_quotes(text, values):
    assert parse_values(f"a.b={text}") == ("a.b", values)


@pytest.mark.parametrize("value", ["9" * 1_000_000, "[" * 100_000, "2001-99-99", "5],[6", "a #b"])
def test_values_that_are_no_list_are_an_error_of_one_bounded_line(value):
    with pytest.raises(ConfigError, match=r"--vary seed=.*") as caught:
        parse_values(f"seed={value}")
    assert len(str(caught.value)) <= LONGEST_MESSAGE and "\n" not in str(caught.value)


def test_resolved_yaml_has_every_key():
    resolved = yaml.safe_load(to_yaml("stage2", load_stage2(None, None, [])))
    assert set(resolved["stage2"]) == {field.name for field in dataclasses.fields(Stage2Config)}
