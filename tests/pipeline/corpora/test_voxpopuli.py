"""VoxPopuli: as its scripts write it and as it is on the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table
from tests.speech import write_audio

NAMES = ("id", "raw_text", "normalized_text", "speaker_id", "split", "gender")


def voxpopuli(root: Path, hub: bool) -> Path:
    for split, number in (("train", 1), ("dev", 2)):
        first, second = (f"2009011{number}-0900-PLENARY-{which}-en_2009" for which in (3, 4))
        extra = ("is_gold_transcript", "accent") if hub else ()
        rows = [(first, "The next item is", "the next item is", "4328", split, "male"),
                (second, "", "madam president", "None", split, "female")]  # fmt: skip
        write_table(root / f"asr_{split}.tsv", NAMES + extra, *(row + ("True", "None")[: len(extra)] for row in rows))
        for name in (first, second):
            write_audio(root / (f"{split}/train_part_0/{name}.wav" if hub else f"2009/{name}.ogg"), 0.5)
    return root


@pytest.mark.parametrize("hub", [False, True])
def test_voxpopuli(tmp_path, hub):
    summary, found = made("voxpopuli", voxpopuli(tmp_path / "transcribed_data/en", hub).parent)
    name = "20090111-0900-PLENARY-3-en_2009"
    assert found[name] == Utterance(
        id=name,
        audio=f"en/train/train_part_0/{name}.wav" if hub else f"en/2009/{name}.ogg",
        text="The next item is",
        lang="en",
        speaker="4328",
        split="train",
        corpus="voxpopuli",
    )
    second = found["20090112-0900-PLENARY-4-en_2009"]
    assert (second.text, second.speaker, second.split) == ("madam president", None, "dev")
    assert summary.utterances == 4


def test_bad_voxpopuli(tmp_path):
    assert "no asr_train.tsv" in refusal("voxpopuli", tmp_path)
    voxpopuli(tmp_path / "en", hub=False)
    assert "no split 'test'; --split can be train, dev" in refusal("voxpopuli", tmp_path, "test")
    write_table(tmp_path / "en/asr_dev.tsv", NAMES[:3])
    assert refusal("voxpopuli", tmp_path).startswith(f"{tmp_path}/en/asr_dev.tsv:1: no column 'speaker_id'")


def test_accented_english_is_english_and_raw_audio_is_refused(tmp_path):
    found = made("voxpopuli", voxpopuli(tmp_path / "data/en_accented", hub=True))[1]
    assert {each.lang for each in found.values()} == {"en"}
    (tmp_path / "raw/raw_audios/en/2009").mkdir(parents=True)
    assert "raw_audios alone, recordings of whole sessions; cut them" in refusal("voxpopuli", tmp_path / "raw")
