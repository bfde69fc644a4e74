"""The optimizer's step: rate by schedule, clipping, skipped steps, its state; and the moving average of the weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sm_store.errors import RunFailed
from speechmapper.config import OptimizerConfig, ScheduleConfig
from speechmapper.train.optimizer import MovingAverage, ScheduledOptimizer, build_optimizer, lr_factor
from tests.speechmapper.tiny import stage1_config

NAN = float("nan")


def test_warms_up_linearly_then_follows_a_cosine_to_zero():
    schedule = ScheduleConfig(steps=110, warmup=10, shape="cosine")
    factors = [lr_factor(step, schedule) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[85] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


def test_constant_after_warmup():
    schedule = ScheduleConfig(steps=100, warmup=4, shape="constant")
    assert [lr_factor(step, schedule) for step in (0, 3, 4, 50, 99)] == [0.25, 1.0, 1.0, 1.0, 1.0]


def test_no_warmup_starts_at_the_peak():
    assert lr_factor(0, ScheduleConfig(steps=10, warmup=0)) == 1.0


def test_steps_beyond_the_end_stay_at_zero():
    assert lr_factor(500, ScheduleConfig(steps=100, warmup=10)) == pytest.approx(0.0)


def test_adamw_has_the_configured_settings():
    optimizer = build_optimizer(nn.Linear(2, 1), OptimizerConfig(lr=0.5, betas=(0.8, 0.7), weight_decay=0.3))
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.7), 0.3)
    assert len(group["params"]) == 2


def test_an_adapter_is_a_group_with_a_rate_of_its_own_by_the_same_schedule():
    model = nn.ModuleDict({"projector": nn.Linear(2, 1), "adapter": nn.Linear(2, 3)})
    config = stage1_config(optimizer={"lr": 0.5, "clip": 0.0}, schedule={"steps": 4, "warmup": 2})
    accelerator = Accelerator(cpu=True)
    for own, peak in ((0.1, 0.1), (None, 0.5)):
        optimizer = build_optimizer(model, config.optimizer, model["adapter"], own)
        assert [[each.shape for each in group["params"]] for group in optimizer.param_groups] == [
            [(1, 2), (1,)],
            [(3, 2), (3,)],
        ]
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        ScheduledOptimizer(config, model, accelerator.prepare_optimizer(optimizer), accelerator).step(0)
        assert [group["lr"] for group in optimizer.param_groups] == [0.25, peak / 2]


class Trained:
    """A linear layer and its optimizer; `step` gives every weight the same gradient."""

    def __init__(self, **sections) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.accelerator = Accelerator(cpu=True)
        config = stage1_config(**sections)
        optimizer = build_optimizer(self.model, config.optimizer)
        self.optimizer = ScheduledOptimizer(
            config, self.model, self.accelerator.prepare_optimizer(optimizer), self.accelerator
        )

    def step(self, step: int, gradient: float = 1.0) -> bool:
        for weight in self.model.parameters():
            weight.grad = torch.full_like(weight, gradient)
        return self.optimizer.step(step)

    def weights(self) -> torch.Tensor:
        return torch.cat([weight.detach().flatten().clone() for weight in self.model.parameters()])


def test_a_step_uses_the_schedules_rate_and_clears_the_gradients():
    trained = Trained(optimizer={"lr": 0.1, "weight_decay": 0.0}, schedule={"steps": 10, "warmup": 4})
    before = trained.weights()
    assert trained.step(0)
    assert trained.optimizer.lr == pytest.approx(0.1 / 4)
    # AdamW's first step is the rate times the gradient's sign.
    assert torch.allclose(before - trained.weights(), torch.full((4,), 0.1 / 4), atol=1e-6)
    assert all(weight.grad is None for weight in trained.model.parameters())
    trained.step(3)
    assert trained.optimizer.lr == pytest.approx(0.1)


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (0.0, 200.0)])
def test_gradients_are_clipped_to_the_norm_unless_it_is_0(clip, norm):
    trained = Trained(optimizer={"clip": clip})
    trained.step(0, gradient=100.0)
    first = trained.optimizer.tensors()
    moments = torch.cat([first[f"{index}.exp_avg"].flatten() for index in (0, 1)])
    assert float(moments.norm()) == pytest.approx(0.1 * norm, rel=1e-4)  # (1 - beta 1) times the gradient


@pytest.mark.parametrize("gradient", [NAN, float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_is_counted(gradient):
    trained = Trained()
    trained.step(0)
    before, moments = trained.weights(), trained.optimizer.tensors()
    assert not trained.step(1, gradient)
    assert torch.equal(trained.weights(), before)
    assert all(torch.equal(moments[name], tensor) for name, tensor in trained.optimizer.tensors().items())
    assert trained.optimizer.skipped == 1
    assert all(weight.grad is None for weight in trained.model.parameters())


def test_only_skipped_steps_in_a_row_end_the_run():
    trained = Trained(run={"max_skipped": 2})
    for step, gradient in enumerate((NAN, 1.0, NAN, 1.0)):
        trained.step(step, gradient)
    assert trained.optimizer.skipped == 2
    trained.step(4, NAN)
    with pytest.raises(RunFailed, match=r"2 steps in a row with a non-finite gradient, the last is step 6"):
        trained.step(5, NAN)


def test_restored_state_continues_bit_for_bit():
    whole, half, resumed = Trained(), Trained(), Trained()
    for step in range(6):
        whole.step(step, NAN if step == 1 else step + 1.0)
    for step in range(3):
        half.step(step, NAN if step == 1 else step + 1.0)
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.optimizer.restore(half.optimizer.tensors(), half.optimizer.counters())
    for step in range(3, 6):
        resumed.step(step, step + 1.0)
    assert torch.equal(resumed.weights(), whole.weights())
    assert resumed.optimizer.counters() == whole.optimizer.counters() == {"skipped": 1, "scaler": None}


def test_tensors_are_named_by_parameter_order():
    trained = Trained()
    assert trained.optimizer.tensors() == {}
    trained.step(0)
    keys = ("step", "exp_avg", "exp_avg_sq")
    assert set(trained.optimizer.tensors()) == {f"{index}.{key}" for index in (0, 1) for key in keys}


def test_the_average_follows_the_weights_by_its_decay():
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = MovingAverage(model, decay=0.75)
    seen = []
    for value in (2.0, 4.0, 0.0):
        nn.init.constant_(model.weight, value)
        average.update()
        seen.append(average.projector.weight.detach()[0, 0].item())
    assert seen[0] == 2.0  # torch starts from the weights after the first step
    assert seen[1:] == pytest.approx([0.75 * 2.0 + 0.25 * 4.0, 0.75 * 2.5])
    assert model.weight.detach()[0, 0].item() == 0.0


def test_the_average_is_saved_beside_the_weights_and_restored():
    model = nn.Linear(2, 1)
    average, other = MovingAverage(model, 0.5), MovingAverage(nn.Linear(2, 1), 0.5)
    average.update()
    saved = {f"projector.{name}": tensor for name, tensor in model.state_dict().items()} | average.tensors()
    assert {"average.module.weight", "average.n_averaged"} <= set(average.tensors())
    other.restore(saved)
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in average.tensors().items())


def test_without_a_decay_there_is_no_average():
    model = nn.Linear(2, 1)
    average = MovingAverage(model, 0.0)
    average.update()
    average.restore({"average.module.weight": torch.zeros(1, 2)})
    assert average.projector is model
    assert average.tensors() == {}
