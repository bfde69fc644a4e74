"""NeMo manifests: lines, folders, audio elsewhere, bad lines."""

from __future__ import annotations

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.speech import write_audio, write_lines


def test_nemo(tmp_path):
    write_audio(tmp_path / "clips/a.b.wav", 0.5)
    talk = write_audio(tmp_path / "talks/t.flac", 3.0)
    rows = [
        {"audio_filepath": "clips/a.b.wav", "duration": 0.5, "text": " so there "},
        {"audio_filepath": str(talk), "offset": 1.5, "duration": 1.0, "text": "and then", "lang": "en", "speaker": 7},
        {"audio_filepath": str(talk), "offset": 1.5, "duration": 0.5, "text": "and", "question": "q?", "answer": "a"},
        {"audio_filepath": "clips/a.b.wav", "duration": 0.5, "text": ""},
        {"audio_filepath": "s3://bucket/x.wav", "text": "far"},
        {"audio_filepath": ["clips/a.b.wav", str(talk)], "text": "both"},
        {"audio_filepath": "clips/a.b.wav", "text": "Hallo", "source_lang": "en", "target_lang": "de"},
        {"audio_filepath": "clips/a.b.wav", "duration": 0.5, "text": "so there"},
    ]
    path = write_lines(tmp_path / "dev_manifest.json", rows)
    summary, found = made("nemo", path, tmp_path / "m.jsonl")
    assert list(found.values()) == [
        Utterance("a.b", "clips/a.b.wav", "so there", duration=0.5, split="dev"),
        Utterance("t@1.5", "talks/t.flac", "and then", 1.5, 1.0, lang="en", speaker="7", split="dev"),
        Utterance("t@1.5-2", "talks/t.flac", "and", 1.5, 0.5, split="dev", question="q?", answer="a"),
    ]
    assert summary.skipped == {
        "no text": (1, f"{path}:4"),
        "audio at a URL": (1, f"{path}:5"),
        "several audio files in one row": (1, f"{path}:6"),
        "text is in another language than the speech": (1, f"{path}:7"),
        "there twice": (1, "a.b"),
    }


def test_nemo_folder_leaves_other_json_alone(tmp_path):
    for split in ("train", "test"):
        write_audio(tmp_path / f"{split}.wav", 0.5)
        write_lines(tmp_path / f"{split}.jsonl", [{"audio_filepath": f"{split}.wav", "text": split}])
    write_text(tmp_path / "config.json", '{"a":\n 1}')
    for _ in range(2):  # the second time its own manifest lies there too
        summary, found = made("nemo", tmp_path, tmp_path / "all.jsonl")
        assert [each.split for each in found.values()] == ["test", "train"]
        assert summary.audio_root is None


def test_nemo_audio_elsewhere_has_its_common_folder_as_root(tmp_path):
    write_audio(tmp_path / "data/a/x.wav", 0.5)
    write_audio(tmp_path / "data/b/x.wav", 0.5)
    rows = [{"audio_filepath": str(tmp_path / f"data/{name}/x.wav"), "text": name} for name in "ab"]
    path = write_lines(tmp_path / "lists/train.json", rows)
    summary, found = made("nemo", path, tmp_path / "out/m.jsonl")
    assert summary.audio_root == tmp_path / "data"
    assert {each.id: each.audio for each in found.values()} == {"x": "a/x.wav", "x-2": "b/x.wav"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"}', "no audio_filepath"),
        ('{"audio_filepath": ""}', "no audio_filepath"),
        ('{"audio_filepath": "a.wav"', "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"audio_filepath": "a.wav", "text": "t", "duration": "x"}', "duration is not a number"),
        ('{"audio_filepath": "b.wav", "text": "t", "shard_id": 0}', "audio in a tar: unpack the tars"),
    ],
)
def test_bad_nemo_lines_are_counted(tmp_path, line, said):
    write_audio(tmp_path / "a.wav", 0.5)
    path = write_text(tmp_path / "m.json", f'{{"audio_filepath": "a.wav", "text": "fine"}}\n\n{line}\n')
    summary, found = made("nemo", path, tmp_path / "out.jsonl")
    assert [each.text for each in found.values()] == ["fine"]
    assert summary.skipped == {said: (1, f"{path}:3")}
    path.write_text(line + "\n")
    assert f"1 rows: {said} (first: {path}:1)" in refusal("nemo", path)


def test_shards_by_one_name_and_no_answer(tmp_path):
    write_audio(tmp_path / "a.wav", 0.5)
    for number in range(3):
        row = {"audio_filepath": "a.wav", "text": f"t{number}", "lang": "German", "question": "q", "answer": "na"}
        write_lines(tmp_path / f"train_{number}.json", [row])
    found = made("nemo", tmp_path / "train__OP_0..1_CL_.json", tmp_path / "m.jsonl")[1]
    assert [(each.text, each.split, each.lang, each.answer) for each in found.values()] == [
        ("t0", "train", "de", None),
        ("t1", "train", "de", None),
    ]
    assert "no such file" in refusal("nemo", tmp_path / "train__OP_7..9_CL_.json")


def test_bad_nemo(tmp_path):
    path = write_text(tmp_path / "n/a.json", "{}\n")
    assert "no .json or .jsonl with audio_filepath" in refusal("nemo", path.parent)
    row = {"audio_filepath": "a.wav", "text": "t", "duration": -2.0}
    message = refusal("nemo", write_lines(path, [row]))
    assert "utterance 'a' of" in message and "duration is -2.0; give seconds" in message
