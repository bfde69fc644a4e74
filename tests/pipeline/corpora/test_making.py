"""From any corpus to a manifest: roots, links, ids and counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sm_pipeline import console
from sm_pipeline.corpora import make_manifest
from sm_pipeline.corpora.making import build
from sm_pipeline.manifest import Utterance, read_manifest
from sm_store.errors import ManifestError
from tests.pipeline.corpora.manifests import made, write_text
from tests.pipeline.corpora.test_librispeech import librispeech
from tests.speech import write_audio

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


IMPOSSIBLE = [
    ({"id": "x" * 256}, "a value that a manifest cannot have", "at most 255"),
    ({"id": ["a"]}, "a value that a manifest cannot have", "not a string"),
    ({"text": "\ud800"}, "not UTF-8", "correct it or remove it"),
    ({"duration": float("nan")}, "a value that a manifest cannot have", "correct it or remove it"),
    ({"duration": -2.0}, "a value that a manifest cannot have", "duration is -2.0; give seconds"),
    ({"offset": -1.0}, "a value that a manifest cannot have", "offset is -1.0"),
    ({"text": "t" * 2**20}, "a value that a manifest cannot have", "longer than"),
    ({"audio": "a\0b/c.wav"}, "a value that a manifest cannot have", "a\\x00b"),
]


@pytest.mark.parametrize(("bad", "reason", "said"), IMPOSSIBLE)
def test_what_cannot_be_in_a_manifest_is_skipped_with_its_name(tmp_path, bad, reason, said):
    good = Utterance("a", str(write_audio(tmp_path / "a.wav", 0.5)), "t")
    odd = replace(good, **bad)
    with pytest.raises(ManifestError) as caught:
        build("x", lambda *_: iter([odd]), tmp_path, tmp_path / "m.jsonl", None)
    assert said in str(caught.value) and f"1 rows: {reason} (first: " in str(caught.value)
    assert not (tmp_path / "m.jsonl").exists()
    others = [replace(good, id=name) for name in ("b", "c")]
    summary = build("x", lambda *_: iter([others[0], odd, others[1], odd]), tmp_path, tmp_path / "m.jsonl", None)
    assert [each.id for each in read_manifest(tmp_path / "m.jsonl").utterances] == ["b", "c"]
    assert summary.skipped[reason][0] == 2 and said in summary.skipped[reason][1]


def test_a_number_may_make_an_id_too_long(tmp_path):
    rows = [Utterance("x" * 255, str(write_audio(tmp_path / f"{name}.wav", 0.5)), "t") for name in "ab"]
    summary = build("x", lambda *_: iter(rows), tmp_path, tmp_path / "m.jsonl", None)
    assert (summary.utterances, sum(rows for rows, _ in summary.skipped.values())) == (1, 1)


def test_what_extract_will_reject_as_too_long_is_counted(tmp_path):
    audio = str(write_audio(tmp_path / "a.wav", 0.5))
    rows = [Utterance(f"u{seconds}", audio, "t", duration=seconds) for seconds in (60.0, 60.5, 71.25, None)]
    summary = build("x", lambda *_: iter(rows), tmp_path, tmp_path / "m.jsonl", None)
    assert summary.to_json()["too_long"] == 2
    assert "2 are longer than 60 s: extract rejects them, unless its --max-seconds is higher" in summary.in_words()
    assert "(the longest has 71.2 s)" in summary.in_words()


def test_progress_is_shown_while_rows_are_read_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "FIRST_LINE_AFTER", 0.0)
    corpus = librispeech(tmp_path)
    make_manifest("librispeech", corpus, corpus / "m.jsonl")
    out, err = capsys.readouterr()
    assert out == "" and "reading librispeech: 1 rows\n" in err and "writing m.jsonl: 1/5 utterances (20%)\n" in err


def test_a_failed_attempt_leaves_the_old_manifest(tmp_path):
    corpus = librispeech(tmp_path)
    before = made("librispeech", corpus)[0].manifest.read_bytes()
    (corpus / "dev-other/116/288045/116-288045.trans.txt").write_bytes(b"x" * (2**24 + 1))
    with pytest.raises(ManifestError):
        make_manifest("librispeech", corpus, corpus / "manifest.jsonl")
    assert (corpus / "manifest.jsonl").read_bytes() == before
