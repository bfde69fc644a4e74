"""Predictions: by nearest token and by generation, from the right split, into files that can be scored again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from sm_store import Store
from sm_store.errors import ConfigError, IdentityMismatch, ModelError
from speechmapper.eval.predict import PredictRequest, answers, predict
from speechmapper.eval.score import evaluate, score
from speechmapper.heads import Head
from speechmapper.loader.prefetch import read_batch
from speechmapper.measure.vectors import Closeness
from speechmapper.projector import ProjectorConfig
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.hotwords import read_hotwords
from speechmapper.readout.nearest import NearestToken
from speechmapper.saved_projector import load_projector
from speechmapper.train.stage1 import Stage1Request, train_stage1
from tests.speechmapper.tiny import make_world, source_of, stage1_config, tokenizer


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_nearest_token_predictions_are_those_of_the_readout(world, stage1_run, tmp_path):
    metrics = evaluate(PredictRequest(stage1_run, tmp_path, world.path, batch=2))
    store, lines = world.store, lines_of(tmp_path)
    test = store.select(split="test")
    assert [line["id"] for line in lines] == [store.columns(["id"])["id"][int(index)].as_py() for index in test]
    projector = load_projector(stage1_run)
    head = Head(ProjectorConfig(), store.targets("tiny").table, 0, torch.device("cpu"))
    readout = NearestToken(tokenizer(), 0)
    closeness = Closeness(store.targets("tiny").spec.table_scale)
    with torch.no_grad():
        for index, line in zip(test, lines, strict=True):
            batch = read_batch(source_of(world), np.array([index]), torch.device("cpu"))
            projected = projector.project(batch.features_BTD, batch.frames_B)
            closeness.add(projected.vectors_BUE, batch)
            assert line["output"] == readout.texts(head.token_ids(projected))[0]
            assert line["reference"] == store[int(index)].text
            assert line["prompt"] is None
    assert metrics["relative_mse"] == pytest.approx(closeness.figures()["relative_mse"], rel=1e-4)
    assert metrics["utterances"] == len(test)


def test_generated_predictions_carry_their_prompt(world, stage2_run, tmp_path):
    metrics = evaluate(PredictRequest(stage2_run, tmp_path, world.path, llm=str(world.llm_folder), max_new_tokens=5))
    line = lines_of(tmp_path)[0]
    assert "<<<speech>>>" in line["prompt"] and "repeat" in line["prompt"]
    assert (metrics["readout"], metrics["llm"]) == ("generation", str(world.llm_folder))
    assert metrics["chat_template"]["date"] == "2024-07-26"
    assert all(len(line["output"].split()) <= 5 for line in lines_of(tmp_path))


def test_metrics_say_what_was_measured(world, stage1_run, tmp_path):
    metrics = evaluate(PredictRequest(stage1_run, tmp_path, world.path))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {"wer", "cer", "utterances", "normalizer", "versions", "run", "readout", "split"} <= set(metrics)
    assert (metrics["readout"], metrics["split"], metrics["run"]["stage"]) == ("nearest-token", "test", "stage1")


def test_batch_size_changes_nothing(world, stage1_run, tmp_path):
    one = predict(PredictRequest(stage1_run, tmp_path / "a", world.path, batch=1))
    many = predict(PredictRequest(stage1_run, tmp_path / "b", world.path, batch=50))
    assert [line["output"] for line in one] == [line["output"] for line in many]
    assert [line["relative_mse"] for line in one] == pytest.approx([line["relative_mse"] for line in many], abs=2e-6)


def test_another_split_can_be_measured(world, stage1_run, tmp_path):
    assert len(predict(PredictRequest(stage1_run, tmp_path, world.path, split="dev"))) == len(
        world.store.select(split="dev")
    )
    with pytest.raises(ConfigError, match=r"no split 'x' .there: dev, test, train"):
        predict(PredictRequest(stage1_run, tmp_path, world.path, split="x"))


def test_without_splits_everything_is_measured(stage1_run, tmp_path):
    world = make_world(tmp_path / "world", utterances=7, splits=(None,))
    assert len(predict(PredictRequest(stage1_run, tmp_path / "out", world.path))) == 7


def test_score_needs_the_predictions_alone(world, stage1_run, tmp_path):
    before = evaluate(PredictRequest(stage1_run, tmp_path, world.path))
    (tmp_path / "metrics.json").unlink()
    assert score(tmp_path) == before
    lines = lines_of(tmp_path)
    for line in lines:
        line["output"] = line["reference"]
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert score(tmp_path)["wer"] == 0.0
    (tmp_path / "about.json").unlink()
    assert score(tmp_path)["wer"] == 0.0


def test_without_its_target_set_the_store_is_read_with_the_llms_own_table(stage1_run, tmp_path):
    world = make_world(tmp_path / "world", utterances=6)
    expected = predict(PredictRequest(stage1_run, tmp_path / "out", world.path, split="train"))
    store = Store.open(world.path)
    store.drop_target_set("tiny")
    without = predict(PredictRequest(stage1_run, tmp_path / "out", world.path, split="train"))
    assert [line["output"] for line in without] == [line["output"] for line in expected]
    assert "relative_mse" in expected[0] and "relative_mse" not in without[0]
    lines = predict(
        PredictRequest(
            stage1_run, tmp_path / "out", world.path, llm=str(world.llm_folder), split="train", max_new_tokens=3
        )
    )
    assert "relative_mse" not in lines[0]


def test_features_of_another_encoder_are_refused(world, stage1_run, tmp_path):
    folder = tmp_path / "projector"
    load_projector(stage1_run).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["trained_for"]["average"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IdentityMismatch, match="average: 2 != 4"):
        predict(PredictRequest(folder, tmp_path / "out", world.path))


def test_a_run_that_has_not_ended_says_so(world, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(ModelError, match="its training has not ended"):
        predict(PredictRequest(tmp_path / "run", tmp_path / "out", world.path))


def test_a_projector_of_another_geometry_than_the_target_set_is_measured(world, tmp_path):
    """Its vectors are twice as many as the set was padded for: targets are padded for what the projector gives."""
    config = stage1_config(model={"strides": [1, 2]}, schedule={"steps": 1, "warmup": 0})
    train_stage1(Stage1Request(world.path, tmp_path / "run", config))
    together = predict(PredictRequest(tmp_path / "run", tmp_path / "a", world.path, split="train"))
    alone = predict(PredictRequest(tmp_path / "run", tmp_path / "b", world.path, split="train", batch=1))
    assert [line["output"] for line in together] == [line["output"] for line in alone]
    assert all(line["positions"] for line in together)
    assert [line["relative_mse"] for line in together] == pytest.approx([line["relative_mse"] for line in alone], 1e-4)


def test_another_head_is_given_to_the_llm_and_recorded(world, stage1_run, tmp_path):
    llm = str(world.llm_folder)
    for head in (None, "tokens"):
        request = PredictRequest(stage1_run, tmp_path / str(head), world.path, llm=llm, max_new_tokens=5, head=head)
        metrics = evaluate(request)
        assert metrics["head"] == (head or "vectors")
    with pytest.raises(ConfigError, match="--head cif: this projector can have vectors"):
        predict(PredictRequest(stage1_run, tmp_path / "cif", world.path, head="cif"))


def test_a_ctc_projector_is_read_by_beam_search_and_what_it_was_given_is_recorded(world, tmp_path):
    config = stage1_config(objective={"name": "ctc-embedding"}, schedule={"steps": 60, "warmup": 5})
    train_stage1(Stage1Request(world.path, tmp_path / "run", config))
    words = tmp_path / "words.txt"
    words.write_text("Dog\n")
    greedy = evaluate(PredictRequest(tmp_path / "run", tmp_path / "a", world.path, split="train"))
    plain = PredictRequest(tmp_path / "run", tmp_path / "b", world.path, split="train", search=BeamSearch(8))
    beam = evaluate(plain)
    search = BeamSearch(8, read_hotwords(words), weight=30.0)
    boosted = evaluate(PredictRequest(tmp_path / "run", tmp_path / "c", world.path, split="train", search=search))
    assert (greedy["readout"], beam["readout"], beam["beam"]) == ("nearest-token", "beam-search", 8)
    assert "beam" not in greedy and "hotwords" not in beam
    assert boosted["hotwords"] == {"sha256": hashlib.sha256(b"Dog\n").hexdigest(), "count": 1, "weight": 30.0}
    dogs = [sum(line["output"].split().count("dog") for line in lines_of(tmp_path / each)) for each in "abc"]
    assert dogs[2] > max(dogs[:2])
    alone = predict(dataclasses.replace(plain, batch=1))
    assert [line["output"] for line in alone] == [line["output"] for line in lines_of(tmp_path / "b")]


def test_beam_search_of_another_projector_is_refused_before_its_weights_are_read(world, stage1_run, tmp_path):
    run = shutil.copytree(stage1_run, tmp_path / "run")
    (run / "projector" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"--beam, --hotwords: .* read by nearest"):
        predict(PredictRequest(run, tmp_path / "out", world.path, search=BeamSearch()))


def test_an_interrupted_evaluation_continues_to_the_same_file(world, stage2_run, tmp_path, monkeypatch):
    def request(out):
        return PredictRequest(
            stage2_run, tmp_path / out, world.path, llm=str(world.llm_folder), max_new_tokens=3, batch=2
        )

    whole = predict(request("whole"))
    asked = []

    class Stop(Exception):
        pass

    def once(*given):
        asked.append(len(given[2]))
        if len(asked) == 2:
            raise Stop
        return answers(*given)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("speechmapper.eval.predict.answers", once)
        predict(request("out"))
    assert len(lines_of(tmp_path / "out")) == asked[0] == 2
    with pytest.raises(IdentityMismatch, match="max_new_tokens: 3 != 4"):
        predict(dataclasses.replace(request("out"), max_new_tokens=4))
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            "speechmapper.eval.predict.answers", lambda *given: asked.append(len(given[2])) or answers(*given)
        )
        again = predict(request("out"))
        assert sum(asked) == len(whole) - 2
        assert predict(request("out")) == again and sum(asked) == len(whole) - 2
    same = [{key: value for key, value in line.items() if key != "seconds"} for line in again]
    assert same == [{key: value for key, value in line.items() if key != "seconds"} for line in whole]


def test_lines_say_what_the_llm_wrote_and_what_is_known_of_the_speech(world, stage2_run, tmp_path):
    request = PredictRequest(stage2_run, tmp_path, world.path, llm=str(world.llm_folder), max_new_tokens=3)
    lines, fields = predict(request), world.store
    for index, line in zip(fields.select(split="test"), lines, strict=True):
        record = fields[int(index)]
        assert (line["task"], line["duration"]) == ("asr", record.duration)
        assert line.get("speaker") == record.speaker and line.get("lang") == record.lang
        assert line["prompt_sha256"] == hashlib.sha256(line["prompt"].encode()).hexdigest()[:12]
        assert 0 <= line["tokens"] <= 3 and line["seconds"] > 0
        assert (line["stop"] == "length") == (line["tokens"] == 3)
        assert "source" not in line  # the answer is the transcript
    assert {line["stop"] for line in lines} == {"length"}


def test_how_the_llm_is_loaded_is_chosen_and_recorded(world, stage1_run, tmp_path):
    given = {"llm": str(world.llm_folder), "max_new_tokens": 3}
    predict(PredictRequest(stage1_run, tmp_path / "half", world.path, llm_dtype="bfloat16", **given))
    predict(PredictRequest(stage1_run, tmp_path / "plain", world.path, **given))
    half, plain = (json.loads((tmp_path / name / "about.json").read_text()) for name in ("half", "plain"))
    assert half["llm_dtype"] == "bfloat16" and not {"llm_dtype", "quantize"} & set(plain)
    with pytest.raises(ConfigError, match=r"llm\.quantize '3bit': use "):
        predict(PredictRequest(stage1_run, tmp_path / "c", world.path, quantize="3bit", **given))
    with pytest.raises(ConfigError, match="--llm-dtype, --quantize: no LLM to load so"):
        PredictRequest(stage1_run, tmp_path / "c", world.path, quantize="4bit")
