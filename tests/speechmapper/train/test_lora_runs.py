"""Stage 2 with adapters of the LLM: what moves, what is saved, resumed and refused; in sweeps and several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sm_store.errors import ConfigError, IdentityMismatch, ModelError
from speechmapper.cli import app
from speechmapper.config_file import to_yaml
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.saved_projector import load_projector
from speechmapper.train.log import read_metrics
from speechmapper.train.stage2 import Stage2Request, train_stage2
from speechmapper.train.sweep import SweepRequest
from speechmapper.train.sweep_stage2 import sweep_stage2
from speechmapper.train.vary import parse_axes, stage2_variants
from tests.speechmapper.tiny import distance, stage2_config

ROOT = Path(__file__).parents[3]
LORA = {"rank": 4, "dropout": 0.2, "lr": 1e-2}
RUN = {"eval_utterances": 3, "eval_every": 1, "save_every": 1}


def train(world, stage1_run, out, resume=False, **sections) -> Path:
    config = stage2_config(**{"lora": LORA, "run": RUN, "tuning": {"sigma": 0.5}, **sections})
    train_stage2(Stage2Request(world.path, stage1_run, str(world.llm_folder), out, config, resume=resume))
    return out


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "lora" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = (load_projector(run).state_dict() for run in (one, other))
    a, b = (
        load_file(path) if path.exists() else {}
        for path in (run / "lora/adapter_model.safetensors" for run in (one, other))
    )
    return all(torch.equal(first[name], second[name]) for name in first) and (
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    )


@pytest.fixture(scope="module")
def whole(world, stage1_run, tmp_path_factory) -> Path:
    return train(world, stage1_run, tmp_path_factory.mktemp("lora") / "run")


def test_the_adapter_learns_and_the_llms_own_weights_stay(world, llm, stage1_run, tmp_path, monkeypatch, capfd):
    before = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    monkeypatch.setattr("speechmapper.train.stage2.load_llm", lambda *_: llm)
    out = train(world, stage1_run, tmp_path / "run")
    after = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in llm.model.state_dict().items()
        if ".lora_" not in name
    }
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    learned = [weight for name, weight in adapter_of(out).items() if "lora_B" in name]
    assert len(learned) == 14 and all(weight.any() for weight in learned)  # 7 matrices in each of 2 layers
    printed = capfd.readouterr().err
    assert "learns: projector, 30,048 parameters\n  learns: LoRA of the LLM, 3,712 parameters\n" in printed
    assert "19,616 parameters, in eval mode" in printed


def test_the_folder_says_what_it_is_for(whole, world):
    config = json.loads((whole / "lora" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["base_model_name_or_path"] == str(world.llm_folder) and config["task_type"] == "CAUSAL_LM"
    recorded = load_projector(whole).config.trained_for["training"]["lora"]
    assert (recorded["rank"], recorded["parameters"]) == (4, 3712)


def test_resumed_equals_uninterrupted_to_the_bit(world, stage1_run, whole, tmp_path):
    train(world, stage1_run, tmp_path / "parts", schedule={"steps": 2})
    assert not same(tmp_path / "parts", whole)
    train(world, stage1_run, tmp_path / "parts", resume=True)
    assert same(tmp_path / "parts", whole)
    pairs = [
        [line.get(key) for line in read_metrics(run) for key in ("loss", "dev_ce")]
        for run in (whole, tmp_path / "parts")
    ]
    assert pairs[0] == pairs[1]


def test_another_adapter_is_refused_on_resume_and_runs_without_one_have_none_in_their_identity(
    world, stage1_run, tmp_path
):
    out = train(world, stage1_run, tmp_path / "run", schedule={"steps": 1})
    with pytest.raises(IdentityMismatch, match=r"lora\.rank: 4 != 8"):
        train(world, stage1_run, out, resume=True, lora={**LORA, "rank": 8})
    with pytest.raises(IdentityMismatch, match="lora"):
        train(world, stage1_run, out, resume=True, lora={})
    plain = train(world, stage1_run, tmp_path / "plain", lora={}, schedule={"steps": 1})
    state = json.loads(next((plain / "checkpoints").glob("*/state.json")).read_text())
    assert "lora" not in state["identity"] and not (plain / "lora").exists()


def test_the_adapter_has_a_learning_rate_of_its_own(world, stage1_run, whole, tmp_path):
    out = train(world, stage1_run, tmp_path / "run", lora={**LORA, "lr": None}, schedule={"steps": 1})
    fast = train(world, stage1_run, tmp_path / "fast", schedule={"steps": 1})
    largest = [
        max(float(w.abs().max()) for name, w in adapter_of(run).items() if "lora_B" in name) for run in (out, fast)
    ]
    assert largest == pytest.approx([1e-3, 1e-2], rel=1e-2)  # AdamW's first step is the rate
    assert distance(out, fast) == 0


def test_a_sweep_with_and_without_adapters_is_what_each_run_is_alone(world, stage1_run, whole, tmp_path):
    base = stage2_config(lora=LORA, run=RUN, tuning={"sigma": 0.5})
    from speechmapper.config_file import to_plain

    variants = stage2_variants([("config", to_plain(base))], parse_axes(["lora.rank=0,4,2"]))
    rows = sweep_stage2(SweepRequest(world.path, tmp_path / "runs", variants, llm=str(world.llm_folder)), stage1_run)
    runs = [tmp_path / "runs" / row["run"] for row in rows]
    assert same(runs[1], whole)
    assert same(runs[0], train(world, stage1_run, tmp_path / "none", lora={}))
    assert same(runs[2], train(world, stage1_run, tmp_path / "two", lora={**LORA, "rank": 2}))
    assert read_metrics(runs[1])[-1]["dev_ce"] == read_metrics(whole)[-1]["dev_ce"]


def test_evaluation_uses_the_adapter(world, stage1_run, tmp_path):
    """Trained until what the LLM says depends on it."""
    settings = {"lora": {**LORA, "lr": 5e-2}, "schedule": {"steps": 8}, "run": {}}
    out = train(world, stage1_run, tmp_path / "run", **settings)
    asked = {"store": world.path, "llm": str(world.llm_folder), "split": "dev", "device": "cpu", "max_new_tokens": 8}
    found = predict(PredictRequest(out, tmp_path / "with", **asked))
    again = predict(PredictRequest(out, tmp_path / "again", **asked))
    without = shutil.copytree(out, tmp_path / "without")
    config = json.loads((without / "projector" / "config.json").read_text())
    del config["trained_for"]["training"]["lora"]
    (without / "projector" / "config.json").write_text(json.dumps(config))
    plain = predict(PredictRequest(without, tmp_path / "plain", **asked))
    outputs = [[line["output"] for line in lines] for lines in (found, again, plain)]
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]
    shutil.rmtree(out / "lora")
    with pytest.raises(ModelError, match=r"lora/adapter_model\.safetensors: No such file .* copy the run's folder"):
        predict(PredictRequest(out, tmp_path / "none", **asked))


def test_transcribe_uses_the_adapter_of_the_run(chain, tmp_path):
    store, llm = chain / "store", str(chain / "llm")
    config = stage2_config(lora=LORA, schedule={"steps": 1}, data={"micro_batches": 1})
    train_stage2(Stage2Request(store, chain / "stage1", llm, tmp_path / "run", config))
    audio = str(next((chain / "corpus").rglob("*.wav")))
    line = ["transcribe", audio, "--model", str(tmp_path / "run"), "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    shutil.rmtree(tmp_path / "run" / "lora")
    with pytest.raises(ModelError, match="copy the run's folder as a whole"):
        CliRunner().invoke(app, line, catch_exceptions=False)


def test_a_missing_peft_is_told_before_the_llm_is_loaded(world, stage1_run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(ConfigError, match=r'peft is not installed; run `pip install "speechmapper\[lora\]"`'):
        config = stage2_config(lora=LORA)
        train_stage2(Stage2Request(world.path, stage1_run, "no-such-llm", tmp_path / "run", config))


def test_the_adapter_of_the_run_it_starts_from_is_not_used_and_that_is_told(world, whole, tmp_path, capfd):
    train(world, whole, tmp_path / "run", lora={}, schedule={"steps": 1})
    assert "not used: the LoRA adapter that the projector was trained with before" in capfd.readouterr().err
    assert "lora" not in load_projector(tmp_path / "run").config.trained_for["training"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tuning": {"sigma": 1.0}}, r"lora\.rank 4: cross-entropy alone trains adapters"),
        ({"tuning": {"loss": "kd"}}, r"lora\.rank 4: cross-entropy alone trains adapters"),
        ({"optimizer": {"ema": 0.9}}, r"lora\.rank 4: the moving average has no adapters; set optimizer\.ema=0"),
        ({"lora": {"rank": -1}}, r"lora\.rank -1: give 0 or more"),
        ({"lora": {"rank": 2, "alpha": 0}}, r"lora\.alpha 0"),
        ({"lora": {"rank": 2, "dropout": 1.0}}, r"lora\.dropout 1\.0"),
        ({"lora": {"rank": 2, "targets": []}}, r"lora\.targets: name at least one layer"),
        ({"lora": {"rank": 2, "lr": 0.0}}, r"lora\.lr 0\.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        stage2_config(**{"lora": LORA, **sections})


def test_two_processes_train_it_as_one(world, stage1_run, tmp_path):
    config = stage2_config(
        lora={"rank": 4}, run=RUN, tuning={"sigma": 0.5}, llm={"checkpointing": True}, optimizer={"lr": 1e-4}
    )
    (tmp_path / "config.yaml").write_text(to_yaml("stage2", config))
    flags = ["stage2", "--store", world.path, "--projector", stage1_run, "--llm", world.llm_folder]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD"))}
    for processes in (1, 2):
        more = ["--config", tmp_path / "config.yaml", "--out", tmp_path / f"run{processes}", "--processes", processes]
        line = [sys.executable, "-m", "speechmapper.train.cli", *flags, *more]
        environment = {**kept, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, line)), cwd=ROOT, capture_output=True, text=True, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr
    one, two = (adapter_of(tmp_path / f"run{processes}") for processes in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert distance(tmp_path / "run1", tmp_path / "run2") < 1e-6
