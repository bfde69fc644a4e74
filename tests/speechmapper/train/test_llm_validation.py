"""Validation with the LLM: what is asked, the figures, and that processes share the work without changing them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.config_file import to_yaml
from speechmapper.heads import Head
from speechmapper.measure.vectors import Closeness
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import load_projector
from speechmapper.tasks import ASR, TASKS, Item, StoreFields, mixture
from speechmapper.train.llm_validation import LlmValidation, asr_probe, probes_of
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from speechmapper.train.validation import dev_set
from tests.speechmapper.tiny import data_of, fields_of, make_world, stage1_config, stage2_config

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
ANSWERS = {"question": "who slept", "answer": "the dog", "translation": {"de": "rain", "fr": "boat"}}
SCORES = ("wer", "cer")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Utterances with a question and two translations; 20 of 40 are validated on: two batches."""
    folder = tmp_path_factory.mktemp("answers")
    return make_world(folder, utterances=40, splits=("train", "dev"), **ANSWERS)


@pytest.fixture(scope="module")
def stage1_run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("stage1") / "run"
    train_stage1(Stage1Request(world.path, out, stage1_config()))
    return out


FULL = fields_of("The dog.", "Who?", "the dog", {"de": "Der Hund.", "fr": "Le chien."})
BARE = fields_of("A cat.")


def test_what_is_asked_of_each_utterance():
    probes = probes_of(mixture("asr=1,sqa=1"), [TASKS["st"]], [FULL, BARE, FULL])
    assert [(probe.name, [question.row for question in probe.questions]) for probe in probes] == [
        ("", [0, 1, 2]),
        ("task_sqa", [0, 2]),
        ("unseen_wording", [0, 1, 2]),
        ("unseen_wording_sqa", [0, 2]),
        ("unseen_task_st", [0, 0, 2, 2]),
    ]
    assert [question.instruction for question in probes[0].questions] == [ASR.instruction(Item())] * 3
    assert [question.item.language for question in probes[4].questions] == ["de", "fr"] * 2


def test_unseen_wordings_take_turns_and_are_never_trained():
    asked = [question.instruction for question in probes_of(mixture("asr"), [], [FULL, BARE, FULL])[1].questions]
    kept = ASR.unseen_instructions(Item())
    assert asked == [kept[0], kept[1], kept[0]] and len(kept) == 2
    assert not {each.text for each in kept} & set(ASR.wordings.by_language["any"])


def test_transcripts_are_asked_for_whatever_is_trained():
    assert [probe.name for probe in probes_of(mixture("sqa"), [], [FULL])] == ["", "task_sqa", "unseen_wording_sqa"]


def figures_of(world, llm, projector, folder, utterances=20, examples=0, **more):
    config = stage2_config(run={"eval_utterances": utterances, "examples": examples})
    data, fields = data_of(world, config.data), StoreFields(world.store)
    dev = dev_set(folder, data, config.run)
    readout = llm_readout(llm, Head(projector.config, data.targets.table, 0, CPU), 8)
    probes = probes_of(mixture("asr=1,sqa=1"), [TASKS["st"]], [fields[index] for index in dev.indices])
    validation = LlmValidation(dev, readout, probes, data.spec.table_scale, **more)
    with torch.no_grad():
        return validation, validation.run(projector, 7).figures


def test_figures_equal_those_of_one_utterance_at_a_time(world, llm, stage1_run, tmp_path):
    projector = load_projector(stage1_run)
    validation, figures = figures_of(world, llm, projector, tmp_path)
    closeness, expected = Closeness(validation.table_scale), {}
    single = list(validation.dev.batches(CPU, 1))
    for probe in validation.probes:
        lines = []
        for question in probe.questions:
            batch = single[question.row]
            with torch.no_grad():
                projected = projector.project(batch.features_BTD, batch.frames_B)
                (output,) = validation.readout.read(projected, [question.instruction])
            item = question.item
            lines.append({"reference": item.reference, "output": probe.task.cleaned(output), "language": item.language})
        for language in sorted({line["language"] for line in lines}):
            named = "_".join(part for part in (probe.name, language.removeprefix("any")) if part)
            scores = probe.task.score([line for line in lines if line["language"] == language])
            for score, value in scores.items():
                if isinstance(value, float):
                    expected[f"{named}_{score}".removeprefix("_")] = value
    for batch in single:
        with torch.no_grad():
            projected = projector.project(batch.features_BTD, batch.frames_B)
            closeness.add(validation.readout.head.padded_inputs(projected), batch)
    assert figures.pop("relative_mse") == pytest.approx(closeness.figures()["relative_mse"], rel=1e-5)
    assert figures == expected
    assert {"wer", "cer", "task_sqa_f1", "unseen_wording_wer", "unseen_wording_sqa_f1"} <= set(figures)
    assert {"unseen_task_st_de_bleu", "unseen_task_st_fr_chrf"} <= set(figures)


def test_transcripts_alone_have_the_same_rates(world, llm, stage1_run, tmp_path):
    projector = load_projector(stage1_run)
    validation, figures = figures_of(world, llm, projector, tmp_path)
    probes = [asr_probe(validation.dev)]
    alone = LlmValidation(validation.dev, validation.readout, probes, validation.table_scale)
    with torch.no_grad():
        assert alone.run(projector, 7).figures == {name: figures[name] for name in (*SCORES, "relative_mse")}


