"""The embedding error threshold: its rule on curves made by hand, its files, and the real SmolLM2's curve."""

from __future__ import annotations

import inspect
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from sm_pipeline.models.source import resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.eval.cli import app, eet
from speechmapper.eval.eet.curve import EetRequest, find_crossing, measure_eet, parse_levels
from speechmapper.eval.eet.texts import choose_texts
from speechmapper.llm_loading import load_llm
from speechmapper.measure.text import error_rates
from speechmapper.measure.threshold import read_threshold
from speechmapper.tasks import ASR, Item
from tests.speechmapper.tiny import save_llm, tokenizer

LEVELS = (0.0, 0.1, 2.5)
SENTENCES = ["The old dog sang.", "a bird slept by river", "red boat and small house", "the green bird"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(SENTENCES) + "\n\n")
    return file


@pytest.fixture(scope="module")
def measured(world, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("eet")
    return out, measure_eet(request(world, out, texts))


def request(world, out, texts, **changes) -> EetRequest:
    settings = {"levels": LEVELS, "seeds": 2, "batch": 3, "device": "cpu", **changes}
    return EetRequest(str(world.llm_folder), out, texts, **settings)


def test_the_crossing_is_interpolated_between_pass_and_fail():
    crossing = find_crossing([(0.0, 0.02), (0.05, 0.02), (0.1, 0.04), (0.2, 0.11)], 0.03)
    assert (crossing.last_passing, crossing.first_failing) == (0.05, 0.1)
    assert crossing.relative_mse == pytest.approx(0.075)


def test_a_later_level_that_passes_again_does_not_count():
    crossing = find_crossing([(0.0, 0.0), (0.1, 0.02), (0.2, 0.005), (0.3, 0.9)], 0.01)
    assert (crossing.last_passing, crossing.first_failing) == (0.0, 0.1)
    assert crossing.relative_mse == pytest.approx(0.05)


def test_better_than_without_noise_passes():
    assert find_crossing([(0.0, 0.05), (0.1, 0.02), (0.2, 0.1)], 0.06).relative_mse == pytest.approx(0.15)


def test_exactly_the_limit_passes():
    assert find_crossing([(0.0, 0.0), (0.1, 0.01), (0.2, 1.01)], 0.01).relative_mse == pytest.approx(0.1)


def test_where_nothing_fails_it_is_the_last_level():
    crossing = find_crossing([(0.0, 0.0), (0.1, 0.0)], 0.01)
    assert (crossing.relative_mse, crossing.last_passing, crossing.first_failing) == (0.1, 0.1, None)


def test_levels_are_sorted_without_duplicates():
    assert parse_levels(" 0.5,0, 1e-1,0.5") == (0.0, 0.1, 0.5)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("", "'' is not a number"),
        ("0,a", "'a' is not a number"),
        ("0,-0.1", "'-0.1' is not a number of at least 0"),
        ("0,nan", "'nan'"),
        ("0,inf", "'inf'"),
        ("0.1,0.2", "give 0 and at least one more"),
        ("0", "give 0 and at least one more"),
    ],
)
def test_bad_levels(levels, words):
    with pytest.raises(ConfigError, match=words):
        parse_levels(levels)


def test_measured_sizes_and_rates(world, measured):
    _, found = measured
    assert set(found["kinds"]) == {"gaussian", "mix"}
    spec = world.store.targets("tiny").spec
    assert (found["table_sha256"], found["table_scale"]) == (spec.table_sha256, spec.table_scale)
    for shown in found["kinds"].values():
        assert [entry["level"] for entry in shown["levels"]] == list(LEVELS)
        assert shown["levels"][0]["relative_mse"] == 0.0
        assert shown["levels"][0]["nearest_token_accuracy"] == 1.0
        assert shown["levels"][0]["wer_by_seed"] == [found["wer_without_noise"]] * 2
        assert shown["levels"][1]["relative_mse"] == pytest.approx(0.1, rel=1e-4)
        for entry in shown["levels"]:
            assert entry["mse"] == pytest.approx(entry["relative_mse"] * spec.table_scale, rel=1e-4)
            assert entry["wer"] == pytest.approx(np.mean(entry["wer_by_seed"]), rel=1e-4)
    assert found["kinds"]["gaussian"]["levels"][2]["relative_mse"] == pytest.approx(2.5, rel=1e-4)


def test_without_noise_it_is_plain_repetition(world, measured):
    """One text at a time, from its token ids."""
    _, found = measured
    llm = load_llm(resolve_model(str(world.llm_folder), "llm"), torch.device("cpu"))
    words = [sentence.lower().rstrip(".") for sentence in SENTENCES]
    outputs = []
    for text in words:
        ids = tokenizer()(text)["input_ids"]
        vectors, length = llm.embed(ids)[None], torch.tensor([len(ids)])
        outputs += llm.generate(vectors, length, [llm.prompter.write(ASR.instruction(Item()))], found["max_new_tokens"])
    assert found["wer_without_noise"] == pytest.approx(error_rates(words, outputs)["wer"], rel=1e-5)
    assert found["max_new_tokens"] == 5 + 1 + 8


