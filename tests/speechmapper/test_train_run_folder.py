"""The run folder: written once, replaced as a whole, compared before it is used."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sm_store.errors import ConfigError, IdentityMismatch, ModelError
from speechmapper.config_file import load_stage1
from speechmapper.train.run_folder import (
    load_projector,
    open_accelerator,
    require_features,
    save_projector,
    start_run,
    trained_for,
)
from speechmapper.train.stage1 import Stage1Request, train_stage1
from tests.speechmapper.tiny import stage1_config


def begin(out, stage, config, resume):
    start_run(out, stage, config, resume, open_accelerator(config.run, out))


def test_the_resolved_config_is_written_and_is_itself_a_config(tmp_path):
    config = stage1_config(seed=7)
    begin(tmp_path / "run", "stage1", config, False)
    assert load_stage1(None, tmp_path / "run" / "config.yaml", []) == config


@pytest.mark.parametrize("made", ["metrics.jsonl", "projector", "checkpoints/step-00000001"])
def test_a_run_that_is_there_is_continued_or_left_alone(tmp_path, made):
    (tmp_path / made).mkdir(parents=True)
    with pytest.raises(ConfigError, match="--resume, or name another folder"):
        begin(tmp_path, "stage1", stage1_config(), False)
    begin(tmp_path, "stage1", stage1_config(), True)


def test_a_store_does_not_become_a_run(world, tmp_path):
    before = sorted(world.path.iterdir())
    with pytest.raises(ConfigError, match="a store is there; name another folder"):
        train_stage1(Stage1Request(world.path, world.path, stage1_config()))
    assert sorted(world.path.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        begin(tmp_path / "file" / "run", "stage1", stage1_config(), False)


def test_projector_comes_back_as_it_was_saved(stage1_run, tmp_path):
    projector = load_projector(stage1_run)
    save_projector(tmp_path, projector)
    again = load_projector(tmp_path)
    assert not again.training
    assert all(torch.equal(one, two) for one, two in zip(projector.parameters(), again.parameters(), strict=True))
    assert again.config.trained_for == projector.config.trained_for
    assert json.loads((tmp_path / "projector" / "config.json").read_text())["architectures"] == ["Projector"]
    assert load_projector(tmp_path / "projector").config.output_size == again.config.output_size


def test_saving_again_replaces_all_of_it(stage1_run, tmp_path):
    projector = load_projector(stage1_run)
    save_projector(tmp_path, projector)
    (tmp_path / "projector" / "stray").write_text("")
    with torch.no_grad():
        projector.head_output.bias.fill_(math.pi)
    save_projector(tmp_path, projector)
    assert sorted(path.name for path in (tmp_path / "projector").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert load_projector(tmp_path).head_output.bias[0].item() == pytest.approx(math.pi)
    assert [path.name for path in tmp_path.iterdir()] == ["projector"]  # nothing temporary is left


def test_the_model_card_names_encoder_and_llm_and_its_python_runs(stage1_run, monkeypatch):
    card = (stage1_run / "projector" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "`tiny` (layer 2" in card and "30,048 parameters" in card and "stage1" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(stage1_run / "projector")
    exec(code, {"features": torch.zeros(1, 40, 24), "frames": torch.tensor([40])})


def test_features_are_compared_by_meaning_not_by_precision(world, stage1_run):
    projector = load_projector(stage1_run)
    require_features(projector, world.store.identity, "store")
    made = projector.config.trained_for
    made["encoder"]["compute_dtype"] = "bfloat16"
    require_features(projector, world.store.identity, "store")
    made["front_end"] = {"name": "other"}
    with pytest.raises(IdentityMismatch, match=r'store and the projector.*front_end\.name: "patterns" != "other"'):
        require_features(projector, world.store.identity, "store")


def test_trained_for_is_json_and_keeps_what_is_added(world):
    made = trained_for("stage2", world.store.identity, world.store.targets("tiny").spec, task="asr")
    assert json.loads(json.dumps(made)) == made
    assert (made["task"], made["average"], made["target"]["pad_token"]) == ("asr", 2, "<pad>")
    assert "torch" in made["packages"]


def test_precision_follows_the_device(tmp_path):
    run = stage1_config().run
    assert open_accelerator(run, tmp_path).mixed_precision == "no"  # auto on a CPU
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        open_accelerator(stage1_config(run={"precision": "fp16"}).run, tmp_path)


def test_damaged_weights_are_a_model_error(stage1_run, tmp_path):
    save_projector(tmp_path, load_projector(stage1_run))
    path = tmp_path / "projector" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a projector"):
        load_projector(tmp_path)
