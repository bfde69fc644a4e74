"""The demo corpus: disjoint splits, all voices, real audio, the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from random import Random

import pytest
import soundfile

from sm_pipeline.corpora.demo import GRAMMAR, VOICES, draw_sentence, sentences, write_demo_corpus
from sm_pipeline.corpora.espeak import SAMPLE_RATE
from sm_pipeline.manifest import read_manifest
from sm_pipeline.text import normalise
from sm_store.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "demo"
    counts = write_demo_corpus(out, utterances=40, seed=3)
    return out, counts, read_lines(out)


def read_lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_no_sentence_is_in_two_splits_or_twice():
    for seed in range(3):
        texts = Counter(sentence.text for sentence in sentences(1500, seed))
        assert len(texts) == 1500
        assert max(texts.values()) == 1


def test_every_split_has_every_voice_and_most_words():
    voices, words = defaultdict(set), defaultdict(set)
    for sentence in sentences(2400, 0):
        voices[sentence.split].add(sentence.voice.name)
        words[sentence.split].update(sentence.text.split())
    for split in ("train", "dev", "test"):
        assert voices[split] == set(VOICES)
    vocabulary = set(" ".join(slot.replace("|", " ") for slot in GRAMMAR).split())
    assert words["train"] == vocabulary
    assert words["test"] <= words["train"]
    assert len(words["test"]) > 0.9 * len(vocabulary)


def test_sizes_of_the_splits():
    sizes = Counter(sentence.split for sentence in sentences(600, 0))
    assert sizes == {"train": 528, "dev": 36, "test": 36}
    assert len(list(sentences(600, 0))) == 600


def test_sentences_are_normalised_text_of_the_grammar():
    random = Random(1)
    slots = [slot.split("|") for slot in GRAMMAR]
    for _ in range(200):
        text = draw_sentence(random)
        assert text == normalise(text)
        rest = text + " "
        for alternatives in slots:
            fitting = [words for words in alternatives if words and rest.startswith(words + " ")]
            if fitting:
                rest = rest[len(max(fitting, key=len)) + 1 :]
            else:
                assert "" in alternatives
        assert rest == ""


def test_the_command_gives_the_same_bytes_for_the_same_arguments(tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        command = [sys.executable, "-m", "sm_pipeline.cli", "demo-corpus", str(folder), "--utterances", "30"]
        subprocess.run(command, check=True, capture_output=True)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.*")) for folder in folders]
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 31
    assert {line["speaker"] for line in read_lines(folders[0])} == set(VOICES)
    for name in files[0]:
        first, *others = ((folder / name).read_bytes() for folder in folders)
        assert all(other == first for other in others), name


def test_another_seed_gives_other_sentences():
    first = {sentence.text for sentence in sentences(100, 0)}
    assert first != {sentence.text for sentence in sentences(100, 1)}


def test_the_audio_is_what_the_manifest_says(corpus):
    out, counts, lines = corpus
    assert len(lines) == 40
    assert counts["train"] + counts["dev"] + counts["test"] == 40
    seconds = 0.0
    for line in lines:
        info = soundfile.info(out / line["audio"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert line["duration"] == pytest.approx(info.frames / SAMPLE_RATE, abs=1e-4)
        seconds += info.frames / SAMPLE_RATE
    assert counts["hours"] == pytest.approx(seconds / 3600)


def test_the_manifest_is_one_that_the_pipeline_reads(corpus):
    out, _, lines = corpus
    manifest = read_manifest(out / "manifest.jsonl", None)
    assert len(manifest.select("test")) == sum(line["split"] == "test" for line in lines)


def test_bad_requests(tmp_path):
    with pytest.raises(InputError, match="at least 10"):
        write_demo_corpus(tmp_path / "small", utterances=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        write_demo_corpus(tmp_path / "file", utterances=20)
