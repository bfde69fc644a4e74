"""The stage of stage 2: the mixed loss, its prompts, and the same losses on the dev split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sm_pipeline.models.source import resolve_model
from sm_store.errors import ConfigError
from speechmapper.heads import Head
from speechmapper.llm_loading import load_llm
from speechmapper.loader.prefetch import read_batch
from speechmapper.objectives.build import build_distillation, build_objective
from speechmapper.projector import Projector, ProjectorConfig
from speechmapper.saved_projector import load_projector
from speechmapper.tasks import StoreFields
from speechmapper.train.stage import ProjectorWithObjective
from speechmapper.train.tuning_stage import Terms, TuningStage, tasks_of, unseen_tasks_of
from tests.speechmapper.tiny import make_world, source_of, stage2_config

CPU = torch.device("cpu")


@pytest.fixture
def projector(stage1_run) -> Projector:
    return load_projector(stage1_run)


def stage(world, llm, sigma: float, **tuning) -> TuningStage:
    config = stage2_config(tuning={"sigma": sigma, **tuning}, objective={"name": "mse"})
    objective = objective_of(world, config) if sigma else None
    return TuningStage(config, Terms(objective), llm, head_of(world, ProjectorConfig()), StoreFields(world.store))


def head_of(world, sizes: ProjectorConfig) -> Head:
    return Head(sizes, world.store.targets("tiny").table, 0, CPU)


def objective_of(world, config):
    return build_objective(config.objective, world.store.targets("tiny"), ProjectorConfig(), CPU)


def batch_of(world, indices=(0, 1, 2)):
    return read_batch(source_of(world), np.array(indices), CPU)


def loss_of(made: TuningStage, projector, batch) -> torch.Tensor:
    return made.combine(made.sums(ProjectorWithObjective(projector, made._objective), batch), made.counts(batch))


def test_the_loss_is_the_mix_of_the_two(world, llm, projector):
    batch = batch_of(world)
    with torch.no_grad():
        ce, mse = loss_of(stage(world, llm, 0.0), projector, batch), loss_of(stage(world, llm, 1.0), projector, batch)
        for sigma in (0.25, 0.9):
            mixed = loss_of(stage(world, llm, sigma), projector, batch)
            assert float(mixed) == pytest.approx(float((1 - sigma) * ce + sigma * mse), rel=1e-5)


def test_cross_entropy_is_per_answer_token(world, llm, projector):
    batch, made = batch_of(world), stage(world, llm, 0.0)
    with torch.no_grad():
        vectors, lengths = projector(batch.features_BTD, batch.frames_B)
        expected = float(llm.answer_loss(vectors, lengths, made.prompts(batch)))
        tokens = sum(len(world.texts[index].split()) + 1 for index in batch.indices)  # and the end of turn
        assert float(made.counts(batch)["ce"]) == tokens
        assert float(loss_of(made, projector, batch)) == pytest.approx(expected / tokens, rel=1e-5)


def test_parts_that_weigh_nothing_are_not_computed(world, llm, projector):
    batch = batch_of(world)
    assert (
        set(stage(world, llm, 0.0).sums(ProjectorWithObjective(projector, None), batch))
        == {"ce"}
        == set(stage(world, llm, 0.0).counts(batch))
    )
    only_mse = stage(world, llm, 1.0)
    assert (
        set(only_mse.sums(ProjectorWithObjective(projector, only_mse._objective), batch))
        == {"word", "pad"}
        == set(only_mse.counts(batch))
    )


@pytest.mark.parametrize("sigma", [0.0, 0.9])
def test_gradients_reach_the_projector_alone(world, llm, projector, sigma):
    loss_of(stage(world, llm, sigma), projector, batch_of(world)).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in projector.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in llm.model.parameters())


def test_prompts_are_a_function_of_the_micro_batch(world, llm):
    made, batch = stage(world, llm, 0.5), batch_of(world)
    assert made.prompts(batch) == made.prompts(batch)


def test_questions_and_translations_come_from_the_store(tmp_path, llm, projector):
    world = make_world(
        tmp_path / "world", utterances=8, question="who slept", answer="the dog", translation={"de": "rain"}
    )
    answers = {
        kind: {prompt.answer for prompt in stage(world, llm, 0.0, task=kind).prompts(batch_of(world))}
        for kind in ("sqa", "st")
    }
    words = llm.tokenizer.convert_ids_to_tokens
    assert [words(list(ids)) for ids in answers["sqa"]] == [["the", "dog", "<|im_end|>"]]
    assert [words(list(ids)) for ids in answers["st"]] == [["rain", "<|im_end|>"]]


def test_the_llm_runs_in_its_own_precision(world, llm, projector):
    batch, made = batch_of(world), stage(world, llm, 0.0)
    seen = []
    hook = llm.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made.sums(ProjectorWithObjective(projector, None), batch)
        vectors, lengths = projector(batch.features_BTD, batch.frames_B)
        llm.generate(vectors, lengths, made.prompts(batch), 2)
    hook.remove()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("sigma", [0.0, 0.9, 1.0])
def test_the_losses_on_dev_are_those_of_training(world, llm, projector, sigma):
    batch, made = batch_of(world), stage(world, llm, sigma)
    with torch.no_grad():
        sums, counts = made.dev_sums(projector.project(batch.features_BTD, batch.frames_B), batch)
        losses = made.dev_losses(sums, counts)
        assert losses["loss"] == pytest.approx(float(loss_of(made, projector, batch)), rel=1e-6)
        assert losses["ce"] == pytest.approx(float(loss_of(stage(world, llm, 0.0), projector, batch)), rel=1e-6)
    assert set(losses) == {"loss", "ce", *(["objective"] if sigma else [])}
    if sigma:
        assert losses["loss"] == pytest.approx((1 - sigma) * losses["ce"] + sigma * losses["objective"], rel=1e-6)


@pytest.mark.parametrize(
    ("unseen", "words"), [(["dance"], "unknown; use asr, st, sqa"), (["st", "asr"], "asr: asr is trained")]
)
def test_unseen_tasks_that_are_none_are_refused(unseen, words):
    config = stage2_config(tuning={"unseen_tasks": unseen})
    with pytest.raises(ConfigError, match=rf"tuning\.unseen_tasks .*{words}"):
        unseen_tasks_of(config, tasks_of(config))
    config = stage2_config(tuning={"task": "sqa", "unseen_tasks": ["sqa"]})
    with pytest.raises(ConfigError, match="sqa is trained"):
        unseen_tasks_of(config, tasks_of(config))
    config = stage2_config(tuning={"unseen_tasks": ["st", "sqa", "st"], "languages": ["de"]})
    assert [(task.name, task.languages) for task in unseen_tasks_of(config, tasks_of(config))] == [
        ("st", ("de",)),
        ("sqa", ("de",)),
    ]


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_kd_in_place_of_cross_entropy_is_the_divergence_of_the_first_layers(world, llm, projector, sigma, monkeypatch):
    """The reference: a Llama that is cut after its first layer, run on each utterance's vectors and rows alone."""
    config = stage2_config(
        tuning={"sigma": sigma, "loss": "kd"}, objective={"name": "mse", "llm": str(world.llm_folder), "kd_layers": 1}
    )
    kd = build_distillation(config.objective, world.store.targets("tiny"), projector.config, CPU)
    terms = Terms(objective_of(world, config) if sigma else None, kd)
    made = TuningStage(config, terms, llm, head_of(world, projector.config), StoreFields(world.store))
    monkeypatch.setattr(llm.model, "forward", lambda **_: pytest.fail("the LLM was run"))
    batch = batch_of(world)
    loss = loss_of(made, projector, batch)
    cut = load_llm(resolve_model(str(world.llm_folder), "llm"), CPU).model
    cut.model.layers = cut.model.layers[:1]
    total = torch.zeros(())
    vectors, _ = projector(batch.features_BTD, batch.frames_B)
    rows = torch.from_numpy(world.store.targets("tiny").table)
    for row, count in enumerate(batch.tokens_B.tolist()):
        said = cut(inputs_embeds=vectors[row : row + 1, :count]).logits[0].log_softmax(-1)
        text = cut(inputs_embeds=rows[batch.token_ids_BN[row, :count]][None]).logits[0].log_softmax(-1)
        total = total + (text.exp() * (text - said)).sum()
    expected = (1 - sigma) * total / batch.tokens_B.sum()
    if sigma:
        objective = made._objective
        output = ProjectorWithObjective(projector, objective)(batch)
        expected = expected + sigma * objective.combine(output.sums, objective.counts(batch))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    found = torch.autograd.grad(loss, projector.head_output.weight)[0]
    wanted = torch.autograd.grad(expected, projector.head_output.weight)[0]
    assert found.any() and torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_kd_is_refused_for_what_is_not_a_transcript():
    with pytest.raises(ConfigError, match=r"tuning\.loss kd: it learns transcripts, .* tuning\.task sqa"):
        stage2_config(tuning={"loss": "kd", "task": "sqa"})
    with pytest.raises(ConfigError, match=r"tuning\.loss 'mse': use ce, kd"):
        stage2_config(tuning={"loss": "mse"})
