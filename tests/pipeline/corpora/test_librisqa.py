"""LibriSQA: questions about LibriSpeech utterances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sm_pipeline.manifest import Utterance
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.pipeline.corpora.test_librispeech import librispeech


def librisqa(root: Path) -> Path:
    librispeech(root / "LibriSpeech")
    one = {"text": "HE HOPED", "duration": 0.5, "question": "What did he hope for? ", "answer": "Stew."}
    two = {"text": "HE HOPED", "duration": 0.5, "question_and_option": "What? A. Stew B. Rain", "answer": "A",
           "answer_and_analysis": "A. It says so."}  # fmt: skip
    for part, row in (("I", one), ("II", two)):
        for split, name in (("train", "84-121123-0000"), ("test", "1089-134686-0000")):
            row = row | {"speech_path": f"/mnt/LibriSpeech/x/{name}.flac"}
            text = json.dumps([row, row | {"question": "", "question_and_option": ""}])
            write_text(root / f"LibriSQA-Part{part}/LibriSQA-Part{part}-{split}.json", text)
    return root


def test_librisqa(tmp_path):
    summary, found = made("librisqa", librisqa(tmp_path))
    assert list(found) == ["I/1089-134686-0000", "I/84-121123-0000", "II/1089-134686-0000", "II/84-121123-0000"]
    assert found["I/84-121123-0000"] == Utterance(
        id="I/84-121123-0000",
        audio="LibriSpeech/train-clean-100/84/121123/84-121123-0000.flac",
        text="HE HOPED",
        duration=0.5,
        lang="en",
        speaker="84",
        split="train",
        corpus="librisqa",
        question="What did he hope for?",
        answer="Stew.",
    )
    assert found["II/1089-134686-0000"].question == "What? A. Stew B. Rain"
    assert (found["II/1089-134686-0000"].answer, found["II/1089-134686-0000"].split) == ("A", "test")
    assert summary.skipped["no question or answer"][0] == 4
    assert summary.to_json()["hours"] == pytest.approx(4 * 0.5 / 3600)
    assert len(made("librisqa", tmp_path, split="test")[1]) == 2
    assert list(made("librisqa", tmp_path, split="LibriSQA-PartII-test")[1]) == ["II/1089-134686-0000"]


def test_bad_librisqa(tmp_path):
    librispeech(tmp_path / "a/LibriSpeech")
    assert "no LibriSQA-Part*.json" in refusal("librisqa", tmp_path / "a")
    path = write_text(tmp_path / "b/LibriSQA-PartI-test.json", '[{"speech_path": "talk.wav"}]')
    assert "no LibriSpeech" in refusal("librisqa", tmp_path / "b")
    librispeech(tmp_path / "b/LibriSpeech")
    message = refusal("librisqa", tmp_path / "b")
    assert f"1 rows: speech_path is no LibriSpeech utterance (first: {path}: item 1)" in message
    path.write_text('[{"speech_path": ')
    assert refusal("librisqa", tmp_path / "b").startswith(f"{path}: not JSON")
    path.write_text('[{"speech_path": "1089-134686-0000.flac", "text": "a", "question": "b", "answer": "c", '
                    '"duration": "long"}]')  # fmt: skip
    assert f"1 rows: duration is not a number (first: {path}: item 1)" in refusal("librisqa", tmp_path / "b")
