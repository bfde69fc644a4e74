"""w2v-BERT 2.0: its outline, its identity, and positions that are not supported."""

from __future__ import annotations

import json
import shutil

import pytest

from sm_pipeline.encoders import load_encoder, read_outline
from sm_store.errors import ModelError
from tests.pipeline.encoders.families import WIDTH


def test_the_outline_is_that_of_stacked_filter_banks(checkpoints):
    outline = read_outline(str(checkpoints["w2v-bert"].folder))
    assert (outline.width, outline.field, outline.hop, outline.frame_rate) == (WIDTH, 560, 320, 50.0)


def test_the_tap_is_a_layer_and_its_own_norm(checkpoints):
    identity = load_encoder(str(checkpoints["w2v-bert"].folder), layer=2, device="cpu").identity()
    assert (identity["family"], identity["layer"], identity["tap"]) == ("wav2vec2-bert", 2, "encoder.layers[1]")


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_other_positions_are_refused(checkpoints, tmp_path, positions):
    folder = shutil.copytree(checkpoints["w2v-bert"].folder, tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "position_embeddings_type": positions}))
    with pytest.raises(ModelError, match=f"position_embeddings_type '{positions}' is not supported"):
        load_encoder(str(folder), device="cpu")
