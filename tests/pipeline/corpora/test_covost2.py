"""CoVoST 2: translations of Common Voice."""

from __future__ import annotations

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_table
from tests.pipeline.corpora.test_commonvoice import commonvoice


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
    write_table(path, ("path", "translation", "split"), ("x.mp3", "y"), ("x.mp3", "y", "dev"))
    assert "no Common Voice folder en/" in refusal("covost2", tmp_path / "b")
    write_table(path, ("path", "translation"), ("x.mp3", "y"))
    assert refusal("covost2", tmp_path / "b").startswith(f"{path}:1: no column 'split'")


def test_only_the_published_splits_are_taken(tmp_path):
    commonvoice(tmp_path, "sv-SE")
    labels = ["train", "train_covost", "dev", "test", "dev_covost", "dev_dup", "test_dup"]
    rows = [(f"common_voice_sv-SE_{number % 4}.mp3", f"T{number}", label) for number, label in enumerate(labels)]
    path = write_table(tmp_path / "covost_v2.sv-SE_zh-CN.tsv", ("path", "translation", "split"), *rows, ("odd", "row"))
    summary, found = made("covost2", tmp_path)
    assert [each.split for each in found.values()] == ["train", "train", "dev", "test"]
    assert {(each.lang, *each.translation) for each in found.values()} == {("sv", "zh")}
    assert summary.skipped == {
        "split dev_covost, not one of CoVoST 2": (1, f"{path}:6"),
        "split dev_dup, not one of CoVoST 2": (1, f"{path}:7"),
        "split test_dup, not one of CoVoST 2": (1, f"{path}:8"),
        "another number of columns": (1, f"{path}:9"),
    }
