"""Common Voice (commonvoice.mozilla.org): read sentences, one table a split, one folder of clips a language.

    cv-corpus-17.0-2024-03-15/de/
        train.tsv  dev.tsv  test.tsv  validated.tsv  invalidated.tsv  other.tsv
            client_id  path                          sentence            up_votes  ...  locale  segment
            35d8...    common_voice_de_17298952.mp3  Hier steht "etwas.  2         ...  de
        clip_durations.tsv                           clip  duration[ms]       (newer releases)
        clips/common_voice_de_17298952.mp3

PATH: a language's folder, or one above it for all languages there. Without `--split`: train, dev and test;
`--split validated` (or other, invalidated) takes that table instead: its clips are partly those of the three.
A quotation mark in the tables is part of the sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, folders, split_of, stem_of
from sm_pipeline.corpora.reading import table
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SPLITS = ("train", "dev", "test")
TABLES = (*SPLITS, "validated", "other", "invalidated")
MILLISECONDS = "duration[ms]"


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    languages = language_folders(path)
    if not languages:
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
    lang = folder.absolute().name
    for name in names:
        for row in table(folder / f"{name}.tsv", needs=("client_id", "path", "sentence")):
            stem = stem_of(row["path"])
            file = audio.find([folder / "clips"], stem)
            if not row.text("sentence") or file is None:
                yield Skipped(NO_AUDIO if row.text("sentence") else NO_TEXT, row.where)
                continue
            yield Utterance(
                id=stem,
                audio=file,
                text=row.text("sentence"),
                duration=seconds.get(stem),
                lang=lang,
                speaker=row.text("client_id") or None,
                split=name,
                corpus="commonvoice",
            )


def clip_seconds(folder: Path) -> Mapping[str, float]:
    """Seconds of each clip by its stem, where the release says them."""
    path = folder / "clip_durations.tsv"
    if not path.is_file():
        return {}
    rows = table(path, needs=("clip", MILLISECONDS))
    return {stem_of(row["clip"]): (row.seconds(MILLISECONDS) or 0.0) / 1000 for row in rows}
