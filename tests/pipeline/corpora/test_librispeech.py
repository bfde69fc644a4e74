"""LibriSpeech, MLS and LibriSQA: the corpora of read books."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table, write_text
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
        corpus="librispeech",
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
    assert refusal("librispeech", corpus).startswith(f"{chapter}:2: '84-121123-0000' is no utterance of chapter")
    chapter.write_bytes(b"116-288045-0000 \xff\n")
    assert refusal("librispeech", corpus).startswith(f"{chapter}:1: not UTF-8")


def mls(root: Path, suffix: str = "flac") -> Path:
    for split, speaker in (("train", "10148"), ("dev", "252"), ("test", "99")):
        name = f"{speaker}_10119_000000"
        write_table(root / split / "transcripts.txt", (name, "er öffnete die tür"), (name[:-1] + "1", " "))
        write_text(root / split / "segments.txt", f"{name}\thttp://x/y.mp3\t1.0\t1.5\n")
        settings = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
        write_audio(root / split / "audio" / speaker / "10119" / f"{name}.{suffix}", 0.5, **settings)
    return root


@pytest.mark.parametrize(("folder", "suffix"), [("mls_german", "flac"), ("mls_polish_opus", "opus")])
def test_mls(tmp_path, folder, suffix):
    summary, found = made("mls", mls(tmp_path / folder, suffix))
    assert found["10148_10119_000000"] == Utterance(
        id="10148_10119_000000",
        audio=f"train/audio/10148/10119/10148_10119_000000.{suffix}",
        text="er öffnete die tür",
        lang={"mls_german": "de", "mls_polish_opus": "pl"}[folder],
        speaker="10148",
        split="train",
        corpus="mls",
    )
    assert list(summary.splits) == ["train", "dev", "test"]
    assert summary.skipped["no text"] == (3, f"{tmp_path / folder}/train/transcripts.txt:2")


def test_mls_of_several_languages(tmp_path):
    mls(tmp_path / "mls_german")
    for each in mls(tmp_path / "mls_french").rglob("*"):
        if each.name == "transcripts.txt":
            each.write_text(each.read_text().replace("_10119_", "_20_"))
        if each.name == "10119":
            for file in each.iterdir():
                file.rename(each / file.name.replace("_10119_", "_20_"))
            each.rename(each.parent / "20")
    found = made("mls", tmp_path, split="dev")[1]
    assert {each.id: each.lang for each in found.values()} == {"252_20_000000": "fr", "252_10119_000000": "de"}


def test_bad_mls(tmp_path):
    (tmp_path / "train").mkdir()
    assert "no train/transcripts.txt" in refusal("mls", tmp_path)
    path = write_table(tmp_path / "m/train/transcripts.txt", ("10148_10119_000000", "ja"), ("a", "b", "c"))
    assert refusal("mls", tmp_path / "m").startswith(f"{path}:2: 3 columns of 2")
    write_table(path, ("10148", "ja"))
    assert refusal("mls", tmp_path / "m").startswith(f"{path}:1: '10148' is not SPEAKER_BOOK_NUMBER")


def librisqa(root: Path) -> Path:
    librispeech(root / "LibriSpeech")
    one = {"text": "HE HOPED", "duration": 0.5, "question": "What did he hope for? ", "answer": "Stew."}
    two = {"text": "HE HOPED", "duration": 0.5, "question_and_option": "What? A. Stew B. Rain", "answer": "A",
           "answer_and_analysis": "A. It says so."}  # fmt: skip
    for part, row in (("I", one), ("II", two)):
        for split, name in (("train", "84-121123-0000"), ("test", "1089-134686-0000")):
            row = row | {"speech_path": f"/mnt/LibriSpeech/x/{name}.flac"}
            text = json.dumps([row, row | {"question": "", "question_and_option": ""}])
            write_text(root / f"LibriSQA-Part{part}/LibriSQA-Part{part}-{split}.json", text)
    return root


def test_librisqa(tmp_path):
    summary, found = made("librisqa", librisqa(tmp_path))
    assert list(found) == ["I/1089-134686-0000", "I/84-121123-0000", "II/1089-134686-0000", "II/84-121123-0000"]
    assert found["I/84-121123-0000"] == Utterance(
        id="I/84-121123-0000",
        audio="LibriSpeech/train-clean-100/84/121123/84-121123-0000.flac",
        text="HE HOPED",
        duration=0.5,
        lang="en",
        speaker="84",
        split="train",
        corpus="librisqa",
        question="What did he hope for?",
        answer="Stew.",
    )
    assert found["II/1089-134686-0000"].question == "What? A. Stew B. Rain"
    assert (found["II/1089-134686-0000"].answer, found["II/1089-134686-0000"].split) == ("A", "test")
    assert summary.skipped["no question or answer"][0] == 4
    assert summary.to_json()["hours"] == pytest.approx(4 * 0.5 / 3600)
    assert len(made("librisqa", tmp_path, split="test")[1]) == 2
    assert list(made("librisqa", tmp_path, split="LibriSQA-PartII-test")[1]) == ["II/1089-134686-0000"]


def test_bad_librisqa(tmp_path):
    librispeech(tmp_path / "a/LibriSpeech")
    assert "no LibriSQA-Part*.json" in refusal("librisqa", tmp_path / "a")
    path = write_text(tmp_path / "b/LibriSQA-PartI-test.json", '[{"speech_path": "talk.wav"}]')
    assert "no LibriSpeech" in refusal("librisqa", tmp_path / "b")
    librispeech(tmp_path / "b/LibriSpeech")
    assert refusal("librisqa", tmp_path / "b").startswith(f"{path}: item 1: speech_path 'talk'")
    path.write_text('[{"speech_path": ')
    assert refusal("librisqa", tmp_path / "b").startswith(f"{path}: not JSON")
    path.write_text('[{"speech_path": "1089-134686-0000.flac", "text": "a", "question": "b", "answer": "c", '
                    '"duration": "long"}]')  # fmt: skip
    assert "duration is 'long', not a number" in refusal("librisqa", tmp_path / "b")
