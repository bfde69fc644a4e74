"""Common Voice and what is built on it or like it: CoVoST 2, FLEURS, VoxPopuli."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table
from tests.speech import write_audio

HEADER = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale", "segment")
PEOPLE = ("2", "0", "", "", "", "de", "")


def commonvoice(root: Path, lang: str = "de", lengths: bool = True) -> Path:
    """Clips 0 to 4: 0 and 1 of train, 2 of dev, 3 of test; all but 4 validated, whose own sentence is blank."""
    folder = root / lang
    clips = [f"common_voice_{lang}_{number}.mp3" for number in range(5)]
    rows = [(f"speaker{number % 2}", clip, f'Satz "{number}, ', *PEOPLE) for number, clip in enumerate(clips)]
    rows[4] = ("speaker0", clips[4], "  ", *PEOPLE)
    for name, some in (("train", rows[:2]), ("dev", rows[2:3]), ("test", rows[3:4]), ("validated", rows)):
        write_table(folder / f"{name}.tsv", HEADER, *some)
    if lengths:
        write_table(folder / "clip_durations.tsv", ("clip", "duration[ms]"), *((clip, "600") for clip in clips))
    for number, clip in enumerate(clips):
        write_audio(folder / "clips" / clip, 0.6, 32_000, seed=number)
    return folder


def test_commonvoice(tmp_path):
    summary, found = made("commonvoice", commonvoice(tmp_path))
    assert found["common_voice_de_1"] == Utterance(
        id="common_voice_de_1",
        audio="clips/common_voice_de_1.mp3",
        text='Satz "1,',
        duration=0.6,
        lang="de",
        speaker="speaker1",
        split="train",
        corpus="commonvoice",
    )
    assert [each.split for each in found.values()] == ["train", "train", "dev", "test"]
    assert summary.skipped == {}
    assert summary.to_json()["splits"]["train"] == {"utterances": 2, "hours": pytest.approx(1.2 / 3600)}


def test_commonvoice_validated_is_a_table_of_its_own(tmp_path):
    folder = commonvoice(tmp_path, lengths=False)
    summary, found = made("commonvoice", folder, split="validated")
    assert {each.split for each in found.values()} == {"validated"}
    assert len(found) == 4
    assert summary.skipped == {"no text": (1, f"{folder}/validated.tsv:6")}
    assert summary.to_json()["hours"] is None
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").unlink()
    assert "use --split validated" in refusal("commonvoice", folder)


def test_commonvoice_of_several_languages(tmp_path):
    commonvoice(tmp_path / "cv-corpus-17.0", "de")
    commonvoice(tmp_path / "cv-corpus-17.0", "zh-CN")
    found = made("commonvoice", tmp_path, split="dev")[1]
    assert {each.id: each.lang for each in found.values()} == {
        "common_voice_de_2": "de",
        "common_voice_zh-CN_2": "zh-CN",
    }


def test_converted_clips_are_found(tmp_path):
    folder = commonvoice(tmp_path)
    for clip in sorted((folder / "clips").iterdir())[:4]:
        write_audio(clip.with_suffix(".wav"), 0.6)
        clip.unlink()
    found = made("commonvoice", folder)[1]
    assert {Path(each.audio).suffix for each in found.values()} == {".wav"}


def test_bad_commonvoice(tmp_path):
    (tmp_path / "clips").mkdir()
    assert "no folder with train.tsv" in refusal("commonvoice", tmp_path)
    folder = commonvoice(tmp_path / "cv")
    assert "no split 'eval'; --split can be train, dev, test, validated" in refusal("commonvoice", folder, "eval")
    write_table(folder / "train.tsv", HEADER, ("a", "b.mp3", "c"))
    assert refusal("commonvoice", folder).startswith(f"{folder}/train.tsv:2: 3 columns of 10")
    write_table(folder / "train.tsv", ("client_id", "path", "text"))
    assert refusal("commonvoice", folder).startswith(f"{folder}/train.tsv:1: no column 'sentence'")


def test_covost2_as_downloaded(tmp_path):
    commonvoice(tmp_path, "en")
    rows = [("common_voice_en_0.mp3", r"Er kam, \"sagt\" sie. ", "train"), ("common_voice_en_2.mp3", "Zwei", "dev"),
            ("common_voice_en_3.mp3", "Drei", "test"), ("common_voice_en_9.mp3", "Fort", "test"),
            ("common_voice_en_1.mp3", "Eins", "train_covost")]  # fmt: skip
    write_table(tmp_path / "covost_v2.en_de.tsv", ("path", "translation", "split"), *rows)
    write_table(tmp_path / "covost_v2.en_tr.tsv", ("path", "translation", "split"), (rows[0][0], "Geldi", "train"))
    summary, found = made("covost2", tmp_path)
    assert list(found) == [f"common_voice_en_{number}" for number in (0, 1, 2, 3)]
    assert found["common_voice_en_0"] == Utterance(
        id="common_voice_en_0",
        audio="en/clips/common_voice_en_0.mp3",
        text='Satz "0,',
        duration=0.6,
        lang="en",
        speaker="speaker0",
        split="train",
        corpus="covost2",
        translation={"de": 'Er kam, "sagt" sie.', "tr": "Geldi"},
    )
    assert summary.skipped == {"in no table of Common Voice there": (1, f"{tmp_path}/covost_v2.en_de.tsv:5")}
    assert list(made("covost2", tmp_path, split="dev")[1]) == ["common_voice_en_2"]


def test_covost2_cut_into_splits(tmp_path):
    commonvoice(tmp_path, "de", lengths=False)
    header = ("path", "sentence", "translation", "client_id")
    write_table(tmp_path / "covost_v2.de_en.tsv", ("path", "translation", "split"))
    write_table(tmp_path / "covost_v2.de_en.train.tsv", header, ("common_voice_de_0.mp3", "Ja.", "Yes.", "x"))
    write_table(tmp_path / "covost_v2.de_en.test.tsv", header, ("common_voice_de_3.mp3", "Nein.", "No.", "y"))
    found = made("covost2", tmp_path)[1]
    assert [(each.text, each.split, each.speaker, each.translation) for each in found.values()] == [
        ("Ja.", "train", "x", {"en": "Yes."}),
        ("Nein.", "test", "y", {"en": "No."}),
    ]


def test_bad_covost2(tmp_path):
    folder = commonvoice(tmp_path / "a", "en").parent
    assert "no covost_v2.SOURCE_TARGET.tsv" in refusal("covost2", folder)
    path = write_table(tmp_path / "b/covost_v2.en_de.tsv", ("path", "translation", "split"), ("x.mp3", "y"))
    assert refusal("covost2", tmp_path / "b").startswith(f"{path}:2: 2 columns of 3")
    write_table(path, ("path", "translation", "split"), ("x.mp3", "y", "dev"))
    assert "no Common Voice folder en/" in refusal("covost2", tmp_path / "b")
    write_table(path, ("path", "translation"), ("x.mp3", "y"))
    assert refusal("covost2", tmp_path / "b").startswith(f"{path}:1: no column 'split'")


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
