"""Corpus to word error rate with the commands a user types, small: what each leaves behind, and what is said of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zarr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sm_pipeline.corpora.demo import GRAMMAR
from sm_pipeline.models.quiet import quiet_transformers
from speechmapper import Projector, SpeechMapper, Store

MODULES = {"sm-pipeline": "sm_pipeline.cli", "sm-train": "speechmapper.train.cli", "sm-eval": "speechmapper.eval.cli"}
SMALL = (
    "model.block_sizes=[32,32]",
    "model.block_outputs=[32,48]",
    "model.num_layers=[1,1]",
    "model.num_heads=2",
    "model.ffn_size=48",
    "run.eval_utterances=4",
    "data.max_utterances=8",
    "run.log_every=5",
)
UTTERANCES = 40


def run(command: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as its console script would be; a traceback is never what a user should see."""
    line = [sys.executable, "-m", MODULES[command], *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def settings(*extra: str) -> list[str]:
    return [word for setting in (*SMALL, *extra) for word in ("--set", setting)]


def save_llm(folder: Path) -> Path:
    """A random Llama with one token for each word of the demo grammar."""
    words = sorted(set(" ".join(slot.replace("|", " ") for slot in GRAMMAR).split()))
    numbered = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(numbered, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(numbered), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, pad_token_id=None,
    )  # fmt: skip
    with quiet_transformers():
        LlamaForCausalLM(config).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """A folder with corpus, store, both runs and their evaluations, as the demo makes them."""
    out = tmp_path_factory.mktemp("chain")
    llm = save_llm(out / "llm")
    store = out / "store"
    run("sm-pipeline", "demo-corpus", out / "corpus", "--utterances", UTTERANCES)
    extracted = run("sm-pipeline", "extract", out / "corpus/manifest.jsonl", "--store", store, "--encoder",
                    "tiny-seamless", "--llm", llm, "--json")  # fmt: skip
    (out / "extract.json").write_text(extracted.stdout)
    run("sm-train", "stage1", "--store", store, "--preset", "demo", "--out", out / "stage1",
        *settings("schedule.steps=20", "schedule.warmup=2"))  # fmt: skip
    run("sm-train", "stage2", "--store", store, "--preset", "demo", "--projector", out / "stage1", "--llm", llm,
        "--task", "asr", "--out", out / "stage2", "--set", "schedule.steps=3", "--set", "schedule.warmup=1",
        "--set", "run.log_every=1", "--set", "run.eval_utterances=2")  # fmt: skip
    run("sm-eval", "asr", out / "stage1", "--store", store, "--out", out / "nearest")
    run("sm-eval", "asr", out / "stage2", "--store", store, "--llm", llm, "--max-new-tokens", 5, "--out",
        out / "generated")  # fmt: skip
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_utterance_is_in_the_store_once(chain):
    summary = json.loads((chain / "extract.json").read_text())
    manifest = lines(chain / "corpus/manifest.jsonl")
    store = Store.open(chain / "store")
    assert summary["utterances"] == UTTERANCES == len(manifest)
    rejected = {reject.id for reject in store.rejects()}
    stored = [record.id for record in store]
    assert sorted([*stored, *rejected]) == sorted(line["id"] for line in manifest)
    assert summary["written"] == len(stored) > 0.9 * UTTERANCES
    assert summary["hours"] == pytest.approx(sum(line["duration"] for line in manifest) / 3600, rel=0.02)


def test_features_are_25_a_second_and_open_in_plain_zarr(chain):
    store = Store.open(chain / "store")
    for record in list(store)[:5]:
        assert len(record.features) == pytest.approx(25 * record.duration, abs=2)
    flat = zarr.open(chain / "store/shards/00000/features", mode="r")
    assert flat.shape == (int(store.frames.sum()), store.identity.width)


def test_the_store_says_what_made_it(chain):
    identity = json.loads((chain / "store/store.json").read_text())
    text = json.dumps(identity)
    for said in ("tiny-seamless", "encoder.layer_norm", "mms-2", "SeamlessM4TFeatureExtractor", str(chain / "llm")):
        assert said in text


def test_training_lowered_the_loss(chain):
    losses = [line["loss"] for line in lines(chain / "stage1/metrics.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]
    stage2 = [line for line in lines(chain / "stage2/metrics.jsonl") if "ce" in line]
    assert len(stage2) == 3


def test_run_folders_hold_what_the_contract_says(chain):
    for name in ("stage1", "stage2"):
        found = {path.name for path in (chain / name).iterdir()}
        assert {"config.yaml", "metrics.jsonl", "projector", "checkpoints"} <= found
        files = {path.name for path in (chain / name / "projector").iterdir()}
        assert {"config.json", "model.safetensors", "README.md"} <= files
    first, second = (Projector.from_pretrained(chain / name / "projector") for name in ("stage1", "stage2"))
    changed = [not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.parametrize("name", ["nearest", "generated"])
def test_predictions_are_of_the_test_split_alone(chain, name):
    test = {line["id"]: line["text"] for line in lines(chain / "corpus/manifest.jsonl") if line["split"] == "test"}
    predictions = lines(chain / name / "predictions.jsonl")
    assert {line["id"] for line in predictions} <= set(test)
    for line in predictions:
        assert line["reference"] == test[line["id"]]
    metrics = json.loads((chain / name / "metrics.json").read_text())
    assert metrics["utterances"] == len(predictions) > 0
    assert metrics["normalizer"] == "mms-2"
    assert metrics["wer"] >= 0


def test_score_gives_the_same_metrics_without_a_model(chain):
    before = json.loads((chain / "nearest/metrics.json").read_text())
    run("sm-eval", "score", chain / "nearest")
    after = json.loads((chain / "nearest/metrics.json").read_text())
    assert (before["wer"], before["cer"]) == (after["wer"], after["cer"])


def test_run_again_extract_does_nothing(chain):
    before = {path: path.stat().st_mtime_ns for path in (chain / "store").rglob("*") if path.is_file()}
    run("sm-pipeline", "extract", chain / "corpus/manifest.jsonl", "--store", chain / "store", "--encoder",
        "tiny-seamless", "--llm", chain / "llm")  # fmt: skip
    after = {path: path.stat().st_mtime_ns for path in (chain / "store").rglob("*") if path.is_file()}
    assert before == after


def test_a_store_of_another_encoder_is_refused_in_one_line(chain):
    refused = run("sm-pipeline", "extract", chain / "corpus/manifest.jsonl", "--store", chain / "store", "--encoder",
                  "tiny-seamless", "--layer", 1, code=2)  # fmt: skip
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "layer" in refused.stderr


def test_the_store_is_whole(chain):
    done = run("sm-pipeline", "verify", chain / "store")
    assert done.returncode == 0


def test_transcribe_in_python(chain):
    heard = SpeechMapper.from_pretrained(chain / "stage2", llm=str(chain / "llm"))
    audio = chain / "corpus" / lines(chain / "corpus/manifest.jsonl")[-1]["audio"]
    assert isinstance(heard.transcribe(audio), str)
