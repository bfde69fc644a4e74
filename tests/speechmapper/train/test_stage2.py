"""Stage 2: the mixed loss, what learns and what does not, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from sm_store import Fields
from sm_store.errors import ConfigError, IdentityMismatch, ModelError
from speechmapper.first_layers import first_layers_of
from speechmapper.heads import Head
from speechmapper.layer_checkpointing import checkpoint_layers
from speechmapper.loader.prefetch import read_batch
from speechmapper.objectives import build
from speechmapper.projector import HEADS, Projector, ProjectorConfig
from speechmapper.saved_projector import load_projector, save_projector
from speechmapper.tasks import ASR, FileTask, Item, StoreFields
from speechmapper.tasks.base import PROMPT_FOLDER
from speechmapper.train.log import read_metrics
from speechmapper.train.stage import ProjectorWithObjective
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, fitted, train_stage2
from speechmapper.train.tuning_stage import Terms, TuningStage
from tests.speechmapper.tiny import make_world, save_llm, source_of, stage1_config, stage2_config

CPU = torch.device("cpu")


@pytest.fixture
def projector(stage1_run) -> Projector:
    return load_projector(stage1_run)


def head_of(world, sizes: ProjectorConfig) -> Head:
    return Head(sizes, world.store.targets("tiny").table, 0, CPU)


def batch_of(world, indices=(0, 1, 2)):
    return read_batch(source_of(world), np.array(indices), CPU)


def loss_of(made: TuningStage, projector, batch) -> torch.Tensor:
    return made.combine(made.sums(ProjectorWithObjective(projector, made._objective), batch), made.counts(batch))


def request(world, projector, out, resume=False, llm=None, **sections) -> Stage2Request:
    llm_name = str(llm or world.llm_folder)
    return Stage2Request(world.path, projector, llm_name, out, stage2_config(**sections), resume=resume)


def test_training_moves_the_projector_and_not_the_llm(world, llm, stage1_run, tmp_path, monkeypatch):
    """The LLM that was trained with is compared in memory with what it was before."""
    before = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    monkeypatch.setattr("speechmapper.train.stage2.load_llm", lambda *_: llm)
    out = tmp_path / "run"
    train_stage2(request(world, stage1_run, out, schedule={"steps": 3}, optimizer={"lr": 1e-2}))
    one = Projector.from_pretrained(stage1_run / "projector").state_dict()
    two = Projector.from_pretrained(out / "projector").state_dict()
    assert all(not torch.equal(one[name], two[name]) for name in one)
    after = llm.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_it_lowers_the_cross_entropy(world, stage1_run, tmp_path):
    out = tmp_path / "run"
    train_stage2(request(world, stage1_run, out, tuning={"sigma": 0.0}, schedule={"steps": 40}, optimizer={"lr": 1e-2}))
    losses = [line["ce"] for line in read_metrics(out)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_what_learns_and_what_is_frozen_is_printed(world, stage1_run, tmp_path, capfd):
    train_stage2(request(world, stage1_run, tmp_path / "run", schedule={"steps": 1}))
    printed = capfd.readouterr()
    assert "learns: projector, 30,048 parameters" in printed.err
    assert f"frozen: {world.llm_folder}, 19,616 parameters" in printed.err
    assert printed.out == ""


def test_the_run_says_what_it_is_for(stage2_run, world):
    made = Projector.from_pretrained(stage2_run / "projector").config.trained_for
    assert (made["stage"], made["task"], made["sigma"]) == ("stage2", "asr", 0.9)
    assert made["llm"] == {"id": str(world.llm_folder), "revision": None}
    assert made["started_from"]["stage"] == "stage1"
    last = read_metrics(stage2_run)[-1]
    assert {"dev_wer", "dev_cer"} <= set(last)


def test_a_run_keeps_the_wordings_and_the_task_that_it_was_trained_with(world, stage1_run, tmp_path):
    wordings = {"system": "dog", "wordings": {"any": ["slept walked", "the dog"]}}
    own = {**wordings, "answer": "{text}", "match": "^[a-z]+", "score": "exact_match", "name": "first"}
    for name, contents in (("own.yaml", {"asr": wordings}), ("first.yaml", own)):
        (tmp_path / name).write_text(json.dumps(contents))
    tuning = {"prompts": str(tmp_path / "own.yaml"), "task": f"asr=1,{tmp_path / 'first.yaml'}=1"}
    train_stage2(request(world, stage1_run, tmp_path / "run", tuning=tuning, schedule={"steps": 1}))
    made = Projector.from_pretrained(tmp_path / "run" / "projector").config.trained_for
    assert made["tasks"] == {"asr": wordings, "first": own}
    assert ASR.as_trained(made).instruction(Item()).text == "slept walked"
    assert FileTask(made["tasks"]["first"], "config.json").items(Fields("the dog", 1.0)) == [Item("the")]


def test_resumed_equals_uninterrupted_to_the_bit(world, stage1_run, tmp_path):
    train_stage2(request(world, stage1_run, tmp_path / "whole"))
    train_stage2(request(world, stage1_run, tmp_path / "parts", schedule={"steps": 2}))
    outcome = train_stage2(request(world, stage1_run, tmp_path / "parts", resume=True))
    assert outcome.step == 3
    one, two = (load_projector(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_is_resumed_with_checkpointing_to_the_bit(world, stage1_run, tmp_path, monkeypatch):
    """It changes no result, so it is no part of the run's identity."""
    checkpointed = []

    def noted(model, name):
        checkpointed.append(name)
        checkpoint_layers(model, name)

    monkeypatch.setattr("speechmapper.llm_loading.checkpoint_layers", noted)
    train_stage2(request(world, stage1_run, tmp_path / "whole"))
    train_stage2(request(world, stage1_run, tmp_path / "parts", schedule={"steps": 2}))
    assert not checkpointed
    resumed = request(world, stage1_run, tmp_path / "parts", resume=True)
    train_stage2(dataclasses.replace(resumed, config=stage2_config(llm={"checkpointing": True})))
    assert len(checkpointed) == 1
    one, two = (load_projector(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_llm_is_refused(world, stage1_run, tmp_path):
    other = save_llm(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="not those of target set tiny"):
        train_stage2(request(world, stage1_run, tmp_path / "run", llm=other))


def test_a_store_of_other_features_is_refused_with_the_difference(world, stage1_run, tmp_path):
    projector = tmp_path / "projector"
    load_projector(stage1_run).save_pretrained(projector)
    config = json.loads((projector / "config.json").read_text())
    config["trained_for"]["encoder"]["layer"] = 18
    (projector / "config.json").write_text(json.dumps(config))
    with pytest.raises(IdentityMismatch, match=r"encoder\.layer: 2 != 18"):
        train_stage2(request(world, projector, tmp_path / "run"))


@pytest.mark.parametrize("made", ["nothing", "empty", "foreign"])
def test_what_is_no_run_is_refused(world, tmp_path, made):
    folder = tmp_path / "run"
    if made != "nothing":
        folder.mkdir()
    if made == "foreign":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError):
        train_stage2(request(world, folder, tmp_path / "out"))


def test_resume_with_another_sigma_is_refused(world, stage1_run, tmp_path):
    train_stage2(request(world, stage1_run, tmp_path / "run", schedule={"steps": 1}))
    with pytest.raises(IdentityMismatch, match=r"tuning\.sigma: 0\.9 != 0\.5"):
        train_stage2(request(world, stage1_run, tmp_path / "run", resume=True, tuning={"sigma": 0.5}))


def test_a_run_that_is_there_is_not_overwritten(world, stage1_run, stage2_run):
    with pytest.raises(ConfigError, match="--resume"):
        train_stage2(request(world, stage1_run, stage2_run))


@pytest.mark.parametrize("tuning", [{"task": "dance"}, {"task": "asr=1,sqa=1", "asr_share": 0.5}])
def test_an_impossible_mixture_is_refused_before_anything_is_loaded(world, tmp_path, tuning):
    with pytest.raises(ConfigError, match=r"tuning\.(task|asr_share)"):
        train_stage2(request(world, tmp_path / "no-run", tmp_path / "out", llm="no-such-llm", tuning=tuning))
    assert not (tmp_path / "out").exists()


def test_a_refused_resume_leaves_the_run_as_it_was(world, stage1_run, tmp_path):
    out = tmp_path / "run"
    train_stage2(request(world, stage1_run, out, schedule={"steps": 2}))
    before = (out / "config.yaml").read_bytes()
    for change in ({"tuning": {"asr_share": 0.25, "task": "sqa"}}, {"optimizer": {"lr": 1e-2}}):
        with pytest.raises((IdentityMismatch, ConfigError)):
            train_stage2(request(world, stage1_run, out, resume=True, schedule={"steps": 3}, **change))
        assert (out / "config.yaml").read_bytes() == before
    train_stage2(request(world, stage1_run, out, resume=True, schedule={"steps": 3}))
    assert b"steps: 3" in (out / "config.yaml").read_bytes()


def test_resuming_with_another_projector_or_other_wordings_is_refused(world, stage1_run, tmp_path, monkeypatch):
    out, other = tmp_path / "run", tmp_path / "other"
    train_stage2(request(world, stage1_run, out, schedule={"steps": 1}))
    changed = load_projector(stage1_run)
    with torch.no_grad():
        changed.head_output.bias += 0.1
    save_projector(other, changed)
    with pytest.raises(IdentityMismatch, match="started_from"):
        train_stage2(request(world, other, out, resume=True, schedule={"steps": 2}))
    folder = shutil.copytree(PROMPT_FOLDER, tmp_path / "prompts")
    (folder / "asr.yaml").write_text((folder / "asr.yaml").read_text().replace("Please", "Kindly"))
    monkeypatch.setattr("speechmapper.tasks.base.PROMPT_FOLDER", folder)
    with pytest.raises(IdentityMismatch, match="prompts"):
        train_stage2(request(world, stage1_run, out, resume=True, schedule={"steps": 2}))


def test_a_task_without_answers_in_the_store_is_refused(world, stage1_run, tmp_path):
    with pytest.raises(ConfigError, match=r"tuning\.task st: no utterance of train has translation"):
        train_stage2(request(world, stage1_run, tmp_path / "run", llm="no-such-llm", tuning={"task": "st"}))
    with pytest.raises(ConfigError, match=r"tuning\.task sqa: no utterance of train has question and answer"):
        train_stage2(request(world, stage1_run, tmp_path / "run", llm="no-such-llm", tuning={"task": "asr=1,sqa=1"}))


def test_utterances_without_an_answer_are_counted(stage1_run, tmp_path, capfd):
    some = make_world(tmp_path / "world", utterances=8, splits=("train",), question="who?", answer="the dog")
    train_stage2(request(some, stage1_run, tmp_path / "run", schedule={"steps": 1}, tuning={"task": "asr=1,sqa=1"}))
    assert "answers for: asr 8, sqa 8 of 8 utterances" in capfd.readouterr().err


def test_another_target_set_of_the_same_width_is_refused(world, stage1_run, tmp_path):
    other = make_world(tmp_path / "world", llm_seed=5)
    with pytest.raises((IdentityMismatch, ConfigError), match="target"):
        train_stage2(request(other, stage1_run, tmp_path / "run"))


def test_the_log_tells_the_llms_flop_and_of_a_known_gpu_their_share(world, stage1_run, tmp_path, monkeypatch):
    assert all("llm_tflops_per_second" not in line for line in read_metrics(stage1_run))
    train_stage2(request(world, stage1_run, tmp_path / "cpu"))
    lines = read_metrics(tmp_path / "cpu")
    assert lines and all(line["llm_tflops_per_second"] > 0 and "llm_mfu" not in line for line in lines)
    monkeypatch.setattr("speechmapper.train.log.peak_flop", lambda _device: 2e12)
    train_stage2(request(world, stage1_run, tmp_path / "gpu"))
    for line in read_metrics(tmp_path / "gpu"):
        assert line["llm_mfu"] == pytest.approx(line["llm_tflops_per_second"] / 2, rel=1e-4)


def test_a_translation_without_a_prompt_is_refused_before_the_llm_is_loaded(tmp_path, stage1_run):
    world = make_world(tmp_path / "world", translation={"de": "rain", "xx": "boat"})
    with pytest.raises(ConfigError, match="no st prompt for xx"):
        train_stage2(request(world, stage1_run, tmp_path / "out", llm="no-such-llm", tuning={"task": "st"}))
    assert not (tmp_path / "out").exists()
    chosen = {"task": "st", "languages": ["de"]}
    train_stage2(request(world, stage1_run, tmp_path / "out", tuning=chosen, schedule={"steps": 1}))
    assert Projector.from_pretrained(tmp_path / "out" / "projector").config.trained_for["chat_template"]


@pytest.fixture(scope="module", params=["ctc-embedding", "dtw", "mse"])
def trained(world, request, tmp_path_factory):
    """A run whose projector says something: of each way to read it."""
    out = tmp_path_factory.mktemp(request.param) / "stage1"
    config = stage1_config(objective={"name": request.param}, schedule={"steps": 60, "warmup": 6})
    train_stage1(Stage1Request(world.path, out, config))
    return out


def test_every_head_that_passes_gradients_learns_from_the_llm(world, llm, trained):
    sizes = load_projector(trained).config
    for kind in HEADS[sizes.readout]:
        projector = load_projector(trained)
        config = fitted(stage2_config(tuning={"sigma": 1.0 if kind == "tokens" else 0.0, "head": kind}), projector)
        assert projector.config.head == kind
        made = TuningStage(config, Terms(), llm, head_of(world, projector.config), StoreFields(world.store))
        if kind == "tokens":
            continue
        loss_of(made, projector, batch_of(world)).backward()
        learned = {
            name for name, weight in projector.named_parameters() if weight.grad is not None and weight.grad.any()
        }
        assert {"head_output.weight", "blocks.0.conv.weight"} <= learned
        assert ("firing.weight" in learned) == (kind == "cif" or (sizes.readout, kind) == ("cif", "rows"))


def test_the_loss_is_that_of_what_the_head_gives(world, llm, trained):
    projector = load_projector(trained)
    made = TuningStage(
        fitted(stage2_config(tuning={"sigma": 0.0}), projector),
        Terms(),
        llm,
        head_of(world, projector.config),
        StoreFields(world.store),
    )
    batch = batch_of(world)
    with torch.no_grad():
        given, lengths = head_of(world, projector.config).inputs(projector.project(batch.features_BTD, batch.frames_B))
        expected = llm.answer_loss(given, lengths, made.prompts(batch)) / made.counts(batch)["ce"]
        assert float(loss_of(made, projector, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_the_objective_follows_from_how_the_projector_is_read(world, trained):
    projector = load_projector(trained)
    name = projector.config.trained_for["training"]["objective"]["name"]
    assert fitted(stage2_config(), projector).objective.name == name
    named = stage2_config(objective={"name": "l1+cosine"})
    assert fitted(named, projector) is named


def test_kd_takes_its_layers_from_the_llm_of_the_run(world, stage1_run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "first_layers_of", lambda llm, *rest: asked.append(llm) or first_layers_of(llm, *rest))
    train_stage2(request(world, stage1_run, tmp_path / "run", objective={"name": "mse+kd"}, schedule={"steps": 1}))
    assert asked == [str(world.llm_folder)]
    assert read_metrics(tmp_path / "run")[-1]["kd"] > 0


def test_a_head_that_cannot_be_is_refused(world, stage1_run):
    for tuning, words in (
        ({"head": "cif"}, "this projector can have vectors, segments, rows, tokens"),
        ({"head": "tokens", "sigma": 0.9}, "no gradient passes head tokens"),
    ):
        with pytest.raises(ConfigError, match=words):
            fitted(stage2_config(tuning=tuning), load_projector(stage1_run))


def test_a_tuned_run_keeps_its_head_and_resumes_with_it(world, stage1_run, tmp_path):
    out = tmp_path / "run"
    train_stage2(request(world, stage1_run, out, tuning={"head": "rows"}, run={"eval_utterances": 2}))
    assert load_projector(out).config.head == "rows"
    with pytest.raises(IdentityMismatch, match="head"):
        train_stage2(request(world, stage1_run, out, resume=True, schedule={"steps": 5, "warmup": 0}))


def test_a_run_distils_in_place_of_cross_entropy_and_older_runs_resume(world, stage1_run, tmp_path):
    out, run = tmp_path / "run", {"eval_utterances": 2}
    train_stage2(request(world, stage1_run, out, tuning={"loss": "kd", "sigma": 0.5}, run=run))
    assert {"kd", "word"} <= set(read_metrics(out)[0]) and "ce" not in read_metrics(out)[0]
    assert {"dev_kd", "dev_ce", "dev_wer"} <= set(read_metrics(out)[-1])
    with pytest.raises(IdentityMismatch, match="loss"):
        train_stage2(request(world, stage1_run, out, resume=True, tuning={"sigma": 0.5}, run=run))
    train_stage2(request(world, stage1_run, tmp_path / "ce", schedule={"steps": 1}))
    record = json.loads(next((tmp_path / "ce" / "checkpoints").glob("*/state.json")).read_text())
    assert "loss" not in record["identity"]["tuning"]
    with pytest.raises(ConfigError, match=r"tuning\.loss kd: objective\.name mse\+kd has kd too"):
        fitted(stage2_config(tuning={"loss": "kd"}, objective={"name": "mse+kd"}), load_projector(stage1_run))


def test_a_run_that_trims_is_recorded_and_resumes_so(world, stage1_run, tmp_path):
    out = tmp_path / "run"
    train_stage2(request(world, stage1_run, out, tuning={"trim": True}, schedule={"steps": 1}))
    assert load_projector(out).config.trim is True
    train_stage2(request(world, stage1_run, tmp_path / "whole", schedule={"steps": 1}))
    for run, said in (
        (out, True),
        (tmp_path / "whole", False),
    ):  # as in runs made before
        identity = json.loads(next((run / "checkpoints").glob("*/state.json")).read_text())["identity"]
        assert ("trim" in identity["model"], "trim" in identity["tuning"]) == (said, False)
    with pytest.raises(IdentityMismatch, match="trim"):
        train_stage2(request(world, stage1_run, out, resume=True, schedule={"steps": 2}))
    assert fitted(stage2_config(), load_projector(out)) and load_projector(out).config.trim
    with pytest.raises(ConfigError, match=r"tuning\.trim: it is for head vectors .* this one has head rows"):
        fitted(stage2_config(tuning={"trim": True, "head": "rows"}), load_projector(stage1_run))


def test_a_run_with_a_quantised_llm_is_recorded_so(world, llm, stage1_run, tmp_path, capfd):
    def asked(quantize, steps, **more):
        config = stage2_config(llm={"quantize": quantize}, schedule={"steps": steps})
        return dataclasses.replace(request(world, stage1_run, tmp_path / "run", **more), config=config)

    train_stage2(asked("8bit", 1))
    assert load_projector(tmp_path / "run").config.trained_for["llm"]["quantize"] == "8bit"
    for other in ("none", "4bit"):
        with pytest.raises(IdentityMismatch, match=r"llm\.quantize"):
            train_stage2(asked(other, 2, resume=True))
    weights = sum(weight.numel() for weight in llm.model.parameters())
    assert capfd.readouterr().err.count(f"{weights:,} parameters, in eval mode") == 3  # in 4 bits too
