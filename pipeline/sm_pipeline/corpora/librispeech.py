"""LibriSpeech (openslr.org/12): read English, upper-case transcripts, one list per chapter.

    LibriSpeech/
        train-clean-100/84/121123/84-121123.trans.txt      84-121123-0000 GO DO YOU HEAR
        train-clean-100/84/121123/84-121123-0000.flac
        dev-clean/  dev-other/  test-clean/  test-other/  train-clean-360/  train-other-500/

PATH: this folder, one above it, or a subset. `--split` is train, dev, test or a subset's own name: test is test-clean
and test-other together. The field `corpus` tells them apart (librispeech-clean, librispeech-other), so that both can be
measured from one store. The corpus does not say how long its files are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, files, split_of
from sm_pipeline.corpora.reading import lines
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

LIST = ".trans.txt"


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    lists = list(files(path, lambda name: name.endswith(LIST))) if path.is_dir() else []
    if not lists:
        raise ManifestError(f"{path}: no *{LIST} below it; give the folder that holds train-clean-100 and the like")
    audio = AudioFiles()
    chosen = set(choose(sorted({_subset(each) for each in lists}), split, path))
    for each in lists:
        if _subset(each) in chosen:
            yield from _chapter(each, audio)


def _subset(path: Path) -> str:
    """SUBSET/speaker/chapter/*.trans.txt."""
    return path.absolute().parents[2].name


def _condition(path: Path) -> str:
    """`librispeech-clean` or `librispeech-other`."""
    words = _subset(path).split("-")
    return next((f"librispeech-{word}" for word in words if word in ("clean", "other")), "librispeech")


def _chapter(path: Path, audio: AudioFiles) -> Iterator[Found]:
    chapter = path.name.removesuffix(LIST)
    for where, line in lines(path):
        name, _, text = line.partition(" ")
        if not name.startswith(f"{chapter}-"):
            yield Skipped("in the list of another chapter", where)
            continue
        file = audio.find([path.parent], name)
        if not text.strip() or file is None:
            yield Skipped(NO_AUDIO if text.strip() else NO_TEXT, where)
            continue
        yield Utterance(
            id=name,
            audio=file,
            text=text.strip(),
            lang="en",
            speaker=name.partition("-")[0],
            split=split_of(_subset(path)),
            corpus=_condition(path),
        )
