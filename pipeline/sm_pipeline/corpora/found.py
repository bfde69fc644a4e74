"""What a corpus yields, and what all corpora share: splits, and the search for folders and audio files.

    for found in librispeech.utterances(Path("LibriSpeech"), "dev"):
        Utterance("84-121123-0000", "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac", "GO DO YOU HEAR", ...)
        Skipped("no text", "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt:2")

Here an utterance's `audio` is a path relative to the working directory; `make_manifest` makes it relative to the
manifest. A row that lacks text or audio, or cannot be parsed, is yielded as `Skipped`, so that it is counted; a file
that cannot be read is a ManifestError with file and line.

    split_of("train-clean-100")   "train"      split_of("asr_dev")      "dev"
    split_of("validation")        "dev"        split_of("validated")    None: a name of the corpus's own
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

DECODABLE = ("flac", "wav", "opus", "ogg", "oga", "mp3")  # best first, where a file is there in several formats
UNDECODABLE = ("m4a", "mp4", "aac", "webm", "wma", "sph")
LISTINGS = 512  # folders whose listing is kept
MAX_SHARDS = 100_000
NO_TEXT = "no text"
NO_AUDIO = "no audio file"
_SHARDS = re.compile(r"(?:_OP_|\{)(\d{1,6})\.\.(\d{1,6})(?:_CL_|\})")
_SPLITS = {
    "train": {"train", "training", "tr"},
    "dev": {"dev", "devel", "development", "valid", "validation", "val"},
    "test": {"test", "tst"},
}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that becomes no utterance.

    Attributes:
        reason: a few words, the same for all rows of the kind. where: FILE:LINE, or as close as known.
    """

    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """An utterance whose audio is not a file yet; it is written beside the manifest.

    Attributes:
        utterance: its `audio` is the file's name; utterances that share a name share the file.
        content: makes the bytes of the file; SampleError where it cannot.
        where: as of `Skipped`.
    """

    utterance: Utterance
    content: Callable[[], bytes]
    where: str


Found = Utterance | Skipped | Embedded


def split_of(name: str) -> str | None:
    """train, dev or test where a file, folder or split is named so, else None."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((split for word in words for split, names in _SPLITS.items() if word in names), None)


def is_chosen(name: str, split: str | None) -> bool:
    """Whether the corpus's split `name` is what `--split` asks for, by its own name or as train, dev, test."""
    return split is None or split in (name, split_of(name))


def choose(names: Iterable[str], split: str | None, where: Path) -> list[str]:
    """The corpus's splits that `--split` asks for, in the order given.

    Raises:
        ManifestError: none of them is.
    """
    present = list(dict.fromkeys(names))
    chosen = [name for name in present if is_chosen(name, split)]
    if not chosen:
        raise ManifestError(f"{where}: no split {split!r}; --split can be {', '.join(present) or 'left out'}")
    return chosen


def folders(path: Path, depth: int, fits: Callable[[Path], bool]) -> list[Path]:
    """Folders at or down to `depth` below `path` that fit, sorted; what lies below one that fits is not looked at."""
    if not path.is_dir():
        return []
    if fits(path):
        return [path]
    if not depth:
        return []
    below = sorted(entry.path for entry in os.scandir(path) if entry.is_dir())
    return [found for folder in below for found in folders(Path(folder), depth - 1, fits)]


def sharded(path: Path) -> list[Path]:
    """The files that NeMo's `NAME__OP_0..3_CL_.json` (or `{0..3}`) names, as far as they are there; else none."""
    match = _SHARDS.search(path.name)
    if match is None:
        return []
    first, last = int(match[1]), min(int(match[2]), int(match[1]) + MAX_SHARDS)
    names = (path.name[: match.start()] + str(number) + path.name[match.end() :] for number in range(first, last + 1))
    return [each for name in names if (each := path.with_name(name)).is_file()]


def files(path: Path, fits: Callable[[str], bool]) -> Iterator[Path]:
    """`path` itself if it is a file, else the files at or below it whose name fits, sorted by path."""
    if path.is_file():
        yield path
        return
    for folder, names in walk(path):
        yield from (folder / name for name in names if fits(name))


def walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at or below `path` with the names of its files, sorted; links are followed, a folder comes once."""
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        there = os.stat(folder)
        if (there.st_dev, there.st_ino) in seen:
            below.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        below.sort()
        yield Path(folder), sorted(names)


def stem_of(name: str) -> str:
    """The last part of a path without the suffix of an audio file (`en.2008.3-1` keeps its dots)."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, _, suffix = last.rpartition(".")
    return stem if stem and suffix.lower() in DECODABLE + UNDECODABLE else last


class AudioFiles:
    """Finds audio by folder and stem, whatever format it is kept in; a folder is listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, candidates: Sequence[Path], stem: str) -> str | None:
        """Path of `stem` in a format that can be decoded, from the first of these folders that has it."""
        for folder in candidates:
            name = self.listing(folder).get(stem)
            if name is not None:
                return os.path.join(folder, name)
        return None

    def listing(self, folder: Path) -> dict[str, str]:
        """File name by stem of all audio in a folder that can be decoded; empty where there is no such folder."""
        if folder not in self._listings:
            if len(self._listings) >= LISTINGS:
                self._listings.clear()
            self._listings[folder] = _by_stem(folder)
        return self._listings[folder]


def _by_stem(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no such folder; a NUL in its name
        return found
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in DECODABLE and (stem not in found or _rank(name) < _rank(found[stem])):
            found[stem] = name
    return found


def _rank(name: str) -> tuple[int, str]:
    return DECODABLE.index(name.rpartition(".")[2].lower()), name
