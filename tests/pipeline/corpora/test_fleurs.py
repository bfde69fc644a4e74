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
        "cmn_hans_cn-13a": "cmn",
        "cmn_hans_cn-13b": "cmn",
        "de_de-13a": "de",
        "de_de-13b": "de",
    }


def test_bad_fleurs(tmp_path):
    assert "no train.tsv" in refusal("fleurs", tmp_path)
    path = write_table(tmp_path / "de_de/train.tsv", ("1", "a.wav", "A", "a", "a", "many", "MALE"))
    assert refusal("fleurs", tmp_path).startswith(f"{path}:1: samples is 'many', not a number")
    write_table(path, ("1", "a.wav", "A", "a", "a", "8000", "MALE"))
    assert f"no utterance of it can be used: 1 rows: no audio file (first: {path}:1)" in refusal("fleurs", tmp_path)
