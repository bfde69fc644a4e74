"""A projector on disk: saved, loaded, and what it is for."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sm_store.errors import IdentityMismatch, ModelError
from speechmapper.saved_projector import (
    load_config,
    load_projector,
    require_features,
    require_target,
    save_projector,
    trained_for,
    weights_crc32c,
)


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
        "checksums.json",
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


def test_damaged_weights_are_a_model_error(stage1_run, tmp_path):
    save_projector(tmp_path, load_projector(stage1_run))
    path = tmp_path / "projector" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="its bytes are not those that were saved"):
        load_projector(tmp_path)
    (tmp_path / "projector" / "checksums.json").unlink()
    with pytest.raises(ModelError, match="not a projector"):
        load_projector(tmp_path)


def test_a_flipped_bit_in_the_weights_is_noticed(stage1_run, tmp_path):
    run = shutil.copytree(stage1_run, tmp_path / "run")
    path = run / "projector" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"model\.safetensors: its bytes are not those"):
        load_projector(run)
    (run / "projector" / "checksums.json").unlink()  # as in a folder of an earlier release
    load_projector(run)


@pytest.mark.parametrize("broken", ["[]", "{}", "{", '{"model.safetensors": [1]}'])
def test_a_checksum_that_is_none_is_a_model_error(stage1_run, tmp_path, broken):
    run = shutil.copytree(stage1_run, tmp_path / "run")
    (run / "projector" / "checksums.json").write_text(broken)
    with pytest.raises(ModelError, match="its bytes are not those"):
        load_projector(run)


def test_missing_tensors_are_named_and_others_mentioned(stage1_run, tmp_path, capfd):
    folder = tmp_path / "projector"
    load_projector(stage1_run).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    load_projector(folder)
    assert "tensors that this projector does not use: more" in capfd.readouterr().err
    for name in ("head_input.bias", "blocks.0.conv.weight"):
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks blocks\.0\.conv\.weight, head_input\.bias"):
        load_projector(folder)


def test_how_far_training_went_is_recorded_and_told(world, stage1_run, tmp_path, capfd):
    training = load_projector(stage1_run).config.trained_for["training"]
    assert training["steps"] == training["steps_planned"] > 0 and training["finished"]
    assert {"seed", "objective"} <= set(training)
    assert "training stopped" not in capfd.readouterr().err
    stopped = {**training, "steps": 2, "steps_planned": 9, "finished": False}
    save_projector(tmp_path, load_projector(stage1_run), stopped)
    load_projector(tmp_path)
    assert "its training stopped after 2 of 9 steps; continue it with --resume" in capfd.readouterr().err


def test_a_target_set_is_that_of_the_projector_by_table_and_pad(world, stage1_run):
    projector, spec = load_projector(stage1_run), world.store.targets("tiny").spec
    require_target(projector, spec, "target set tiny")
    require_target(projector, dataclasses.replace(spec, name="renamed"), "target set renamed")
    for change in ({"pad_id": 3}, {"table_sha256": "0" * 64}):
        with pytest.raises(IdentityMismatch, match="target set tiny and the projector"):
            require_target(projector, dataclasses.replace(spec, **change), "target set tiny")


def test_the_checksum_of_weights_changes_with_any_of_them(stage1_run):
    projector = load_projector(stage1_run)
    before = weights_crc32c(projector)
    assert before == weights_crc32c(load_projector(stage1_run))
    with torch.no_grad():
        projector.head_output.bias[3] += 1
    assert weights_crc32c(projector) != before


def test_a_store_with_another_text_normaliser_has_the_same_features(world, stage1_run):
    identity = dataclasses.replace(world.store.identity, normalizer="mms-9")
    require_features(load_projector(stage1_run), identity, "store S")


def test_the_config_of_a_run_needs_no_weights(stage1_run, tmp_path):
    run = shutil.copytree(stage1_run, tmp_path / "run")
    (run / "projector" / "model.safetensors").unlink()
    found, whole = load_config(run), load_projector(stage1_run).config
    assert (found.trained_for, found.block_sizes, found.readout) == (whole.trained_for, [32, 32], "nearest")
    (run / "projector" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not a projector"):
        load_config(run)
    with pytest.raises(ModelError, match="give the folder of a run"):
        load_config(tmp_path / "none")
