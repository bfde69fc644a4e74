"""A projector on disk: saved, loaded, and what it is for."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sm_store.errors import IdentityMismatch, ModelError
from speechmapper.saved_projector import load_projector, require_features, save_projector, trained_for


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


def test_damaged_weights_are_a_model_error(stage1_run, tmp_path):
    save_projector(tmp_path, load_projector(stage1_run))
    path = tmp_path / "projector" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a projector"):
        load_projector(tmp_path)
