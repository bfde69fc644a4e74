"""From any corpus to a manifest: roots, links, ids, counts, and the command."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sm_pipeline.corpora import KINDS, make_manifest
from sm_pipeline.corpora.found import AudioFiles, is_chosen, split_of, stem_of
from sm_pipeline.corpora.making import build
from sm_pipeline.corpora.reading import json_rows, lines, table
from sm_pipeline.manifest import Utterance, read_manifest
from sm_store.errors import ConfigError, ManifestError
from tests.pipeline.corpora.manifests import made, write_text
from tests.pipeline.corpora.test_librispeech import librispeech
from tests.speech import write_audio, write_lines

NAME = "84/121123/84-121123-0000.flac"


def test_the_root_is_where_it_needs_no_flag_if_it_can(tmp_path):
    corpus = librispeech(tmp_path / "data/LibriSpeech")
    below = made("librispeech", corpus, corpus / "lists/m.jsonl")
    assert (below[0].audio_root, below[1]["84-121123-0000"].audio) == (corpus, f"train-clean-100/{NAME}")
    above = made("librispeech", corpus, tmp_path / "m.jsonl")
    assert (above[0].audio_root, above[1]["84-121123-0000"].audio) == (
        None,
        f"data/LibriSpeech/train-clean-100/{NAME}",
    )
    aside = made("librispeech", corpus, tmp_path / "other/m.jsonl")
    assert aside[0].audio_root == corpus
    assert aside[0].manifest.read_bytes() == below[0].manifest.read_bytes()


def test_links_out_of_the_corpus_widen_the_root(tmp_path):
    corpus = librispeech(tmp_path / "disk/LibriSpeech")
    other = tmp_path / "disk2/clean"
    (corpus / "train-clean-100").rename(write_text(other / "x", "").parent / "train-clean-100")
    (corpus / "train-clean-100").symlink_to(other / "train-clean-100")
    linked = corpus / "dev-other/116/288045/116-288045-0000.flac"
    linked.rename(tmp_path / "disk2/blob")
    linked.symlink_to(tmp_path / "disk2/blob")
    summary, found = made("librispeech", corpus, tmp_path / "lists/m.jsonl")
    assert summary.audio_root == tmp_path
    assert found["116-288045-0000"].audio == "disk2/blob"
    assert found["84-121123-0000"].audio.startswith("disk2/clean/train-clean-100/84")
    assert len(found) == 5


def test_links_in_a_circle_are_walked_once(tmp_path):
    corpus = librispeech(tmp_path)
    (corpus / "dev-other/again").symlink_to(corpus)
    summary, found = made("librispeech", corpus)
    assert len(found) == 5
    assert {reason: rows for reason, (rows, _) in summary.skipped.items()} == {"no text": 1}


def test_relative_paths_are_fine(tmp_path, monkeypatch):
    librispeech(tmp_path / "LibriSpeech")
    monkeypatch.chdir(tmp_path)
    summary = make_manifest("librispeech", Path("LibriSpeech"), Path("lists/m.jsonl"))
    assert (summary.manifest, summary.audio_root) == (tmp_path / "lists/m.jsonl", tmp_path / "LibriSpeech")


def test_the_same_corpus_gives_the_same_bytes_wherever_it_lies(tmp_path):
    first = made("librispeech", librispeech(tmp_path / "a"))[0].manifest
    second = made("librispeech", librispeech(tmp_path / "b/c"))[0].manifest
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_in_a_manifest_ends_with_its_name(tmp_path):
    good = Utterance("a", str(write_audio(tmp_path / "a.wav", 0.5)), "t")
    for bad, said in (
        ({"id": "x" * 256}, "at most 255"),
        ({"text": "\ud800"}, "mend it or take it out"),
        ({"duration": float("nan")}, "mend it or take it out"),
        ({"offset": -1.0}, "offset is -1.0"),
        ({"text": "t" * 2**20}, "longer than"),
    ):
        fields = {"id": "a", "audio": good.audio, "text": "t"} | bad
        with pytest.raises(ManifestError) as caught:
            build("x", lambda *_, fields=fields: iter([Utterance(**fields)]), tmp_path, tmp_path / "m.jsonl", None)
        assert said in str(caught.value) and str(caught.value).startswith("utterance ")
    assert not (tmp_path / "m.jsonl").exists()


def test_a_failed_attempt_leaves_the_old_manifest(tmp_path):
    corpus = librispeech(tmp_path)
    before = made("librispeech", corpus)[0].manifest.read_bytes()
    write_text(corpus / "dev-other/116/288045/116-288045.trans.txt", "nonsense\n")
    with pytest.raises(ManifestError):
        make_manifest("librispeech", corpus, corpus / "manifest.jsonl")
    assert (corpus / "manifest.jsonl").read_bytes() == before


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


def test_names_of_splits():
    names = {
        "train": ("train", "train-clean-100", "asr_train", "LibriSQA-PartI-train", "cuts_train", "Training", "tr"),
        "dev": ("dev", "dev-other", "validation", "valid", "val_manifest"),
        "test": ("test", "test-clean", "spoken_test-v1.1"),
        None: ("validated", "other", "trained", "latest", "", "manifest"),
    }
    assert {name: split_of(name) for all_of in names.values() for name in all_of} == {
        name: split for split, all_of in names.items() for name in all_of
    }
    assert is_chosen("dev-other", None) and is_chosen("dev-other", "dev") and is_chosen("dev-other", "dev-other")
    assert not is_chosen("dev-other", "dev-clean")


def test_the_best_format_does_not_depend_on_the_order_of_a_folder(tmp_path, monkeypatch):
    names = ["a.mp3", "a.flac", "a.wav"]
    for order in (names, names[::-1]):
        monkeypatch.setattr("os.listdir", lambda _, order=order: list(order))
        assert AudioFiles().find([tmp_path], "a") == str(tmp_path / "a.flac")


def test_audio_files_are_found_in_the_best_format(tmp_path):
    for name in ("a.mp3", "a.flac", "a.m4a", "b.WAV", "en.1.2-3.ogg", "c.txt"):
        write_text(tmp_path / name, "")
    audio = AudioFiles()
    for stem, name in (("a", "a.flac"), ("b", "b.WAV"), ("en.1.2-3", "en.1.2-3.ogg"), ("c", None), ("en.1", None)):
        assert audio.find([tmp_path / "nowhere", tmp_path], stem) == (name and str(tmp_path / name))
    for name, stem in (("x/a.mp3", "a"), ("a", "a"), ("en.1.2-3", "en.1.2-3"), ("C:\\x\\a.wav", "a")):
        assert stem_of(name) == stem


def test_lines_and_tables(tmp_path):
    path = write_text(tmp_path / "t.tsv", '\ufeffa\tb\r\n\r\n1\t"2\r\n')
    (row,) = table(path, needs=("a",))
    assert (row.where, dict(row.values)) == (f"{path}:3", {"a": "1", "b": '"2'})
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"x\n"))
    assert list(lines(tmp_path / "t.gz")) == [(f"{tmp_path}/t.gz:1", "x")]
    for text in ('[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}\n'):
        assert [row["a"] for row in json_rows(write_text(tmp_path / "j.json", text))] == [1, 2]
    with pytest.raises(ManifestError, match=r"j.json: item 2: a JSON int, not an object"):
        list(json_rows(write_text(tmp_path / "j.json", '[{"a": 1}, 2]')))
    with pytest.raises(ManifestError, match=r"t.tsv:1: .*keep each row on one line"):
        list(table(write_text(tmp_path / "t.tsv", "a\rb\tc\n"), needs=()))
    with pytest.raises(ManifestError, match=r"j.json:1: (not JSON|nested too deeply)"):
        list(json_rows(write_text(tmp_path / "j.json", '{"a":' * 50_000)))
    (tmp_path / "big").write_bytes(b"x" * (2**24 + 2))
    with pytest.raises(ManifestError, match="big:1: longer than"):
        list(lines(tmp_path / "big"))


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
        "without_duration": 0,
        "splits": {"train": {"utterances": 1, "hours": 1.5 / 3600}},
        "skipped": {"no text": {"rows": 1, "first": f"{path}:2"}},
    }
    assert len(read_manifest(out, tmp_path / "data").utterances) == 1
    refused = command("timit", path, out, code=2).stderr.splitlines()
    assert len(refused) == 1 and refused[0].startswith("error: timit: no such kind")
    shown = " ".join(command("--help").stdout.split())
    assert all(kind in shown for kind in KINDS)
