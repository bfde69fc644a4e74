"""MLS: read books, as flac or opus."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table, write_text
from tests.speech import write_audio


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
    path = write_table(tmp_path / "m/train/transcripts.txt", ("a", "b", "c"))
    assert f"1 rows: another number of columns (first: {path}:1)" in refusal("mls", tmp_path / "m")
    write_table(path, ("10148", "ja"))
    assert f"1 rows: an id that is not SPEAKER_BOOK_NUMBER (first: {path}:1)" in refusal("mls", tmp_path / "m")
