"""Cascades: the LLM reads text as if a prompt held it, from transcripts or from another recogniser's outputs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from sm_pipeline.models.source import resolve_model
from sm_store.errors import ConfigError
from speechmapper.eval.cascade import read_texts
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.score import evaluate
from speechmapper.llm_loading import load_llm
from speechmapper.tasks import ASR, Item


@pytest.fixture
def request_of(world, stage2_run, tmp_path):
    def make(name: str, **more) -> PredictRequest:
        llm = str(world.llm_folder)
        return PredictRequest(stage2_run, tmp_path / name, world.path, llm=llm, max_new_tokens=4, **more)

    return make


def test_the_llm_reads_the_transcript_as_if_the_prompt_held_it(world, stage2_run, request_of):
    metrics = evaluate(request_of("top", cascade="reference", batch=2))
    assert (metrics["readout"], metrics["cascade"], metrics["rejected"]) == ("cascade", "reference", 0)
    llm = load_llm(resolve_model(str(world.llm_folder), "llm"), torch.device("cpu"))
    instruction = ASR.instruction(Item())
    prompt = llm.prompter.write(instruction)
    lines = [json.loads(line) for line in (request_of("top").out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == len(world.store.select(split="test"))
    for index, line in zip(world.store.select(split="test"), lines, strict=True):
        text = world.store[int(index)].text
        ids = [*prompt.before, *llm.tokenizer.encode(text, add_special_tokens=False), *prompt.after]
        given = torch.tensor([ids])
        written = llm.model.generate(given, max_new_tokens=4, do_sample=False, eos_token_id=sorted(llm.stop_ids))
        kept = [token for token in written[0, len(ids) :].tolist() if token not in llm.stop_ids]
        assert line["output"] == llm.tokenizer.decode(kept, skip_special_tokens=True).strip()
        assert line["reference"] == text and line["tokens"] <= 4


def test_outputs_of_a_recogniser_are_given_and_those_it_lacks_are_listed(world, request_of, tmp_path):
    ids = [world.store[int(index)].id for index in world.store.select(split="test")]
    texts = tmp_path / "asr.jsonl"
    texts.write_text("".join(json.dumps({"id": name, "output": "b a"}) + "\n" for name in ids[1:]))
    metrics = evaluate(request_of("out", cascade=str(texts)))
    assert (metrics["rejected"], metrics["utterances"]) == (1, len(ids) - 1)
    (reject,) = map(json.loads, (request_of("out").out / "rejects.jsonl").read_text().splitlines())
    assert (reject["id"], reject["reason"]) == (ids[0], "no_text")
    first = predict(request_of("again", cascade=str(tmp_path / "out")))
    assert [line["id"] for line in first] == ids[1:]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"llm": None}, "--cascade: it gives text to an LLM; name one with --llm"),
        ({"head": "vectors"}, "--cascade: no speech is heard"),
        ({"store": None}, "--store, --manifest: give one of the two"),
        ({"cascade": "none"}, "--cascade none: no predictions there"),
    ],
)
def test_what_does_not_go_together_is_named(request_of, more, words):
    with pytest.raises(ConfigError, match=words):
        predict(dataclasses.replace(request_of("bad", cascade="reference"), **more))


@pytest.mark.parametrize("line", ["x", "[]", '{"id": "a"}', '{"id": 1, "output": "a"}', ""])
def test_lines_that_are_no_outputs_are_named(tmp_path, line):
    (tmp_path / "predictions.jsonl").write_text('{"id": "a", "output": "b\\u2028c"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"predictions\.jsonl:2: not an id with its output"):
        read_texts(tmp_path)
