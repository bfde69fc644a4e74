"""Common Voice: splits, languages, converted clips and bad tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table
from tests.speech import write_audio

HEADER = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale", "segment")


PEOPLE = ("2", "0", "", "", "")


def commonvoice(root: Path, lang: str = "de", lengths: bool = True) -> Path:
    """Clips 0 to 4: 0 and 1 of train, 2 of dev, 3 of test; all but 4 validated, whose own sentence is blank."""
    folder = root / lang
    clips = [f"common_voice_{lang}_{number}.mp3" for number in range(5)]
    rows = [(f"speaker{number % 2}", clip, f'Satz "{number}, ', *PEOPLE, lang, "") for number, clip in enumerate(clips)]
    rows[4] = ("speaker0", clips[4], "  ", *PEOPLE, lang, "")
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
        "common_voice_zh-CN_2": "zh",
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
    summary, found = made("commonvoice", folder)
    assert [each.split for each in found.values()] == ["dev", "test"]
    assert summary.skipped == {"another number of columns": (1, f"{folder}/train.tsv:2")}
    write_table(folder / "train.tsv", ("client_id", "path", "text"))
    assert refusal("commonvoice", folder).startswith(f"{folder}/train.tsv:1: no column 'sentence'")


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ('"Er sagte ""Nein"", dann."', 'Er sagte "Nein", dann.'),
        ('"""Nein"", sagte er."', '"Nein", sagte er.'),
        ('"Ganz in Anführung."', '"Ganz in Anführung."'),
        ('Hier steht "etwas.', 'Hier steht "etwas.'),
        ('"Ja" und "Nein"', '"Ja" und "Nein"'),
        ('"', '"'),
    ],
)
def test_sentences_quoted_as_in_csv(tmp_path, cell, sentence):
    folder = commonvoice(tmp_path)
    write_table(folder / "train.tsv", HEADER, ("a", "common_voice_de_0.mp3", cell, *PEOPLE, "de", ""))
    assert made("commonvoice", folder)[1]["common_voice_de_0"].text == sentence


def test_durations_of_releases_14_and_15(tmp_path):
    folder = commonvoice(tmp_path, lengths=False)
    clips = "cv-corpus-14.0-2023-06-23/de/clips"
    lines = [
        f"`{clips}/common_voice_de_0.mp3` = 600",
        "odd line",
        f"`{clips}/common_voice_de_1.mp3` = {'9' * 5000}",
        "common_voice_de_2.mp3\t600",
    ]
    (folder / "times.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = made("commonvoice", folder)[1]
    assert [found[f"common_voice_de_{number}"].duration for number in range(3)] == [0.6, None, 0.6]


def test_the_language_is_that_of_the_row(tmp_path):
    folder = commonvoice(tmp_path)
    folder = folder.rename(tmp_path / "mine")
    assert {each.lang for each in made("commonvoice", folder)[1].values()} == {"de"}


def test_spontaneous_speech_is_named(tmp_path):
    write_table(tmp_path / "sps-corpus-1.0-de/ss-corpus-de.tsv", ("client_id", "audio_file", "transcription"))
    assert "a release of Spontaneous Speech" in refusal("commonvoice", tmp_path)
