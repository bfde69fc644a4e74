"""EuroParl-ST: segments of long speeches, in pairs of languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.speech import write_audio

SPEECHES = ("en.20080924.31.3-243", "en.20080924.4.3-018")


def europarl(root: Path, suffix: str = "flac", audios: str = "audios") -> Path:
    """Two speeches of 4 s; in each split and pair three segments, the last without a translation."""
    for number, speech in enumerate(SPEECHES):
        write_text(root / "en/audios" / f"{speech}.m4a", "as published")
        if suffix != "m4a":
            write_audio(root / "en" / audios / f"{speech}.{suffix}", 4.0, seed=number)
    for target in ("de", "fr"):
        for split in ("train", "dev", "test"):
            part = root / "en" / target / split
            write_text(part / "segments.lst", f"{SPEECHES[0]} 0.0 1.32\n{SPEECHES[1]} 1.5 4.0\n{SPEECHES[1]} 0 1\n")
            write_text(part / "segments.en", "Madam President\nthe whole House\nnobody\n")
            write_text(part / f"segments.{target}", f"Frau ({target})\nDas ganze Haus \n\n")
            write_text(part / "speeches.lst", "\n".join(SPEECHES) + "\n")
    return root


def test_segments_are_cuts_of_speeches(tmp_path):
    root = europarl(tmp_path / "v1.1")
    summary, found = made("europarl-st", root)
    name = f"en-de/{SPEECHES[1]}/1.5-4.0"
    assert found[name] == Utterance(
        id=name,
        audio=f"en/audios/{SPEECHES[1]}.flac",
        text="the whole House",
        offset=1.5,
        duration=2.5,
        lang="en",
        split="dev",
        corpus="europarl-st",
        translation={"de": "Das ganze Haus"},
    )
    assert summary.utterances == 4  # each split has the same segments here: once a pair
    assert summary.skipped["no text"] == (6, f"{root}/en/de/dev/segments.lst:3")
    assert summary.skipped["there twice"][0] == 8


def test_a_pair_and_a_split(tmp_path):
    root = europarl(tmp_path / "v1.1", "wav", "audios_wav")
    summary, found = made("europarl-st", root / "en/fr", tmp_path / "m.jsonl", "test")
    assert [each.translation for each in found.values()] == [{"fr": "Frau (fr)"}, {"fr": "Das ganze Haus"}]
    assert {each.split for each in found.values()} == {"test"}
    assert next(iter(found.values())).audio == f"v1.1/en/audios_wav/{SPEECHES[0]}.wav"
    assert summary.audio_root is None


def test_audio_of_a_pair_lies_outside_its_folder(tmp_path):
    root = europarl(tmp_path / "v1.1")
    summary, found = made("europarl-st", root / "en/fr", root / "en/fr/m.jsonl", "test")
    assert summary.audio_root == root / "en/audios"
    assert next(iter(found.values())).audio == f"{SPEECHES[0]}.flac"


def test_only_m4a_says_how_to_convert(tmp_path):
    message = refusal("europarl-st", europarl(tmp_path, "m4a"))
    assert f"{tmp_path}/en/audios: only .m4a, which cannot be decoded; convert it: for f in" in message
    assert "ffmpeg" in message


def test_bad_europarl(tmp_path):
    (tmp_path / "a").mkdir()
    assert "no segments.lst" in refusal("europarl-st", tmp_path / "a")
    root = europarl(tmp_path / "v1.1")
    part = root / "en/de/dev"
    write_text(part / "segments.de", "eins\n")
    assert refusal("europarl-st", root).startswith(f"{part}/segments.de:1: ends here, and segments.lst has 3 lines")
    for times, said in (("0.0", "not SPEECH BEGIN END"), ("2 2", "a segment of no length")):
        write_text(part / "segments.lst", f"{SPEECHES[0]} {times}\n")
        write_text(part / "segments.en", "a\n")
        assert f"1 rows: {said} (first: {part}/segments.lst:1)" in refusal("europarl-st", root / "en/de", "dev")


def test_noisy_segments_are_taken_only_by_name(tmp_path):
    root = europarl(tmp_path / "v1.1")
    (root / "en/de/dev").rename(root / "en/de/train-noisy")
    for split in (None, "train"):
        found = made("europarl-st", root / "en/de", tmp_path / "m.jsonl", split)[1].values()
        assert found and "train-noisy" not in {each.split for each in found}
    noisy = made("europarl-st", root / "en/de", tmp_path / "m.jsonl", "train-noisy")[1].values()
    assert {each.split for each in noisy} == {"train-noisy"} and len(noisy) == 2


@pytest.mark.parametrize(
    "lines",
    [(f"{SPEECHES[0]} 11", f"{SPEECHES[1]} 22"), ("11", "22", "22"), ("11", "22")],
    ids=["named", "per segment", "per speech"],
)
def test_speakers(tmp_path, lines):
    root = europarl(tmp_path / "v1.1")
    write_text(root / "en/de/test/speakers.lst", "\n".join(lines) + "\n")
    found = made("europarl-st", root / "en/de", tmp_path / "m.jsonl", "test")[1]
    assert [each.speaker for each in found.values()] == ["11", "22"]


def test_a_byte_that_is_not_utf8_costs_its_segment_alone(tmp_path):
    root = europarl(tmp_path / "v1.1")
    (root / "en/de/dev/segments.de").write_bytes(b"Fr\xe4u\nDas ganze Haus \n\n")
    summary, found = made("europarl-st", root / "en/de", tmp_path / "m.jsonl", "dev")
    assert [each.text for each in found.values()] == ["the whole House"]
    assert summary.skipped["not UTF-8"][0] == 1
