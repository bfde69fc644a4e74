"""An objective from its configuration: names, weights, what is refused."""

from __future__ import annotations

import pytest
import torch

from sm_store.errors import ConfigError, ModelError
from speechmapper.config import ObjectiveConfig
from speechmapper.objectives import Objective
from speechmapper.objectives.build import PARTS, build_objective, readout_of
from speechmapper.projector import ProjectorConfig
from tests.speechmapper.tiny import save_llm


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cosine_weight": -1.0}, "cosine_weight"),
        ({"cosine_weight": 100.0}, r"objective\.name mse has no cosine; add \+cosine"),
        ({"name": "mse+cosine", "ctc_weight": 0.5}, r"has no ctc"),
        ({"negatives": -1}, "negatives"),
        ({"ctc_temperature": 0.0}, "ctc_temperature"),
        ({"kd_weight": 1.0}, r"objective\.name mse has no kd; add \+kd"),
        ({"name": "mse+kd", "kd_layers": 0}, r"objective\.kd_layers 0: give 1 or more"),
    ],
)
def test_impossible_weights_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ObjectiveConfig(**settings)


@pytest.mark.parametrize(
    "name", ["mae", "mse+mse", "mse+l1", "cosine", "contrastive+ctc", "", "mse+", "mse+commitment", "ctc-embedding+dtw"]
)
def test_impossible_names_are_refused(name, world):
    with pytest.raises(ConfigError, match=r"objective\.name"):
        build(world, name)


def build(world, name: str, readout: str = "nearest", **settings) -> Objective:
    sizes = ProjectorConfig(block_sizes=(8, 8), block_outputs=(6, 6), output_size=32, readout=readout)
    config = ObjectiveConfig(name, **settings)
    return build_objective(config, world.store.targets("tiny"), sizes, torch.device("cpu"))


def test_a_name_is_its_parts_and_their_weights_add(world):
    every = "+".join(name for name in PARTS if name not in ("l1", "ctc-embedding", "dtw"))
    objective = build(world, every, cosine_weight=2.0, contrastive_weight=0.5, ctc_weight=3.0)
    assert list(objective.parts) == every.split("+")
    sums = {"word": 4.0, "pad": 2.0, "cosine": 0.5, "contrastive": 7.0, "ctc": 11.0, "ctc_unaligned": 0.0}
    sums |= {"centered-cosine": 0.25, "kd": 2.5, "kd_unaligned": 0.0}
    ones = dict.fromkeys(sums, torch.tensor(1.0))
    loss = objective.combine({name: torch.tensor(value) for name, value in sums.items()}, ones)
    assert loss.item() == pytest.approx(5 * 4 + 5 * 2 - 2 * 0.5 - 0.25 + 0.5 * 7 + 3 * 11 + 0.1 * 2.5)


def test_what_learns_beside_the_projector(world):
    names = {name for name, _ in build(world, "mse+ctc").named_parameters()}
    assert names == {"parts.ctc.linear.weight", "parts.ctc.linear.bias", "parts.ctc.blank_E"}
    assert not list(build(world, "l1+cosine+contrastive").state_dict())
    assert not list(build(world, "mse+kd").state_dict())


def test_ctc_embedding_needs_a_projector_with_a_blank(world):
    with pytest.raises(ConfigError, match=r"ctc-embedding.: this projector was not trained with it"):
        build(world, "ctc-embedding")
    assert not list(build(world, "ctc-embedding", readout="ctc").parameters())


def test_kd_takes_layers_of_the_llm_of_the_target_set(world, tmp_path):
    assert list(build(world, "mse+kd", kd_layers=2).parts) == ["mse", "kd"]
    with pytest.raises(ConfigError, match=r"objective\.kd_layers 3: .* has 2 layers"):
        build(world, "mse+kd", kd_layers=3)
    with pytest.raises(ModelError, match=r"objective\.llm.*no such preset or folder"):
        build(world, "mse+kd", llm=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="input embeddings are not those of target set tiny"):
        build(world, "mse+kd", llm=str(save_llm(tmp_path / "other", seed=1)))


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("mse", "nearest"),
        ("mse+ctc", "nearest"),
        ("mse+kd", "nearest"),
        ("ctc-embedding+kd", "ctc"),
        ("ctc-embedding", "ctc"),
        ("mse+ctc-embedding", "ctc"),
        ("dtw+ctc", "cif"),
    ],
)
def test_how_vectors_are_read_follows_from_the_name(name, readout):
    assert readout_of(name) == readout
