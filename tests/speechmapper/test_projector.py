"""The projector: its size, its lengths, its masking, its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sm_store.geometry import Geometry
from speechmapper.projector import (
    Projector,
    ProjectorConfig,
    TransformerLayer,
    num_outputs,
    sinusoids,
    valid_positions,
)

PAPER_PARAMETERS = 277_031_936  # derived from the paper's 277 M


def small_config(**changes) -> ProjectorConfig:
    settings = {
        "input_size": 12,
        "block_sizes": (16, 24),
        "block_outputs": (24, 32),
        "output_size": 20,
        "num_layers": (2, 1),
        "num_heads": 4,
        "ffn_size": 32,
    }
    return ProjectorConfig(**{**settings, **changes})


@pytest.fixture
def projector() -> Projector:
    torch.manual_seed(0)
    return Projector(small_config()).eval()


def parameters_on_meta(config: ProjectorConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Projector(config).parameters())


def test_the_default_is_the_papers_size():
    assert parameters_on_meta(ProjectorConfig()) == PAPER_PARAMETERS


def test_the_size_by_hand():
    def layer(d: int, ffn: int) -> int:
        return 4 * (d * d + d) + (d * ffn + ffn) + (ffn * d + d) + 4 * d

    block1 = 1024 * 1024 * 6 + 1024 + 6 * layer(1024, 2048) + 1024 * 2048 + 2048
    block2 = 2048 * 2048 * 6 + 2048 + 6 * layer(2048, 2048) + 2048 * 4096 + 4096
    head = 2 * (4096 * 4096 + 4096)
    assert block1 + block2 + head == PAPER_PARAMETERS


def test_norm_order_does_not_change_the_size():
    assert parameters_on_meta(ProjectorConfig(norm_order="post")) == PAPER_PARAMETERS


@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("strides", [(2, 2), (1, 4)])
def test_output_lengths_follow_the_geometry(norm_order, strides):
    torch.manual_seed(0)
    config = small_config(norm_order=norm_order, strides=strides)
    model = Projector(config).eval()
    lengths = torch.arange(0, 40)
    vectors, counts = model(torch.randn(40, 39, 12), lengths)
    assert counts.tolist() == config.geometry.num_vectors(np.arange(40)).tolist()
    assert vectors.shape == (40, config.geometry.num_vectors(39), 20)
    for row, count in enumerate(counts.tolist()):
        assert vectors[row, count:].abs().sum() == 0
        assert torch.isfinite(vectors[row]).all()


def test_the_length_formula():
    for frames in range(2, 60):
        after_first = (frames + 4 - 6) // 2 + 1
        expected = (after_first + 4 - 6) // 2 + 1 if after_first > 0 else 0
        assert Geometry().num_vectors(frames) == max(expected, 0)
    assert num_outputs(torch.tensor([100]), Geometry()).tolist() == [25]


def test_an_utterance_does_not_depend_on_its_batch_mates(projector):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(5, 50, 12, generator=generator)
    lengths = torch.tensor([50, 33, 8, 21, 4])
    together, counts = projector(features, lengths)
    for row, (frames, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone, _ = projector(features[row : row + 1, :frames], lengths[row : row + 1])
        torch.testing.assert_close(together[row, :count], alone[0], rtol=0, atol=1e-5)


def test_what_lies_beyond_the_length_is_ignored(projector):
    features, lengths = torch.randn(2, 30, 12), torch.tensor([30, 13])
    clean, _ = projector(features, lengths)
    features[1, 13:] = 1e6
    dirty, _ = projector(features, lengths)
    assert torch.equal(clean, dirty)


def test_every_valid_frame_matters(projector):
    features, lengths = torch.randn(1, 24, 12), torch.tensor([24])
    base, _ = projector(features, lengths)
    for frame in range(24):
        changed = features.clone()
        changed[0, frame] += 1.0
        assert not torch.equal(projector(changed, lengths)[0], base), frame


def test_every_parameter_learns(projector):
    projector.train()
    vectors, _ = projector(torch.randn(3, 40, 12), torch.tensor([40, 20, 30]))
    vectors.square().sum().backward()
    silent = [name for name, p in projector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_dropout_is_on_only_in_training(projector):
    features, lengths = torch.randn(1, 40, 12), torch.tensor([40])
    assert torch.equal(projector(features, lengths)[0], projector(features, lengths)[0])
    projector.train()
    assert not torch.equal(projector(features, lengths)[0], projector(features, lengths)[0])


def test_pre_norm_layer_against_torch():
    config = small_config(dropout=0.0)
    layer = TransformerLayer(16, config).eval()
    reference = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "relu", batch_first=True, norm_first=True).eval()
    names = {
        "self_attn.in_proj_weight": layer.query_key_value.weight,
        "self_attn.in_proj_bias": layer.query_key_value.bias,
        "self_attn.out_proj.weight": layer.attention_output.weight,
        "self_attn.out_proj.bias": layer.attention_output.bias,
        "linear1.weight": layer.ffn_input.weight,
        "linear1.bias": layer.ffn_input.bias,
        "linear2.weight": layer.ffn_output.weight,
        "linear2.bias": layer.ffn_output.bias,
        "norm1.weight": layer.attention_norm.weight,
        "norm1.bias": layer.attention_norm.bias,
        "norm2.weight": layer.ffn_norm.weight,
        "norm2.bias": layer.ffn_norm.bias,
    }
    reference.load_state_dict(names)
    hidden = torch.randn(3, 9, 16)
    attend = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    torch.testing.assert_close(layer(hidden, attend), reference(hidden), rtol=1e-5, atol=1e-5)


def test_sinusoids_are_sine_and_cosine_of_the_position():
    table = sinusoids(torch.zeros(1, 7, 8, dtype=torch.float64))
    assert table.shape == (7, 8)
    assert table[3, 0].item() == pytest.approx(np.sin(3.0), abs=1e-6)
    assert table[3, 1].item() == pytest.approx(np.cos(3.0), abs=1e-6)
    assert table[5, 6].item() == pytest.approx(np.sin(5.0 / 10_000 ** (6 / 8)), abs=1e-6)


def test_saved_and_loaded_it_is_the_same(projector, tmp_path):
    projector.config.trained_for = {"target": "smollm2-135m"}
    projector.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    loaded = Projector.from_pretrained(tmp_path).eval()
    assert loaded.config.trained_for == {"target": "smollm2-135m"}
    features, lengths = torch.randn(2, 30, 12), torch.tensor([30, 11])
    assert torch.equal(loaded(features, lengths)[0], projector(features, lengths)[0])


OLD_CONFIG = """{
  "architectures": ["Projector"], "attention_dropout": 0.0, "block_outputs": [24, 32], "block_sizes": [16, 24],
  "dropout": 0.1, "ffn_size": 32, "input_size": 12, "kernel_sizes": [6, 6], "model_type": "speechmapper_projector",
  "norm_order": "%s", "num_heads": 4, "num_layers": [2, 1], "output_scale": 1.0, "output_size": 20,
  "paddings": [2, 2], "readout": "nearest", "strides": [2, 2], "transformers_version": "5.23.0", "trained_for": {}
}"""  # as save_projector wrote it before norm_before_linear and dropout_after_positions


@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_a_projector_saved_before_the_two_choices_gives_the_same_vectors(projector, tmp_path, norm_order):
    projector.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(OLD_CONFIG % norm_order, encoding="utf-8")
    loaded = Projector.from_pretrained(tmp_path).eval()
    assert loaded.config.norm_before_linear and loaded.config.dropout_after_positions
    features, lengths = torch.randn(2, 30, 12), torch.tensor([30, 11])
    before = old_forward(loaded, features, lengths)
    torch.testing.assert_close(loaded(features, lengths)[0], before, rtol=0, atol=0)
    if norm_order == "pre":
        assert not torch.allclose(projector(features, lengths)[0], before)  # today's default is another network
    loaded.save_pretrained(tmp_path / "again")
    again = Projector.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(features, lengths)[0], before)


def old_forward(model: Projector, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The projector in eval mode as it was, from its weights: a norm before each pre-norm block's linear."""
    for block in model.blocks:
        hidden = hidden * valid_positions(lengths, hidden.shape[1]).unsqueeze(-1)
        hidden = nn.functional.gelu(block.conv(hidden.transpose(1, 2))).transpose(1, 2)
        lengths = num_outputs(lengths, block.geometry)
        hidden = hidden + sinusoids(hidden)
        for layer in block.layers:
            hidden = layer(hidden, valid_positions(lengths.clamp(min=1), hidden.shape[1])[:, None, None, :])
        if model.config.norm_order == "pre":
            hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        hidden = block.linear(hidden)
    vectors = model.head_output(nn.functional.gelu(model.head_input(hidden)))
    return vectors * valid_positions(lengths, vectors.shape[1]).unsqueeze(-1)


