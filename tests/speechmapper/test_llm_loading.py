"""Loading an LLM: each setting does what it says, and what cannot be loaded is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.cli import app as speechmapper_app
from speechmapper.config import LlmConfig
from speechmapper.eval.cli import app as eval_app
from speechmapper.llm_loading import check_llm, load_llm
from speechmapper.train.cli import app as train_app
from tests import speech
from tests.speechmapper.tiny import save_llm, stage2_config, tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"))


def load(folder: Path, **settings):
    return load_llm(resolve_model(str(folder), "llm"), CPU, config=LlmConfig(**settings))


@pytest.mark.parametrize(("attention", "expected"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_the_attention_is_a_choice(folder, attention, expected):
    assert load(folder, attention=attention).model.config._attn_implementation == expected


def test_an_unknown_attention_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"llm\.attention 'flash': use one of auto, sdpa"):
        stage2_config(llm={"attention": "flash"})


def test_an_llm_that_takes_no_vectors_is_refused(tmp_path):
    model = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="MambaForCausalLM keeps a state instead of keys and values"):
        load_llm(ModelSource("mine", None, tmp_path), CPU)


def test_unusable_models_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-like-it"}))
    with pytest.raises(ModelError, match="cannot be loaded as a causal LLM") as error:
        load_llm(ModelSource("mine", None, tmp_path), CPU)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="LLM dtype 'int3'"):
        load_llm(ModelSource("mine", None, tmp_path), CPU, "int3")


def test_what_the_configuration_tells_is_checked_without_weights(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    check_llm(str(tmp_path), LlmConfig(attention="eager", checkpointing=True, quantize="4bit"))
    with pytest.raises(ModelError, match=r"cannot be run with llm\.attention=flash_attention_3 \(.*install"):
        check_llm(str(tmp_path), LlmConfig(attention="flash_attention_3"))
    with pytest.raises(ModelError, match="no such preset or folder"):
        check_llm(str(tmp_path / "gone"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"its weights are quantised already; leave llm\.quantize out"):
        check_llm(str(tmp_path), LlmConfig(quantize="8bit"))
    with pytest.raises(ModelError, match="cannot be quantised again"):
        check_llm("smollm2-135m", LlmConfig(quantize="8bit"))


def test_layers_that_cannot_be_checkpointed_are_told_without_weights(tmp_path):
    config = transformers.CTRLConfig(vocab_size=64, n_embd=16, n_head=2, n_layer=1, dff=16)
    config.save_pretrained(tmp_path)
    check_llm(str(tmp_path))
    with pytest.raises(ConfigError, match=r"llm\.checkpointing: .*CTRLLMHeadModel has no layers"):
        check_llm(str(tmp_path), LlmConfig(checkpointing=True))


@pytest.mark.parametrize("command", ["stage2", "sweep stage2", "sm-eval", "sm-eval eet", "transcribe"])
def test_every_command_refuses_an_encoder_before_weights_and_audio_are_read(
    world, stage1_run, chain, tmp_path, command, monkeypatch
):
    """Its folder has no weights: reading them would be another error."""
    llm = tmp_path / "t5"
    transformers.T5Config(vocab_size=64, d_model=16).save_pretrained(llm)
    monkeypatch.setattr("speechmapper.audio_features.load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    out = ["--out", str(tmp_path / "out"), "--llm", str(llm)]
    stage2 = ["--store", str(world.path), "--projector", str(stage1_run), "--set", "data.micro_batches=1", *out]
    manifest = str(chain / "corpus" / "manifest.jsonl")
    audio = next(iter(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values()))
    run = str(chain / "stage1")
    app, arguments = {
        "stage2": (train_app, ["stage2", *stage2]),
        "sweep stage2": (train_app, ["sweep", "stage2", "--sigma", "0,0.9", *stage2]),
        "sm-eval": (eval_app, ["asr", run, "--manifest", manifest, *out]),
        "sm-eval eet": (eval_app, ["eet", *out]),
        "transcribe": (speechmapper_app, ["transcribe", audio, "--model", run, "--llm", str(llm)]),
    }[command]
    with pytest.raises(ModelError, match=f"^--llm {llm}: .*causal LLM") as error:
        CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
