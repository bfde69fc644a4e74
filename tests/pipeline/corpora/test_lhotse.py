"""lhotse CutSets.

data/cuts_train.jsonl.gz was written by lhotse 1.33: CutSet.from_manifests of three recordings (talk.flac of 3 s
with two supervisions, whole.wav of 1 s, stereo.wav), then trim_to_supervisions, perturb_speed, resample, mix,
pad, a source of type command, and drop_supervisions, saved with to_file.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal
from tests.speech import write_audio, write_lines

CUTS = Path(__file__).parent / "data" / "cuts_train.jsonl.gz"


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


def test_cuts_of_the_older_name_and_languages_by_name(tmp_path):
    recordings(tmp_path)
    (cut,) = (each for each in the_cuts() if each["id"] == "whole-1")
    cut = json.loads(json.dumps(cut).replace('"en"', '"English"')) | {"type": "Cut"}
    path = write_lines(tmp_path / "cuts.jsonl", [cut])
    path.write_text(path.read_text() + "{odd\n")
    summary, found = made("lhotse", path, tmp_path / "m.jsonl")
    assert [(each.id, each.lang) for each in found.values()] == [("whole-1", "en")]
    assert summary.skipped == {"not a JSON object": (1, f"{path}:2")}


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
        ({"id": "no cut"}, f"1 rows: no lhotse cut (KeyError) (first: {path}:1)"),
        (cut | {"supervisions": [7]}, f"no lhotse cut (AttributeError) (first: {path}:1)"),
        (cut | {"start": "soon"}, f"no lhotse cut (ValueError) (first: {path}:1)"),
        (cut | {"recording": None}, "1 rows: no recording: only features"),
        (cut | {"recording": cut["recording"] | {"sources": [channel]}}, "one channel of several"),
    ):
        write_lines(path, [bad])
        assert said in refusal("lhotse", path)
    whole = CUTS.read_bytes()
    (tmp_path / "cuts.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal("lhotse", tmp_path / "cuts.jsonl.gz")
