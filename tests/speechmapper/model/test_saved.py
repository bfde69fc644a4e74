"""A model as one folder: it loads again, alone, and says the same."""

from __future__ import annotations

import json
import shutil

import pytest

from sm_store.errors import InputError, ModelError
from speechmapper import SpeechMapper
from speechmapper.model.saved import find_model, save_model
from tests import speech

SPOKEN = speech.spoken("the old dog ran home").copy()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_saved_folder_stands_alone_and_gives_the_same_texts(chain, tmp_path, stage):
    run, llm = shutil.copytree(chain / stage, tmp_path / "run"), shutil.copytree(chain / "llm", tmp_path / "llm")
    config = run / "projector" / "config.json"
    config.write_text(config.read_text().replace(str(chain / "llm"), str(llm)))
    (run / "eval").mkdir()
    (run / "eval" / "metrics.json").write_text('{"wer": 0.25}')
    mapper = SpeechMapper.from_pretrained(run, device="cpu")
    folder = mapper.save_pretrained(tmp_path / "saved", include=["encoder", "llm"])
    text = mapper.transcribe(SPOKEN)
    moved = folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(llm)
    shutil.rmtree(run)
    again = SpeechMapper.from_pretrained(moved, device="cpu")
    assert again.transcribe(SPOKEN) == text != ""
    assert "| eval | wer | 0.25 |" in (moved / "README.md").read_text()
    assert not [path for path in moved.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    assert (moved / "tokenizer" / "tokenizer.json").is_file()
    assert set(json.loads((moved / "projector" / "config.json").read_text())["trained_for"]["tasks"]) == {
        "asr",
        "st",
        "sqa",
    }
    twice = again.save_pretrained(tmp_path / "twice")
    kept = json.loads((twice / "projector" / "config.json").read_text())["trained_for"]["target"]["llm"]
    assert kept == str(llm)  # the recorded name, not where it was found


def test_what_is_uploaded_is_the_saved_folder(chain, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repository, private, exist_ok):
            seen["private"] = private
            return f"https://hub/{repository}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["files"] = {path.name for path in folder_path.iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    assert mapper.push_to_hub("me/model", private=True, token="t") == "https://hub/me/model"
    files = {"projector", "README.md", "tokenizer"}
    assert seen == {"token": "t", "private": True, "files": files}


def test_what_cannot_be_saved_is_refused(chain, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").touch()
    with pytest.raises(InputError, match="something is there; name a new folder"):
        save_model(chain / "stage1", tmp_path / "there")
    for include in (["tokeniser"], "llm"):
        with pytest.raises(InputError, match="give a list of encoder, llm"):
            save_model(chain / "stage1", tmp_path / "new", include)
    run, llm = shutil.copytree(chain / "stage2", tmp_path / "run"), shutil.copytree(chain / "llm", tmp_path / "llm")
    config = run / "projector" / "config.json"
    config.write_text(config.read_text().replace(str(chain / "llm"), str(llm)))
    (llm / "model.safetensors").rename(llm / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only weights as safetensors are saved"):
        save_model(run, tmp_path / "new", ["llm"])
    assert not (tmp_path / "new").exists()


def test_a_model_is_found_in_a_folder_or_on_the_hub(chain, tmp_path, monkeypatch):
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(chain / "stage1")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert find_model(chain / "stage1") == chain / "stage1" == find_model("me/model@v1") == find_model("me/model")
    assert asked == [("me/model", "v1"), ("me/model", None)]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("down")))
    with pytest.raises(ModelError, match=r"me/model: no such folder, and not fetched from the Hub \(down\)"):
        find_model("me/model")
    with pytest.raises(ModelError, match="no projector"):
        find_model(tmp_path)
