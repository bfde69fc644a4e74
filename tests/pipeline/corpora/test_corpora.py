"""Every kind of corpus: what is refused, and the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sm_pipeline.corpora import KINDS, make_manifest
from sm_pipeline.manifest import read_manifest
from sm_store.errors import ConfigError, ManifestError
from tests.pipeline.corpora.manifests import write_text
from tests.speech import write_audio, write_lines


def test_no_such_kind_and_a_folder_as_out(tmp_path):
    with pytest.raises(ConfigError, match=r"timit: no such kind of corpus; use librispeech, commonvoice, .*, hf$"):
        make_manifest("timit", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(ManifestError, match=r"a folder; name the manifest"):
        make_manifest("nemo", tmp_path, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_in_one_line_what_is_not_there(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "file", "")
    write_audio(tmp_path / "sound/a.wav", 0.1)
    for path in ("empty", "file", "sound", "nowhere"):
        with pytest.raises(ManifestError) as caught:
            make_manifest(kind, tmp_path / path, tmp_path / "m.jsonl")
        assert str(caught.value).startswith(str(tmp_path / path)) and "; " in str(caught.value)
    assert not (tmp_path / "m.jsonl").exists()


def command(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sm_pipeline.cli", "manifest", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_the_command(tmp_path):
    rows = [{"audio_filepath": "a.wav", "duration": 1.5, "text": "a"}, {"audio_filepath": "a.wav", "text": ""}]
    path = write_lines(tmp_path / "data/train.json", rows)
    write_audio(tmp_path / "data/a.wav", 1.5)
    out = tmp_path / "lists/m.jsonl"
    assert command("nemo", path, out).stdout.splitlines() == [
        f"{out}: 1 utterances, 0.00 hours",
        "  train             1",
        f"skipped 1: no text (first: {path}:2)",
        f"audio lies elsewhere: give extract and plan --audio-root {tmp_path}/data",
    ]
    assert json.loads(command("nemo", path, out, "--split", "train", "--json").stdout) == {
        "kind": "nemo",
        "manifest": str(out),
        "audio_root": f"{tmp_path}/data",
        "utterances": 1,
        "hours": 1.5 / 3600,
        "too_long": 0,
        "without_duration": 0,
        "splits": {"train": {"utterances": 1, "hours": 1.5 / 3600}},
        "skipped": {"no text": {"rows": 1, "first": f"{path}:2"}},
    }
    assert len(read_manifest(out, tmp_path / "data").utterances) == 1
    refused = command("timit", path, out, code=2).stderr.splitlines()
    assert len(refused) == 1 and refused[0].startswith("error: timit: no such kind")
    shown = " ".join(command("--help").stdout.split())
    assert all(kind in shown for kind in KINDS)
