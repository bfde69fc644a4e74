"""Spoken-SQuAD: questions, and documents that come in sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sm_pipeline.audio import Cut, read_audio
from sm_pipeline.corpora import make_manifest
from sm_pipeline.manifest import Utterance, read_manifest
from sm_store.errors import SampleError
from tests.pipeline.corpora.manifests import made, refusal, write_text
from tests.speech import write_audio


def question(name: str, answers: tuple[str, ...] = ("denver", "broncos")) -> dict:
    found = [{"answer_start": 3, "text": answer} for answer in answers]
    return {"answers": found, "question": f"Which {name}? ", "id": name}


def squad(folder: Path, split: str, *articles: list[list[dict]]) -> Path:
    """A list of questions: articles of paragraphs of questions."""
    data = [
        {
            "title": f"T{at}",
            "paragraphs": [{"context": f" paragraph {at} {p}.", "qas": qas} for p, qas in enumerate(each)],
        }
        for at, each in enumerate(articles)
    ]
    return write_text(folder / f"spoken_{split}-v1.1.json", json.dumps({"data": data, "version": "1.1"}))


def corpus(root: Path) -> Path:
    squad(root, "train", [[question("a")], []], [[question("b"), question("c")]])
    squad(root, "test", [[question("d")]])
    write_text(root / "spoken_test-v1.1_WER54.json", "{}")
    for sentence in range(11):
        write_audio(root / f"train_wav/1_0_{sentence}.wav", 0.1 + 0.01 * sentence, seed=sentence)
    for name in ("train_wav/0_0_0", "train_wav/0_1_0", "train_wav/0_1_1", "dev_wav/0_0", "dev_wav/0_0_0"):
        write_audio(root / f"{name}.wav", 0.5)
    return root


def test_questions_about_documents(tmp_path):
    root = corpus(tmp_path / "squad")
    summary, found = made("spoken-squad", root)
    assert list(found) == ["d", "a", "b", "c"]
    assert found["a"] == Utterance(
        id="a",
        audio="train_wav/0_0_0.wav",
        text="paragraph 0 0.",
        duration=0.5,
        lang="en",
        split="train",
        corpus="spoken-squad",
        question="Which a?",
        answer="denver",
    )
    assert (found["d"].audio, found["d"].split) == ("dev_wav/0_0.wav", "test")
    assert {name: each.utterances for name, each in summary.splits.items()} == {"test": 1, "train": 3}
    assert list(made("spoken-squad", root, split="test")[1]) == ["d"]


def test_sentences_are_joined_in_order_once(tmp_path):
    root = corpus(tmp_path / "squad")
    out = tmp_path / "lists/m.jsonl"
    summary, found = made("spoken-squad", root, out, "train")
    assert summary.audio_root == tmp_path
    assert found["b"].audio == found["c"].audio == "lists/m.audio/0000/train-1_0.flac"
    joined, rate = soundfile.read(tmp_path / found["b"].audio)
    parts = [soundfile.read(root / f"train_wav/1_0_{sentence}.wav")[0] for sentence in range(11)]
    assert rate == 16_000
    assert np.array_equal(joined, np.concatenate(parts))
    assert found["b"].duration == found["c"].duration == pytest.approx(len(joined) / rate)
    before = (out.read_bytes(), (tmp_path / found["b"].audio).read_bytes())
    made("spoken-squad", root, out, "train")
    assert before == (out.read_bytes(), (tmp_path / found["b"].audio).read_bytes())


def test_what_cannot_be_asked_is_counted(tmp_path):
    root = corpus(tmp_path)
    (root / "train_wav/0_0_0.wav").unlink()
    squad(root, "test", [[question("d"), question("e", ())]])
    write_text(root / "train_wav/1_0_3.wav", "no audio")
    summary, found = made("spoken-squad", root)
    assert list(found) == ["d"]
    assert {reason: rows for reason, (rows, _) in summary.skipped.items()} == {
        "no question or answer": 1,
        "no audio file": 1,
        "audio_format": 2,
    }
    assert "article 0, paragraph 0, question a" in summary.skipped["no audio file"][1]


def test_an_odd_entry_is_skipped_and_the_others_are_used(tmp_path):
    root = corpus(tmp_path)
    entry = {"context": "c", "qas": [7, {"id": "x"}, question("d"), question("e") | {"question": 5}]}
    others = [{"title": "no paragraphs"}, 3, {"paragraphs": [None, {"qas": [question("f")]}]}]
    write_text(root / "spoken_test-v1.1.json", json.dumps({"data": [{"paragraphs": [entry]}, *others]}))
    summary, found = made("spoken-squad", root, split="test")
    assert list(found) == ["d"]
    first = f"{root / 'spoken_test-v1.1.json'}: article 0, paragraph 0, question 0"
    assert summary.skipped == {"not of SQuAD's layout": (7, first)}


def test_a_byte_that_is_not_utf8_costs_its_questions_alone(tmp_path):
    root = corpus(tmp_path)
    path = root / "spoken_train-v1.1.json"
    path.write_bytes(path.read_bytes().replace(b"paragraph 0 0.", b"paragraph \xe4."))
    summary, found = made("spoken-squad", root, split="train")
    assert list(found) == ["b", "c"]
    assert {reason: rows for reason, (rows, _) in summary.skipped.items()} == {"not UTF-8": 1}


def test_a_document_cut_short_is_noticed_when_it_is_read(tmp_path):
    root = corpus(tmp_path)
    whole = root / "train_wav/0_0_0.wav"
    whole.write_bytes(whole.read_bytes()[:-8000])
    make_manifest("spoken-squad", root, root / "m.jsonl", "train")
    first = read_manifest(root / "m.jsonl").utterances[0]
    assert (first.id, first.duration) == ("a", 0.5)
    with pytest.raises(SampleError, match="shorter_than_promised"):
        read_audio(root / first.audio, Cut(first.offset, first.duration))


def test_bad_spoken_squad(tmp_path):
    (tmp_path / "x").mkdir()
    assert "no spoken_train-v1.1.json" in refusal("spoken-squad", tmp_path / "x")
    path = squad(tmp_path / "s", "train", [[question("a")]])
    assert "no train_wav/ with 0_0_0.wav" in refusal("spoken-squad", tmp_path / "s")
    write_audio(tmp_path / "s/train_wav/0_0_0.wav", 0.5)
    for text in ('{"data": [{"title": "x"}]}', "[]", '{"data": [{"paragraphs": [{"context": "c", "qas": [7]}]}]}'):
        write_text(path, text)
        assert refusal("spoken-squad", tmp_path / "s").startswith(f"{path}: not of SQuAD's layout")
