"""Folders of `datasets`: what the library wrote, and what it could have written.

data/hf was written by datasets 5.2: a DatasetDict of train (two shards, a flac and a wav file) and validation
(an ogg and an mp3 file), saved with save_to_disk, which puts the files' bytes into the rows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from sm_pipeline.corpora.hf import file_name, suffix_of
from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal
from tests.speech import write_audio

SAVED = Path(__file__).parent / "data" / "hf"
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def saved(folder: Path, split: str | None = "train", **columns: pa.Array) -> Path:
    """A single Dataset as save_to_disk lays it out."""
    table = pa.table(columns)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split, "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_the_library_s_own(tmp_path):
    summary, found = made("hf", SAVED, tmp_path / "m.jsonl")
    assert found["1"] == Utterance(
        id="1",
        audio="m.audio/0000/train-1-1.flac",
        text="Text a.flac.",
        duration=0.4,
        lang="en",
        speaker="s1",
        split="train",
    )
    assert [(each.split, Path(each.audio).name) for each in found.values()] == [
        ("train", "train-1-1.flac"),
        ("train", "train-2-2.wav"),
        ("dev", "dev-1-3.ogg"),
        ("dev", "dev-2-4.mp3"),
    ]
    assert summary.audio_root is None
    assert list(made("hf", SAVED, tmp_path / "v.jsonl", "validation")[1]) == ["3", "4"]
    assert list(made("hf", SAVED / "train", tmp_path / "t.jsonl", "train")[1]) == ["1", "2"]


def test_the_same_bytes_again(tmp_path):
    first = made("hf", SAVED, tmp_path / "a/m.jsonl")[0].manifest
    second = made("hf", SAVED, tmp_path / "b/m.jsonl")[0].manifest
    files = [sorted(path.relative_to(each.parent) for path in each.parent.rglob("*.*")) for each in (first, second)]
    assert files[0] == files[1]
    for name in files[0]:
        if (first.parent / name).is_file():
            assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_audio_as_paths_ids_by_number_and_rows_that_are_skipped(tmp_path):
    inside = write_audio(tmp_path / "d/wavs/a.wav", 0.5)
    rows = [
        {"bytes": None, "path": str(inside)},
        {"bytes": None, "path": "wavs/a.wav"},
        {"bytes": b"nonsense", "path": "x.wav"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": str(inside)},
    ]
    texts = pa.array(["one", "two", "three", "four", "five", None])
    both = pa.array([{"de": "eins", "fr": None}] * 6, pa.struct([("de", pa.string()), ("fr", pa.string())]))
    folder = saved(tmp_path / "d", None, audio=pa.array(rows, AUDIO), text=texts, translation=both)
    summary, found = made("hf", folder, tmp_path / "m.jsonl")
    assert list(found.values()) == [
        Utterance(f"d-0000000{n}", "d/wavs/a.wav", text, split="d", translation={"de": "eins"})
        for n, text in ((1, "one"), (2, "two"))
    ]
    assert {reason: rows for reason, (rows, _) in summary.skipped.items()} == {
        "audio of unknown format": 1,
        "no audio file": 2,
        "no text": 1,
    }
    assert summary.skipped["no text"][1] == f"{folder}: row 6"


def test_string_columns_and_ids_that_are_no_file_names(tmp_path):
    sound = write_audio(tmp_path / "a.flac", 0.5).read_bytes()
    names = pa.array(["../../a b", "x/y", "x_y"])
    folder = saved(
        tmp_path / "d",
        clip=pa.array([{"bytes": sound, "path": None}] * 3, AUDIO),
        sentence=pa.array(["a", "b", "c"]),
        path=pa.array(["one", "two", "three"]),
        id=names,
    )
    found = made("hf", folder, tmp_path / "m.jsonl")[1]
    assert list(found) == names.to_pylist()
    assert len({each.audio for each in found.values()}) == 3
    assert all(Path(each.audio).parent == Path("m.audio/0000") for each in found.values())


def test_bad_folders(tmp_path):
    (tmp_path / "x").mkdir()
    assert "neither dataset_dict.json nor state.json" in refusal("hf", tmp_path / "x")
    texts = pa.array(["a"])
    arrays = saved(tmp_path / "arrays", audio=pa.array([[0.1, 0.2]]), text=texts)
    assert "holds list<item: double>, not audio" in refusal("hf", arrays).replace("element", "item")
    assert "no column for the audio among text" in refusal("hf", saved(tmp_path / "n", text=texts))
    assert "no column for the text among audio" in refusal("hf", saved(tmp_path / "t", audio=texts))
    assert "no split 'test'; --split can be train" in refusal("hf", saved(tmp_path / "s", text=texts), "test")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train/state.json", '{"_indices_data_files": [{"filename": "i.arrow"}]}', "dataset.flatten_indices()"),
        ("train/state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "is not in the folder"),
        ("train/state.json", "[]", "not an object"),
        ("train/state.json", "{", "not JSON"),
        ("train/data-00001-of-00002.arrow", "no arrow at all", "cannot be read"),
        ("dataset_dict.json", '{"splits": ["../train"]}', "no list of splits"),
    ],
)
def test_damaged_folders(tmp_path, file, text, said):
    folder = shutil.copytree(SAVED, tmp_path / "hf")
    (folder / file).write_text(text)
    assert said in refusal("hf", folder)


def test_a_truncated_shard(tmp_path):
    folder = shutil.copytree(SAVED, tmp_path / "hf")
    shard = folder / "train/data-00000-of-00002.arrow"
    whole = shard.read_bytes()
    for size in (*range(0, len(whole) - 8, 617), len(whole) - 8):
        shard.write_bytes(whole[:size])
        assert "cannot be read" in refusal("hf", folder), size


def test_what_is_no_arrow_stream(tmp_path):
    folder = shutil.copytree(SAVED, tmp_path / "hf")
    (folder / "train/data-00000-of-00002.arrow").write_bytes(b"parquet?" + b"\xff\xff\xff\xff\0\0\0\0")
    assert "cannot be read as an Arrow stream" in refusal("hf", folder)


def test_suffixes_and_names():
    assert [suffix_of(head) for head in (b"fLaC1", b"OggS", b"RIFF1234WAVE", b"ID3", b"\xff\xfb", b"<html>", b"")] == [
        ".flac", ".ogg", ".wav", ".mp3", ".mp3", None, None]  # fmt: skip
    assert file_name("train-1-a.b", ".wav") == "train-1-a.b.wav"
    odd = {file_name(name, ".wav") for name in ("é", "ü", "..", "", "a" * 300, "a" * 301, "\ud800")}
    assert len(odd) == 7
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in odd - {".wav"})


def test_blank_texts_classes_answers_and_translations(tmp_path):
    audio = write_audio(tmp_path / "a.wav", 0.5)
    folder = saved(
        tmp_path / "d",
        path=pa.array([str(audio)] * 3),
        raw_text=pa.array(["Hello.", " ", None]),
        normalized_text=pa.array(["hello", "there", ""]),
        language=pa.array([1, 0, 1]),
        question=pa.array(["Q?", "Q?", "Q?"]),
        answers=pa.array([{"text": ["one", "two"]}, {"text": []}, None]),
        translation=pa.array(["Hallo.", "da", "x"]),
        target_lang=pa.array(["German", "dialect", "de"]),
    )
    kinds = {"language": {"_type": "ClassLabel", "names": ["fr_fr", "en_us"]}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": kinds}))
    summary, found = made("hf", folder, tmp_path / "m.jsonl")
    assert [(each.text, each.lang, each.answer, each.translation) for each in found.values()] == [
        ("Hello.", "en", "one", {"de": "Hallo."}),
        ("there", "fr", None, None),
    ]
    assert {reason: rows for reason, (rows, _) in summary.skipped.items()} == {
        "translation in a language that is not said (the utterance is kept)": 1,
        "no text": 1,
    }


def test_parquet_of_the_hub_says_how_to_save_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert f"datasets.load_dataset('{tmp_path}').save_to_disk(FOLDER)" in refusal("hf", tmp_path)


def test_a_row_that_is_not_utf8_is_skipped_and_the_others_are_used(tmp_path):
    audio = str(write_audio(tmp_path / "a.wav", 0.5))
    odd = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"b"], pa.binary()).buffers())
    folder = saved(tmp_path / "d", path=pa.array([audio] * 2), text=odd, duration=pa.array([0.5, 0.5]))
    summary, found = made("hf", folder, tmp_path / "m.jsonl")
    assert [each.text for each in found.values()] == ["b"]
    assert summary.skipped == {"not UTF-8, or damaged": (1, f"{folder}: row 1")}


def test_a_duration_that_cannot_be_costs_its_row_alone(tmp_path):
    audio = str(write_audio(tmp_path / "a.wav", 0.5))
    folder = saved(
        tmp_path / "d", path=pa.array([audio] * 3), text=pa.array(["a", "b", "c"]), duration=pa.array([-2.0, 0.5, 1e9])
    )
    summary, found = made("hf", folder, tmp_path / "m.jsonl")
    assert [each.text for each in found.values()] == ["b"]
    assert summary.skipped["a value that a manifest cannot have"][0] == 2


def test_context_is_the_text_where_there_is_no_other(tmp_path):
    audio = str(write_audio(tmp_path / "a.wav", 0.5))
    columns = {"path": pa.array([audio] * 2), "context": pa.array(["the document", "another"])}
    asked = {"question": pa.array(["Who?", "When?"]), "answers": pa.array([{"text": ["he", "she"]}] * 2)}
    found = made("hf", saved(tmp_path / "d", **columns, **asked), tmp_path / "m.jsonl")[1]
    assert [(each.text, each.question, each.answer) for each in found.values()] == [
        ("the document", "Who?", "he"),
        ("another", "When?", "he"),
    ]
    both = saved(tmp_path / "both", **columns, text=pa.array(["said", " "]))
    assert [each.text for each in made("hf", both, tmp_path / "b.jsonl")[1].values()] == ["said", "another"]
