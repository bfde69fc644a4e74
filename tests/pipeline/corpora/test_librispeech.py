"""LibriSpeech: subsets, splits, missing files and bad lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.speech import write_audio

CHAPTERS = {"train-clean-100": ("84", "121123"), "dev-other": ("116", "288045"), "test-clean": ("1089", "134686")}


def librispeech(root: Path) -> Path:
    """Three subsets, one chapter each, with a list and two utterances; the second of test-clean has no text."""
    for number, (subset, (speaker, chapter)) in enumerate(CHAPTERS.items()):
        folder = root / subset / speaker / chapter
        name = f"{speaker}-{chapter}"
        second = "" if subset == "test-clean" else "AND WE SLEPT"
        write_text(folder / f"{name}.trans.txt", f"{name}-0000 HE HOPED THERE WOULD BE STEW\n{name}-0001 {second}\n")
        for which in (0, 1):
            write_audio(folder / f"{name}-000{which}.flac", 0.5, seed=number)
    write_text(root / "SPEAKERS.TXT", ";ID |SEX\n")
    return root


def test_librispeech(tmp_path):
    corpus = librispeech(tmp_path / "LibriSpeech")
    summary, found = made("librispeech", corpus)
    assert found["84-121123-0000"] == Utterance(
        id="84-121123-0000",
        audio="train-clean-100/84/121123/84-121123-0000.flac",
        text="HE HOPED THERE WOULD BE STEW",
        lang="en",
        speaker="84",
        split="train",
        corpus="librispeech-clean",
    )
    assert {name: each.utterances for name, each in summary.splits.items()} == {"dev": 2, "test": 1, "train": 2}
    assert list(found) == sorted(found, key=lambda name: found[name].audio)
    assert summary.audio_root is None
    where = corpus / "test-clean/1089/134686/1089-134686.trans.txt"
    assert summary.skipped == {"no text": (1, f"{where}:2")}


@pytest.mark.parametrize("split", ["dev", "dev-other"])
def test_librispeech_splits_by_either_name(tmp_path, split):
    summary, found = made("librispeech", librispeech(tmp_path), split=split)
    assert list(found) == ["116-288045-0000", "116-288045-0001"]
    assert list(summary.splits) == ["dev"]


def test_clean_and_other_are_told_apart(tmp_path):
    corpus = librispeech(tmp_path)
    name = "367-130732"
    write_text(corpus / f"test-other/367/130732/{name}.trans.txt", f"{name}-0000 LOBSTERS\n")
    write_audio(corpus / f"test-other/367/130732/{name}-0000.flac", 0.5)
    found = made("librispeech", corpus, split="test")[1]
    assert {(each.split, each.corpus) for each in found.values()} == {
        ("test", "librispeech-clean"),
        ("test", "librispeech-other"),
    }


def test_librispeech_from_above_and_from_a_subset(tmp_path, monkeypatch):
    corpus = librispeech(tmp_path / "data/LibriSpeech")
    above = made("librispeech", tmp_path / "data")[1]
    assert above["84-121123-0000"].audio == "LibriSpeech/train-clean-100/84/121123/84-121123-0000.flac"
    monkeypatch.chdir(corpus / "train-clean-100")
    assert [each.split for each in made("librispeech", Path())[1].values()] == ["train", "train"]


def test_a_missing_file_is_counted(tmp_path):
    corpus = librispeech(tmp_path)
    (corpus / "dev-other/116/288045/116-288045-0000.flac").unlink()
    summary, found = made("librispeech", corpus, split="dev")
    assert list(found) == ["116-288045-0001"]
    assert summary.skipped["no audio file"][0] == 1


def test_bad_librispeech(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no *.trans.txt below it; give the folder that holds train-clean-100" in refusal(
        "librispeech", tmp_path / "empty"
    )
    assert "no such file or folder" in refusal("librispeech", tmp_path / "nope")
    corpus = librispeech(tmp_path / "L")
    message = refusal("librispeech", corpus, "train-clean-360")
    assert "no split 'train-clean-360'; --split can be dev-other, test-clean, train-clean-100" in message
    chapter = corpus / "dev-other/116/288045/116-288045.trans.txt"
    chapter.write_text("116-288045-0000 FINE\n84-121123-0000 ASTRAY\n")
    summary, found = made("librispeech", corpus, split="dev")
    assert list(found) == ["116-288045-0000"]
    assert summary.skipped == {"in the list of another chapter": (1, f"{chapter}:2")}
    chapter.write_bytes(b"116-288045-0000 \xff\n")
    (corpus / "manifest.jsonl").unlink()
    assert list(made("librispeech", corpus)[1]) == ["1089-134686-0000", "84-121123-0000", "84-121123-0001"]
    assert "1 rows: not UTF-8 (first: utterance '116-288045-0000' of " in refusal("librispeech", corpus, "dev")
