"""Texts that cannot be aligned are counted before training."""

from __future__ import annotations

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.config import ObjectiveConfig
from speechmapper.loader.data import DataRequest, open_data
from speechmapper.objectives.build import build_objective
from speechmapper.objectives.ctc import needed_positions
from speechmapper.projector import ProjectorConfig
from speechmapper.train import alignable
from speechmapper.train.alignable import alignment_report
from speechmapper.train.stage1 import geometry_of
from tests.speechmapper.tiny import SMALL_MODEL, stage1_config

CPU = torch.device("cpu")


def report(world, name: str, strides=(2, 2)) -> str:
    config = stage1_config(model={"strides": list(strides)})
    data = open_data(DataRequest(world.path), geometry_of(config), config.data, seed=1)
    sizes = ProjectorConfig(
        **{**{key: value for key, value in SMALL_MODEL.items() if key != "scale_to_table"}, "output_size": 32},
        readout="ctc" if name == "ctc-embedding" else "nearest",
        strides=strides,
    )
    return alignment_report(build_objective(ObjectiveConfig(name), data.targets, sizes, CPU), data, CPU)


def test_an_objective_that_does_not_align_has_nothing_to_say(world):
    assert report(world, "mse+cosine") == ""


def test_texts_that_need_more_vectors_than_they_have_are_counted(world, monkeypatch):
    monkeypatch.setattr(alignable, "AT_ONCE", 7)
    everything = report(world, "ctc-embedding")
    # A text that repeats a word needs a vector more; here, of 30 texts, none needs more than it has.
    assert everything == "texts that cannot be aligned: ctc-embedding 0 of 30"
    monkeypatch.setattr("speechmapper.objectives.ctc.needed_positions", lambda answers: 3 + needed_positions(answers))
    found = report(world, "ctc-embedding")
    counted = int(found.split("ctc-embedding ")[1].split(" of 30")[0])
    assert 0 < counted < 30 and found.endswith("model.strides=[2,1] gives twice the vectors")
    monkeypatch.setattr("speechmapper.objectives.ctc.needed_positions", lambda answers: 99 + needed_positions(answers))
    with pytest.raises(ConfigError, match="30 of 30 texts cannot be aligned"):
        report(world, "ctc-embedding")