def test_the_threshold_is_the_smaller_of_the_kinds_and_follows_from_the_levels(measured):
    _, found = measured
    for shown in found["kinds"].values():
        points = [(entry["relative_mse"], entry["wer"]) for entry in shown["levels"]]
        crossing = find_crossing(points, found["wer_without_noise"] + 0.01)
        assert shown["threshold"]["relative_mse"] == pytest.approx(crossing.relative_mse, rel=1e-4)
        assert shown["threshold"]["first_failing"] == crossing.first_failing
    smallest = min(shown["threshold"]["relative_mse"] for shown in found["kinds"].values())
    assert found["threshold"]["relative_mse"] == smallest
    assert found["kinds"][found["threshold"]["kind"]]["threshold"]["mse"] == found["threshold"]["mse"]


def test_the_file_holds_all_of_it_and_is_read_again(world, texts, measured):
    out, found = measured
    assert json.loads((out / "eet.json").read_text()) == found
    assert sorted(path.name for path in out.iterdir()) == ["eet.html", "eet.json"]
    threshold = read_threshold(out)
    threshold.require_table(world.store.targets("tiny").spec)
    assert (threshold.relative_mse, threshold.llm) == (found["threshold"]["relative_mse"], str(world.llm_folder))
    assert found["texts"] == {**choose_texts(9, texts).to_json(), "tokens": 4 + 5 + 5 + 3, "pads": 0}
    assert {"versions", "prompt", "normalizer", "seeds", "llm", "device"} <= set(found)
    assert "<<<speech>>>" in found["prompt"]


def test_two_runs_give_the_same_files(world, texts, measured, tmp_path):
    out, _ = measured
    measure_eet(request(world, tmp_path, texts))
    for name in ("eet.json", "eet.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_batch_size_changes_nothing(world, texts, measured, tmp_path):
    assert measure_eet(request(world, tmp_path, texts, batch=1)) == measured[1]


def test_the_command_line(world, texts, tmp_path):
    arguments = ["eet", "--llm", str(world.llm_folder), "--texts", str(texts), "--out", str(tmp_path), "--seeds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--levels", "0,1", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads((tmp_path / "eet.json").read_text())
    result = CliRunner().invoke(app, [*arguments, "--levels", "0,1"], catch_exceptions=False)
    assert "threshold: " in result.stdout and "gaussian" in result.stdout and "mix" in result.stdout


def test_a_quantised_llm_is_measured_and_recorded_so(world, texts, tmp_path):
    arguments = ["eet", "--llm", str(world.llm_folder), "--texts", str(texts), "--out", str(tmp_path), "--seeds", "1"]
    arguments += ["--levels", "0,1", "--json", "--quantize"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "8bit"], catch_exceptions=False).stdout)
    assert found["llm"]["quantize"] == "8bit"
    with pytest.raises(ConfigError, match="--quantize int3: use none, 4bit, 8bit"):
        CliRunner().invoke(app, [*arguments, "int3"], catch_exceptions=False, standalone_mode=False)


def test_the_command_lines_defaults_are_the_requests():
    flags = inspect.signature(eet).parameters
    request = EetRequest("llm", Path("out"))
    for flag, field in (("utterances", "count"), ("seeds", "seeds"), ("batch", "batch"), ("device", "device")):
        assert flags[flag].default == getattr(request, field)
    assert (len(request.levels), request.levels[0], request.levels[-1]) == (9, 0.0, 1.1)  # as --help says


def test_out_that_cannot_be_written(world, texts, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="--out"):
            measure_eet(request(world, out, texts))


def test_no_such_llm(texts, tmp_path):
    with pytest.raises(ModelError, match="--llm none: no such preset or folder"):
        measure_eet(EetRequest("none", tmp_path, texts))


def test_the_real_smollm2_repeats_exact_embeddings_and_not_noise_of_their_own_size(tmp_path):
    found = measure_eet(EetRequest("smollm2-135m", tmp_path, levels=(0.0, 1.1), seeds=1, count=8, device="cpu"))
    assert found["table_scale"] == pytest.approx(0.01838, abs=1e-5)  # method, section 5
    assert found["wer_without_noise"] <= 0.3
    for shown in found["kinds"].values():
        assert shown["levels"][1]["wer"] >= 0.7
    assert found["kinds"]["gaussian"]["levels"][1]["nearest_token_accuracy"] == 1.0


def test_a_hub_id_with_an_empty_cache_is_fetched_with_its_weights(tmp_path, monkeypatch):
    """Of a sharded checkpoint, the embedding table alone is one file; generation needs them all."""
    hub, cache = save_llm(tmp_path / "hub"), tmp_path / "cache" / "abc123"
    weights = safetensors.torch.load_file(hub / "model.safetensors")
    (hub / "model.safetensors").unlink()
    index = {}
    for number, (name, tensor) in enumerate(weights.items()):
        index[name] = f"model-{number:05d}.safetensors"
        safetensors.torch.save_file({name: tensor}, hub / index[name], {"format": "pt"})
    (hub / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    def fetch(name: str) -> str:
        cache.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(hub / name, cache / name))

    def snapshot_download(_id, allow_patterns, **_):
        for path in hub.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                fetch(path.name)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _id, name, **_: fetch(name))
    (tmp_path / "texts.txt").write_text("the dog slept\n", encoding="utf-8")
    found = measure_eet(
        EetRequest("owner/tiny", tmp_path / "out", tmp_path / "texts.txt", levels=(0.0, 1.0), seeds=1, device="cpu")
    )
    assert (found["llm"]["id"], found["llm"]["revision"]) == ("owner/tiny", "abc123")
