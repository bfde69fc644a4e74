"""FLEURS: the same sentences in many languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table
from tests.speech import write_audio


def fleurs(root: Path, audio: str = "audio/") -> Path:
    for split, number in (("train", 11), ("dev", 12), ("test", 13)):
        rows = [("1304", f"{number}{who}.wav", '"Er kam."', "er kam", "e r | k a m |", "8000", "MALE") for who in "ab"]
        write_table(root / f"{split}.tsv", *rows)
        for row in rows:
            write_audio(root / audio / split / row[1], 0.5)
    return root


@pytest.mark.parametrize("audio", ["audio/", ""])
def test_fleurs(tmp_path, audio):
    summary, found = made("fleurs", fleurs(tmp_path / "de_de", audio))
    assert found["de_de-11a"] == Utterance(
        id="de_de-11a",
        audio=f"{audio}train/11a.wav",
        text='"Er kam."',
        duration=0.5,
        lang="de",
        split="train",
        corpus="fleurs",
    )
    assert {name: each.utterances for name, each in summary.splits.items()} == {"train": 2, "dev": 2, "test": 2}


def test_fleurs_of_several_languages(tmp_path):
    fleurs(tmp_path / "de_de")
    fleurs(tmp_path / "cmn_hans_cn")
    found = made("fleurs", tmp_path, split="test")[1]
    assert {each.id: each.lang for each in found.values()} == {
        "cmn_hans_cn-13a": "zh",
        "cmn_hans_cn-13b": "zh",
        "de_de-13a": "de",
        "de_de-13b": "de",
    }


def test_bad_fleurs(tmp_path):
    assert "no train.tsv" in refusal("fleurs", tmp_path)
    path = write_table(tmp_path / "de_de/train.tsv", ("1", "a.wav", "A", "a", "a", "many", "MALE"))
    assert f"1 rows: samples is not a number (first: {path}:1)" in refusal("fleurs", tmp_path)
    write_table(path, ("1", "a.wav", "A", "a", "a", "8000", "MALE"))
    assert f"no utterance of it can be used: 1 rows: no audio file (first: {path}:1)" in refusal("fleurs", tmp_path)


@pytest.mark.parametrize("place", ["", "de_de", "metadata/de_de"])
def test_fleurs_as_lhotse_downloads_it(tmp_path, place):
    fleurs(tmp_path / "de_de", "")
    (tmp_path / "metadata/de_de").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (tmp_path / f"de_de/{split}.tsv").rename(tmp_path / f"metadata/de_de/{split}.tsv")
    found = made("fleurs", tmp_path / place, tmp_path / "m.jsonl")[1]
    assert len(found) == 6
    assert found["de_de-12a"].audio == "de_de/dev/12a.wav"


def test_one_odd_row_is_counted(tmp_path):
    folder = fleurs(tmp_path / "de_de")
    path = folder / "dev.tsv"
    path.write_text(path.read_text() + "odd\trow\n")
    summary, found = made("fleurs", folder)
    assert (len(found), summary.skipped) == (6, {"another number of columns": (1, f"{path}:3")})
