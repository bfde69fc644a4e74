"""Spoken-SQuAD (github.com/Chia-Hsuan-Lee/Spoken-SQuAD): questions about documents read by a synthesiser.

    Spoken-SQuAD/
        spoken_train-v1.1.json  spoken_test-v1.1.json         SQuAD's layout; `context` is what a recogniser heard
            {"data": [{"title": ..., "paragraphs": [{"context": "super bowl fifty was ...",
                "qas": [{"id": "56be4db0", "question": "Which NFL team ...?",
                         "answers": [{"answer_start": 190, "text": "denver broncos"}, ...]}]}]}]}
        train_wav/0_0_0.wav  0_0_1.wav  ...                   article_paragraph_sentence, counted from 0
        dev_wav/0_0_0.wav  ...                                belongs to spoken_test

PATH: this folder. Each question is an utterance: the whole document, its context as text, the question, and the first
of the answers. The text is what a recogniser heard, with 22.7 % of its words wrong (Lee et al. 2018): a mixture of
tasks trains no asr on it (`speechmapper.tasks.base`), but `--task asr`, stage 1 and the MSE of stage 2 take it.

Where a document is there as one file (0_0.wav), that is taken; else its sentences are joined in order, into 16 kHz FLAC
beside the manifest. Durations are those in the headers of these files. Articles and paragraphs are counted by their
position in the JSON, which keeps those that have no questions left. The noisy variants (_WER44, _WER54) have no audio
of their own here and are not read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sm_pipeline.corpora.found import (
    DECODABLE,
    NO_AUDIO,
    NO_TEXT,
    Embedded,
    Found,
    Skipped,
    choose,
    files,
    split_of,
    walk,
)
from sm_pipeline.corpora.reading import json_file
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

QUESTIONS = re.compile(r"spoken_(train|test)-v[0-9.]+\.json")
SPEECH = re.compile(rf"(\d+)_(\d+)(?:_(\d+))?\.({'|'.join(DECODABLE)})")
FOLDERS = {"train": ("train",), "test": ("test", "dev")}  # what its audio folder is named for
NO_ANSWER = "no question or answer"
OTHER_LAYOUT = "not of SQuAD's layout"
NOT_SQUAD = (KeyError, TypeError, AttributeError)  # of an entry that lacks a key, or has a value of another type

Documents = dict[tuple[int, int], list[Path]]  # the files of each document, in order


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    lists = list(files(path, lambda name: QUESTIONS.fullmatch(name) is not None)) if path.is_dir() else []
    if not lists:
        raise ManifestError(f"{path}: no spoken_train-v1.1.json or spoken_test-v1.1.json below it; give their folder")
    chosen = choose([split_of(each.name) or each.stem for each in lists], split, path)
    for each in lists:
        name = split_of(each.name) or each.stem
        if name in chosen:
            yield from _documents(each, name, _speech(path, name))


def _speech(path: Path, split: str) -> Documents:
    """The audio files of each document of a split."""
    found: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for folder, names in walk(path):
        if split_of(folder.name) not in FOLDERS[split]:
            continue
        for name in names:
            match = SPEECH.fullmatch(name)
            if match is not None:
                place = -1 if match[3] is None else int(match[3])
                found.setdefault((int(match[1]), int(match[2])), []).append((place, folder / name))
    if not found:
        folders = " or ".join(f"{name}_wav/" for name in FOLDERS[split])
        raise ManifestError(f"{path}: no {folders} with 0_0_0.wav and the like; unpack the audio there")
    return {document: _in_order(parts) for document, parts in found.items()}


def _in_order(parts: list[tuple[int, Path]]) -> list[Path]:
    parts = sorted(parts)
    whole = [path for place, path in parts if place < 0]
    return whole[:1] or [path for _, path in parts]


def _documents(path: Path, split: str, speech: Documents) -> Iterator[Found]:
    """The questions of a file; an entry of another layout is skipped, and a file of nothing else is refused."""
    fits, odd = False, None
    for found in _entries(json_file(path), path, split, speech):
        if isinstance(found, Skipped) and found.reason == OTHER_LAYOUT:
            odd = found
        else:
            fits = True
        yield found
    if odd is not None and not fits:
        raise ManifestError(f"{path}: {OTHER_LAYOUT} ({odd.where.removeprefix(f'{path}: ')}); copy the file again")


def _entries(data: Any, path: Path, split: str, speech: Documents) -> Iterator[Found]:
    for article, title in enumerate(_list(data, "data")):
        for number, paragraph in enumerate(_list(title, "paragraphs")):
            where = f"{path}: article {article}, paragraph {number}"
            yield from _questions(paragraph, split, speech.get((article, number), []), where)


def _list(entry: Any, key: str) -> list[Any]:
    """The list under a key; [None] where there is none, so that the entry is counted once as of another layout."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, list) else [None]


def _questions(paragraph: Any, split: str, parts: list[Path], where: str) -> Iterator[Found]:
    seconds = _seconds(parts)
    for number, question in enumerate(_list(paragraph, "qas")):
        try:
            found = _question(paragraph["context"].strip(), question, parts, where)
        except NOT_SQUAD:
            found = Skipped(OTHER_LAYOUT, f"{where}, question {number}")
        if isinstance(found, Skipped):
            yield found
            continue
        whole = replace(found, split=split, duration=seconds)
        yield whole if len(parts) == 1 else _joined(whole, parts, where)


def _question(text: str, question: dict[str, Any], parts: list[Path], where: str) -> Utterance | Skipped:
    answers = [answer["text"].strip() for answer in question["answers"]]
    if not text or not parts or not answers or not question["question"].strip():
        missing = NO_ANSWER if text else NO_TEXT
        return Skipped(missing if parts else NO_AUDIO, f"{where}, question {question['id']}")
    return Utterance(
        id=question["id"],
        audio=str(parts[0]),
        text=text,
        lang="en",
        corpus="spoken-squad",
        question=question["question"].strip(),
        answer=answers[0],
    )


def _seconds(parts: list[Path]) -> float | None:
    """Length of a document by the headers of its files; None where one of them cannot be read."""
    from sm_pipeline.audio import promised_seconds  # here, as in `join`

    lengths = [promised_seconds(path) for path in parts]
    return round(sum(each or 0.0 for each in lengths), 4) if all(lengths) else None


def _joined(utterance: Utterance, parts: list[Path], where: str) -> Embedded:
    document = parts[0].stem.rpartition("_")[0]
    named = replace(utterance, audio=f"{utterance.split}-{document}.flac")
    return Embedded(named, partial(join, parts), where)


def join(parts: list[Path]) -> bytes:
    """One 16 kHz mono FLAC of several files, in order.

    Raises:
        SampleError: one of them cannot be read.
    """
    import soundfile  # here, so that the command line, which lists the kinds, does not load it

    from sm_pipeline.audio import SAMPLE_RATE, read_audio

    samples = np.concatenate([read_audio(path).samples for path in parts])
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
