"""Lists that other toolkits write: NeMo manifests, lhotse CutSets.

data/cuts_train.jsonl.gz was written by lhotse 1.33: CutSet.from_manifests of three recordings (talk.flac of 3 s
with two supervisions, whole.wav of 1 s, stereo.wav), then trim_to_supervisions, perturb_speed, resample, mix,
pad, a source of type command, and drop_supervisions, saved with to_file.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.speech import write_audio, write_lines

CUTS = Path(__file__).parent / "data" / "cuts_train.jsonl.gz"


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
        ('{"audio_filepath": "a.wav"', "not JSON"),
        ("[1]", "a JSON list, not an object"),
        ('{"audio_filepath": "a.wav", "text": "t", "duration": "x"}', "duration is 'x', not a number"),
        ('{"audio_filepath": "a.wav", "text": "t", "shard_id": 0}', "unpack the tars"),
    ],
)
def test_bad_nemo_lines(tmp_path, line, said):
    path = write_text(tmp_path / "m.json", f'{{"audio_filepath": "a.wav", "text": "fine"}}\n\n{line}\n')
    message = refusal("nemo", path)
    assert message.startswith(f"{path}:3: ") and said in message


def test_bad_nemo(tmp_path):
    path = write_text(tmp_path / "n/a.json", "{}\n")
    assert "no .json or .jsonl with audio_filepath" in refusal("nemo", path.parent)
    row = {"audio_filepath": "a.wav", "text": "t", "duration": -2.0}
    message = refusal("nemo", write_lines(path, [row]))
    assert "utterance 'a' of" in message and "duration is -2.0; give seconds" in message


def recordings(folder: Path) -> Path:
    write_audio(folder / "lw/talk.flac", 3.0)
    write_audio(folder / "lw/whole.wav", 1.0)
    return folder


def the_cuts() -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(CUTS.read_bytes()).splitlines()]


def test_lhotse(tmp_path):
    recordings(tmp_path)
    path = tmp_path / "manifests/cuts_train.jsonl.gz"
    path.parent.mkdir()
    shutil.copy(CUTS, path)
    summary, found = made("lhotse", path, tmp_path / "m.jsonl")
    assert list(found.values()) == [
        Utterance("s1", "lw/talk.flac", "so there", 0.5, 1.0, lang="en", speaker="A", split="train"),
        Utterance("s2", "lw/talk.flac", "and then", 1.75, 1.25, lang="en", speaker="B", split="train"),
        Utterance("whole-1", "lw/whole.wav", "whole file", None, 1.0, lang="en", speaker="C", split="train"),
        Utterance("resampled", "lw/whole.wav", "whole file", None, 1.0, lang="en", speaker="C", split="train"),
    ]
    assert {reason.partition(":")[0]: rows for reason, (rows, _) in summary.skipped.items()} == {
        "a MultiCut, not a MonoCut": 1,
        "there twice": 2,  # a cut of a supervision, and the same supervision in the uncut recording
        "changed by a transform": 1,
        "a MixedCut, not a MonoCut": 2,
        "audio of type command, no file": 1,
        "no supervision": 1,
    }
    assert all("cuts.save_audios" in reason for reason in summary.skipped if "MonoCut" in reason or "type" in reason)


def test_lhotse_folder_and_split(tmp_path):
    recordings(tmp_path)
    cuts = the_cuts()
    write_lines(tmp_path / "cuts_train.jsonl", cuts[:1])
    write_lines(tmp_path / "libri_cuts_dev-clean.jsonl", cuts[1:2])
    write_lines(tmp_path / "recordings.jsonl", [cuts[1]["recording"]])
    assert {each.id: each.split for each in made("lhotse", tmp_path)[1].values()} == {
        "s1": "train",
        "s2": "train",
        "whole-1": "dev",
    }
    assert list(made("lhotse", tmp_path, split="dev")[1]) == ["whole-1"]


def test_bad_lhotse(tmp_path):
    (tmp_path / "x").mkdir()
    assert "no cuts*.jsonl" in refusal("lhotse", tmp_path / "x")
    cut = the_cuts()[0]
    channel = {**cut["recording"]["sources"][0], "channels": [0, 1]}
    path = tmp_path / "cuts.jsonl"
    for bad, said in (
        ({"id": "no cut"}, f"{path}:1: no lhotse cut"),
        (cut | {"supervisions": [7]}, f"{path}:1: no lhotse cut"),
        (cut | {"start": "soon"}, f"{path}:1: no lhotse cut"),
        (cut | {"recording": None}, "1 rows: no recording: only features"),
        (cut | {"recording": cut["recording"] | {"sources": [channel]}}, "one channel of several"),
    ):
        write_lines(path, [bad])
        assert said in refusal("lhotse", path)
    whole = CUTS.read_bytes()
    (tmp_path / "cuts.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal("lhotse", tmp_path / "cuts.jsonl.gz")