def test_without_arguments_neither_norm_before_the_linear_nor_dropout_after_the_positions():
    config = ProjectorConfig()
    assert (config.norm_before_linear, config.dropout_after_positions) == (False, False)


def test_the_norm_before_the_linear_is_of_pre_norm_blocks_and_has_no_parameters():
    pre, post = small_config(norm_before_linear=True), small_config(norm_before_linear=True, norm_order="post")
    assert parameters_on_meta(pre) == parameters_on_meta(post) == parameters_on_meta(small_config())
    assert isinstance(Projector(pre).blocks[0].final_norm, nn.LayerNorm)
    assert isinstance(Projector(post).blocks[0].final_norm, nn.Identity)


@pytest.mark.parametrize("drops", [False, True])
def test_dropout_after_the_positions_is_a_choice(drops):
    """Without layers nothing else drops, so that training mode shows this one alone."""
    model = Projector(small_config(num_layers=(0, 0), dropout=0.5, dropout_after_positions=drops))
    features, lengths = torch.randn(1, 40, 12), torch.tensor([40])
    training, evaluation = model.train()(features, lengths)[0], model.eval()(features, lengths)[0]
    assert torch.equal(training, evaluation) != drops


def test_output_scale_multiplies_the_vectors(projector):
    features, lengths = torch.randn(1, 30, 12), torch.tensor([30])
    plain, _ = projector(features, lengths)
    projector.config.output_scale = 0.25
    torch.testing.assert_close(projector(features, lengths)[0], plain * 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_outputs": (24,)}, "block_outputs has 1 entries for 2"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"norm_order": "sandwich"}, "pre, post"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_features_of_another_width_or_too_short_are_refused(projector):
    with pytest.raises(ValueError, match="expected"):
        projector(torch.randn(1, 20, 13), torch.tensor([20]))
    with pytest.raises(ValueError, match="at least 4"):
        projector(torch.randn(1, 3, 12), torch.tensor([3]))


def test_rows_of_a_batch_in_any_order(projector):
    features_BTD, frames_B = torch.randn(3, 40, projector.config.input_size), torch.tensor([40, 24, 30])
    with torch.no_grad():
        whole = projector.project(features_BTD, frames_B)
        chosen = whole.rows([2, 0, 2])
    assert torch.equal(chosen.vectors_BUE, whole.vectors_BUE[[2, 0, 2]])
    assert chosen.vectors_B.tolist() == whole.vectors_B[[2, 0, 2]].tolist()
    assert torch.equal(chosen.hidden_BTC, whole.hidden_BTC[[2, 0, 2]])
