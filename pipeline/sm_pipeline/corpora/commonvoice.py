"""Common Voice (commonvoice.mozilla.org): read sentences, one table a split, one folder of clips a language.

    cv-corpus-17.0-2024-03-15/de/
        train.tsv  dev.tsv  test.tsv  validated.tsv  invalidated.tsv  other.tsv
            client_id  path                          sentence            up_votes  ...  locale  segment
            35d8...    common_voice_de_17298952.mp3  Hier steht "etwas.  2         ...  de
        clip_durations.tsv                           clip  duration[ms]       (from release 16)
        times.txt                                    `cv-corpus-14.0/de/clips/common_voice_de_1.mp3` = 6192
        clips/common_voice_de_17298952.mp3

PATH: a language's folder, or one above it for all languages there. Without `--split`: train, dev and test;
`--split validated` (or other, invalidated) takes that table instead: its clips are partly those of the three.
A quotation mark in the tables is part of the sentence, but where a sentence is quoted as in CSV (`"He said ""No""."`).
`times.txt` has the durations of releases 14 and 15, and may lack clips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from sm_pipeline.corpora.found import (
    NO_AUDIO,
    NO_TEXT,
    AudioFiles,
    Found,
    Skipped,
    choose,
    files,
    folders,
    split_of,
    stem_of,
)
from sm_pipeline.corpora.reading import Row, lines, table, usable
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SPLITS = ("train", "dev", "test")
TABLES = (*SPLITS, "validated", "other", "invalidated")
MILLISECONDS = "duration[ms]"
MOST_DIGITS = 9  # of milliseconds, eleven days
_TIME = re.compile(r"`?([^`]+?)`?\s*[=\t]\s*(\d+)\s*")


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    languages = language_folders(path)
    if not languages:
        if any(files(path, lambda name: name.startswith("ss-corpus") and name.endswith(".tsv"))):
            raise ManifestError(
                f"{path}: a release of Spontaneous Speech, not of read sentences; write its table as a NeMo manifest "
                "and use the kind nemo"
            )
        raise ManifestError(
            f"{path}: no folder with train.tsv (or validated.tsv) and clips/; give one like cv-corpus-17.0/de"
        )
    wanted = {folder: _tables(folder, split) for folder in languages}
    if split is not None:
        choose((name for names in wanted.values() for name in names), split, path)
    elif not any(wanted.values()):
        raise ManifestError(f"{path}: neither train.tsv, dev.tsv nor test.tsv; use --split validated")
    for folder, names in wanted.items():
        yield from _language(folder, [name for name in names if split in (None, name, split_of(name))])


def language_folders(path: Path) -> list[Path]:
    """The folders of languages at or below PATH."""
    return folders(path, 2, lambda folder: (folder / "clips").is_dir() and bool(_present(folder)))


def _present(folder: Path) -> list[str]:
    return [name for name in TABLES if (folder / f"{name}.tsv").is_file()]


def _tables(folder: Path, split: str | None) -> list[str]:
    return [name for name in _present(folder) if split is not None or name in SPLITS]


def _language(folder: Path, names: list[str]) -> Iterator[Found]:
    audio = AudioFiles()
    seconds = clip_seconds(folder)

    def clip(row: Row, name: str) -> Found:
        stem, text = stem_of(row["path"]), sentence(row)
        file = audio.find([folder / "clips"], stem)
        if not text or file is None:
            return Skipped(NO_AUDIO if text else NO_TEXT, row.where)
        return Utterance(
            id=stem,
            audio=file,
            text=text,
            duration=seconds.get(stem),
            lang=tag_or_name(row.text("locale") or folder.absolute().name),
            speaker=row.text("client_id") or None,
            split=name,
            corpus="commonvoice",
        )

    for name in names:
        rows = table(folder / f"{name}.tsv", needs=("client_id", "path", "sentence"))
        yield from usable(rows, partial(clip, name=name))


def sentence(row: Row) -> str:
    """The sentence of a row, out of the quotes that CSV puts around one with quotes in it."""
    text = row.text("sentence")
    inner = text[1:-1]
    quoted = len(text) > 3 and text[0] == text[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"').strip() if quoted else text


def clip_seconds(folder: Path) -> Mapping[str, float]:
    """Seconds of each clip by its stem, where the release says them."""
    path, older = folder / "clip_durations.tsv", folder / "times.txt"
    if path.is_file():
        rows = [row for row in table(path, needs=("clip", MILLISECONDS)) if isinstance(row, Row)]
        pairs = [(row["clip"], row[MILLISECONDS]) for row in rows]
    elif older.is_file():
        pairs = [(match[1], match[2]) for _, line in lines(older) if (match := _TIME.fullmatch(line)) is not None]
    else:
        pairs = []
    known = ((clip, int(time)) for clip, time in pairs if time.isdecimal() and len(time) <= MOST_DIGITS)
    return {stem_of(clip): time / 1000 for clip, time in known if time}