def test_examples_tell_what_was_asked(world, llm, stage1_run, tmp_path):
    figures_of(world, llm, load_projector(stage1_run), tmp_path, utterances=2, examples=1)
    lines = (tmp_path / "examples.txt").read_text().splitlines()
    assert lines.count("step 7") == 5
    asked = [line.split(None, 1)[1] for line in lines if line.startswith("  asked")]
    assert [line.partition(":")[0] for line in asked] == [
        *("task_sqa", "unseen_wording", "unseen_wording_sqa", "unseen_task_st")
    ]
    assert "who slept Your answer:" in asked[0]


def tuned(world, stage1_run, out, **sections):
    run = {"eval_utterances": 20, "eval_every": 2}
    config = stage2_config(**{"run": run, **sections})
    return train_stage2(Stage2Request(world.path, stage1_run, str(world.llm_folder), out, config))


def test_a_run_logs_losses_and_scores_on_dev(world, stage1_run, tmp_path):
    tuned(world, stage1_run, tmp_path / "run", tuning={"unseen_tasks": ["st"], "languages": ["de"]})
    found = [line for line in read_metrics(tmp_path / "run") if "dev_wer" in line]
    assert [line["step"] for line in found] == [2, 3]
    wanted = {"loss", "ce", "objective", "relative_mse", "wer", "cer", "unseen_wording_wer", "unseen_task_st_de_bleu"}
    for line in found:
        assert {f"dev_{name}" for name in wanted} <= set(line)
        assert line["dev_loss"] == pytest.approx(0.1 * line["dev_ce"] + 0.9 * line["dev_objective"], rel=1e-4)
    record = json.loads((tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").read_text())
    assert "unseen_tasks" not in record["identity"]["tuning"]


FIRST_WORD = """
system: s
wordings: {any: ["First word:"]}
held_out: {any: ["Which word is first?"]}
answer: "{text}"
match: '^\\w+'
score: exact_match
"""


def test_a_users_own_task_can_be_trained_or_never_trained(world, stage1_run, tmp_path):
    (tmp_path / "first-word.yaml").write_text(FIRST_WORD)
    name = str(tmp_path / "first-word.yaml")
    tuned(world, stage1_run, tmp_path / "unseen", tuning={"unseen_tasks": [name]}, schedule={"steps": 1})
    assert read_metrics(tmp_path / "unseen")[-1]["dev_unseen_task_first-word_exact_match"] >= 0
    tuned(world, stage1_run, tmp_path / "trained", tuning={"task": f"asr=1,{name}=1"}, schedule={"steps": 1})
    figures = read_metrics(tmp_path / "trained")[-1]
    assert {"dev_task_first-word_exact_match", "dev_unseen_wording_first-word_exact_match"} <= set(figures)


@pytest.mark.parametrize("name", ["ctc-embedding+kd", "mse+contrastive", "dtw"])
def test_every_kind_of_objective_is_measured_on_dev(world, tmp_path, name):
    stage1, kd = name.replace("+kd", ""), {"negatives": 8} if name != "dtw" else {}
    train_stage1(Stage1Request(world.path, tmp_path / "one", stage1_config(objective={"name": stage1})))
    tuned(world, tmp_path / "one", tmp_path / "two", objective={"name": name, **kd}, schedule={"steps": 1})
    (line,) = [line for line in read_metrics(tmp_path / "two") if "dev_objective" in line]
    assert all(value == value for value in line.values())


def test_what_is_validated_changes_no_weight_and_resumes(world, stage1_run, tmp_path):
    tuned(world, stage1_run, tmp_path / "plain", run={"eval_utterances": 0})
    tuned(world, stage1_run, tmp_path / "asked", tuning={"unseen_tasks": ["sqa"]}, objective={"name": "mse"})
    one, two = (load_projector(tmp_path / name).state_dict() for name in ("plain", "asked"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_unseen_task_without_answers_is_refused_before_the_llm_is_loaded(tmp_path, stage1_run):
    bare = make_world(tmp_path / "world")
    config = stage2_config(tuning={"unseen_tasks": ["st"]}, run={"eval_utterances": 2})
    request = Stage2Request(bare.path, stage1_run, "no-such-llm", tmp_path / "out", config)
    with pytest.raises(
        ConfigError, match=r"tuning\.unseen_tasks st: no utterance of the dev split .* answer .*translation"
    ):
        train_stage2(request)


def test_two_processes_share_the_work_and_find_the_same(world, stage1_run, tmp_path):
    config = stage2_config(
        tuning={"task": "asr=1,sqa=1", "unseen_tasks": ["st"]},
        schedule={"steps": 1, "warmup": 0},
        optimizer={"lr": 1e-9},
        run={"eval_utterances": 20},
    )
    (tmp_path / "config.yaml").write_text(to_yaml("stage2", config))
    flags = ["--store", world.path, "--projector", stage1_run, "--llm", world.llm_folder]
    found, kept = [], {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD"))}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        more = ["--config", tmp_path / "config.yaml", "--out", out, "--processes", processes]
        line = [sys.executable, "-m", "speechmapper.train.cli", "stage2", *flags, *more]
        environment = {**kept, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, line)), cwd=ROOT, capture_output=True, text=True, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr
        found.append({name: value for name, value in read_metrics(out)[-1].items() if name.startswith("dev_")})
        examples = (out / "examples.txt").read_text()
        assert examples.count("step 1\n") == 5
    assert set(found[0]) == set(found[1]) and len(found[0]) > 12
    assert found[1] == pytest.approx(found[0], rel=1e-5)
