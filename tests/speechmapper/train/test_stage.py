"""A stage's part of the loop: one forward of projector and objective, and the loss of the objective alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechmapper.loader.prefetch import read_batch
from speechmapper.objectives import Objective
from speechmapper.objectives.ctc import AuxiliaryCTC
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import Projector
from speechmapper.train.stage import Evaluation, ObjectiveStage, ProjectorWithObjective
from speechmapper.train.stage1 import projector_config
from tests.speechmapper.tiny import data_of, source_of, stage1_config

CPU = torch.device("cpu")


@pytest.fixture
def projector(world) -> Projector:
    config = stage1_config()
    return Projector(projector_config(config, data_of(world, config.data))).eval()


@pytest.fixture
def batch(world):
    return read_batch(source_of(world), np.array([0, 3, 5]), CPU)


def test_one_forward_gives_vectors_and_the_objectives_sums(projector, batch):
    objective = Objective({"mse": (WeightedDistance(), 1.0)})
    output = ProjectorWithObjective(projector, objective)(batch)
    vectors, lengths = projector(batch.features_BTD, batch.frames_B)
    assert torch.equal(output.projected.vectors_BUE, vectors) and torch.equal(output.projected.vectors_B, lengths)
    expected = objective(projector.project(batch.features_BTD, batch.frames_B), batch)
    assert set(output.sums) == {"word", "pad"}
    assert all(torch.equal(output.sums[name], value) for name, value in expected.items())


def test_without_an_objective_there_are_vectors_and_no_sums(projector, batch):
    output = ProjectorWithObjective(projector, None)(batch)
    assert output.projected.vectors_BUE.shape[0] == 3 and output.sums == {}


def test_parameters_of_projector_and_objective_are_trained_together(world, projector):
    vocabulary = Vocabulary(torch.from_numpy(world.store.targets("tiny").table), 0)
    ctc = AuxiliaryCTC(vocabulary, projector.config.block_outputs[0], projector.config.geometry)
    model = ProjectorWithObjective(projector, Objective({"ctc": (ctc, 1.0)}))
    names = {name for name, _ in model.named_parameters()}
    assert {f"projector.{name}" for name, _ in projector.named_parameters()} < names
    assert "objective.parts.ctc.linear.weight" in names


def test_the_loss_of_an_objective_stage_is_the_objectives(projector, batch):
    objective = Objective({"mse": (WeightedDistance(alpha=7.0), 1.0)})
    stage = ObjectiveStage(objective, None)
    sums, counts = stage.sums(ProjectorWithObjective(projector, objective), batch), stage.counts(batch)
    loss = stage.combine(sums, counts)
    assert torch.equal(loss, objective.combine(sums, counts)) and loss.requires_grad
    more = {name: 2 * value for name, value in counts.items()}
    assert stage.combine(sums, more).item() == pytest.approx(loss.item() / 2)  # divided by the counts of the step


def test_validation_is_called_with_projector_and_step_or_left_out(projector):
    seen = []

    def validate(model, step):
        seen.append((model, step))
        return Evaluation({"wer": 0.5}, stop_reason="good enough")

    found = ObjectiveStage(Objective({}), validate).evaluate(projector, 12)
    assert (found.figures, found.stop_reason, seen) == ({"wer": 0.5}, "good enough", [(projector, 12)])
    assert ObjectiveStage(Objective({}), None).evaluate(projector, 12) == Evaluation()
