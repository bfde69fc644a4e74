"""Tasks other than asr: one line per item, what has no answer is counted, and scoring needs no file of a task."""

from __future__ import annotations

import json
import shutil

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.score import evaluate, score
from speechmapper.tasks import TASKS, chosen_task
from tests.speechmapper.tiny import make_world

FIRST_WORD = r"""
system: dog
wordings: {any: ["what"]}
answer: "{text}"
match: '^\w+'
score: exact_match
"""


def request(world, run, out, task, **given) -> PredictRequest:
    return PredictRequest(
        run, out, world.path, llm=str(world.llm_folder), split="train", max_new_tokens=3, task=task, **given
    )


def test_a_task_file_is_asked_of_every_utterance_and_is_not_needed_to_score(world, stage1_run, tmp_path):
    path = tmp_path / "first-word.yaml"
    path.write_text(FIRST_WORD, encoding="utf-8")
    metrics = evaluate(request(world, stage1_run, tmp_path / "out", chosen_task(str(path))))
    path.unlink()
    assert score(tmp_path / "out") == metrics
    assert {"exact_match", "f1"} <= set(metrics) and metrics["task"] == "first-word"
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    store = world.store
    texts = dict(zip(*(store.columns([name])[name].to_pylist() for name in ("id", "text")), strict=True))
    assert len(lines) == metrics["utterances"] == len(store.select(split="train"))
    assert all(line["reference"] == texts[line["id"]].split()[0] and "what" in line["prompt"] for line in lines)


def test_the_batch_changes_no_answer(world, stage1_run, tmp_path):
    path = tmp_path / "first-word.yaml"
    path.write_text(FIRST_WORD, encoding="utf-8")
    one = predict(request(world, stage1_run, tmp_path / "a", chosen_task(str(path)), batch=1))
    many = predict(request(world, stage1_run, tmp_path / "b", chosen_task(str(path)), batch=50))
    assert [line["output"] for line in one] == [line["output"] for line in many]


def test_what_cannot_be_asked_is_refused_before_the_llm_is_loaded(tmp_path, stage1_run, monkeypatch):
    world = make_world(tmp_path / "world", utterances=6)
    monkeypatch.setattr("speechmapper.eval.predict.build_readout", lambda *_: pytest.fail("an LLM was loaded"))
    with pytest.raises(ConfigError, match="needs an LLM; name it with --llm"):
        predict(PredictRequest(stage1_run, tmp_path / "out", world.path, task=TASKS["st"]))
    task = tmp_path / "who.yaml"
    task.write_text(FIRST_WORD.replace(r"^\w+", "^xyzzy"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"split train: none of 6 utterances has an answer for who; choose"):
        predict(request(world, stage1_run, tmp_path / "out", chosen_task(str(task))))


def test_utterances_without_an_answer_are_listed(world, stage1_run, tmp_path):
    task = tmp_path / "dog.yaml"
    task.write_text(FIRST_WORD.replace(r"^\w+", "dog"), encoding="utf-8")
    lines = predict(request(world, stage1_run, tmp_path / "out", chosen_task(str(task))))
    store = world.store
    columns = store.columns(["id", "text"])
    texts = dict(zip(columns["id"].to_pylist(), columns["text"].to_pylist(), strict=True))
    train = {columns["id"][int(index)].as_py() for index in store.select(split="train")}
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {line["id"] for line in rejects} == {each for each in train if "dog" not in texts[each].lower()} != set()
    assert {line["id"] for line in lines} | {line["id"] for line in rejects} == train
    assert {(line["reason"], line["detail"]) for line in rejects} == {
        ("no_item", "lacks an answer with a match of 'dog'")
    }
    assert json.loads((tmp_path / "out" / "about.json").read_text())["not_asked"] == len(rejects)


def test_languages_are_of_translations():
    assert chosen_task("st", "de, fr").languages == ("de", "fr")
    with pytest.raises(ConfigError, match="asr asks for no translation"):
        chosen_task("asr", "de")
    with pytest.raises(ConfigError, match="name at least one"):
        chosen_task("st", " ,")
    with pytest.raises(ConfigError, match="--task dance: use asr, st, sqa"):
        chosen_task("dance")


def test_a_run_is_asked_in_the_wordings_it_was_trained_with(world, stage2_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stage2_run / "projector", run / "projector")
    path = run / "projector" / "config.json"
    config = json.loads(path.read_text())
    config["trained_for"]["tasks"] = {"asr": {"system": "dog", "wordings": {"any": ["walked home", "in rain"]}}}
    path.write_text(json.dumps(config))
    own = predict(request(world, run, tmp_path / "own", TASKS["asr"]))
    shipped = predict(request(world, stage2_run, tmp_path / "shipped", TASKS["asr"]))
    assert all("walked home" in line["prompt"] for line in own)
    assert not any("walked home" in line["prompt"] for line in shipped)
