r"""CoVoST 2 (github.com/facebookresearch/covost): translations of Common Voice clips.

    covost/
        covost_v2.en_de.tsv                     as downloaded: path  translation  split
            common_voice_en_1.mp3<tab>Er kam.<tab>train       (train, train_covost, dev, test; others are skipped)
        covost_v2.en_de.train.tsv  .dev.tsv  .test.tsv        or as its get_covost_splits.py leaves it:
            path  sentence  translation  client_id
        en/validated.tsv  en/clips/*.mp3        the Common Voice folder of the spoken language

PATH: a folder with both in it. Several target languages of one spoken language give one utterance with
several translations. In these tables \" stands for ".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sm_pipeline.corpora.commonvoice import TABLES, clip_seconds, language_folders, sentence
from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, AudioFiles, Found, Skipped, choose, files, stem_of
from sm_pipeline.corpora.reading import Row, table
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

NAME = re.compile(r"covost_v2\.([A-Za-z-]+)_([A-Za-z-]+)(?:\.(train|dev|test))?\.tsv")
SPLITS = ("train", "dev", "test")
LABELS = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}  # the others repeat clips
NO_SENTENCE = "in no table of Common Voice there"
_ESCAPED = re.compile(r"\\(.)")


@dataclass(slots=True)
class _Clip:
    """What the tables say of one clip, gathered over target languages."""

    split: str
    where: str
    sentence: str = ""
    speaker: str | None = None
    translation: dict[str, str] = field(default_factory=dict)


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    tables = _tables(path)
    if not tables:
        raise ManifestError(f"{path}: no covost_v2.SOURCE_TARGET.tsv below it; put it beside the Common Voice folder")
    for source in sorted({names[0] for names in tables.values()}):
        clips: dict[str, _Clip] = {}
        for each, names in tables.items():
            if names[0] == source:
                yield from _read(each, names, clips)
        chosen = choose(sorted({clip.split for clip in clips.values()}), split, path)
        yield from _language(_speech(path, source), source, clips, chosen)


def _tables(path: Path) -> dict[Path, tuple[str, str, str | None]]:
    """Source, target and split of each table; a table of all splits is left out where there is one per split."""
    names = {}
    for each in files(path, lambda name: NAME.fullmatch(name) is not None) if path.is_dir() else ():
        match = NAME.fullmatch(each.name)
        if match is not None:
            names[each] = (match[1], match[2], match[3])
    split = {(source, target) for source, target, part in names.values() if part}
    return {each: key for each, key in names.items() if key[2] or key[:2] not in split}


def _read(path: Path, names: tuple[str, str, str | None], clips: dict[str, _Clip]) -> Iterator[Skipped]:
    """Gather what a table says of its clips; yields the rows that are left out."""
    _, target, part = names
    for row in table(path, needs=("path", "translation", *(() if part else ("split",)))):
        if isinstance(row, Skipped):
            yield row
            continue
        label = part or LABELS.get(row["split"])
        if label is None:
            yield Skipped(f"split {row['split']:.30}, not one of CoVoST 2", row.where)
            continue
        clip = clips.setdefault(stem_of(row["path"]), _Clip(label, row.where))
        clip.translation[tag_or_name(target) or target] = _plain(row, "translation")
        clip.sentence = clip.sentence or _plain(row, "sentence")
        clip.speaker = clip.speaker or row.text("client_id") or None


def _plain(row: Row, name: str) -> str:
    return _ESCAPED.sub(r"\1", row.text(name)).strip()


def _speech(path: Path, source: str) -> Path:
    """The Common Voice folder of the spoken language."""
    found = language_folders(path)
    named = [folder for folder in found if folder.absolute().name == source] or [
        folder for folder in found if tag_or_name(folder.absolute().name) == tag_or_name(source)
    ]
    if not (named or len(found) == 1):
        raise ManifestError(f"{path}: no Common Voice folder {source}/ with clips/; put it (or a link) in there")
    return (named or found)[0]


def _language(speech: Path, source: str, clips: dict[str, _Clip], chosen: list[str]) -> Iterator[Found]:
    _complete(speech, clips)
    audio, seconds = AudioFiles(), clip_seconds(speech)
    for stem, clip in sorted(clips.items(), key=lambda item: (_order(item[1].split), item[0])):
        if clip.split not in chosen:
            continue
        file = audio.find([speech / "clips"], stem)
        translation = {target: text for target, text in sorted(clip.translation.items()) if text}
        if not clip.sentence or file is None or not translation:
            missing = NO_SENTENCE if not clip.sentence else NO_AUDIO
            yield Skipped(missing if translation else NO_TEXT, clip.where)
            continue
        yield Utterance(
            id=stem,
            audio=file,
            text=clip.sentence,
            duration=seconds.get(stem),
            lang=tag_or_name(source),
            speaker=clip.speaker,
            split=clip.split,
            corpus="covost2",
            translation=translation,
        )


def _complete(speech: Path, clips: dict[str, _Clip]) -> None:
    """Sentences and speakers from Common Voice's own tables, where CoVoST's have none."""
    for name in TABLES:
        each = speech / f"{name}.tsv"
        if not each.is_file() or all(clip.sentence for clip in clips.values()):
            continue
        for row in table(each, needs=("client_id", "path", "sentence")):
            clip = clips.get(stem_of(row["path"])) if isinstance(row, Row) else None
            if isinstance(row, Row) and clip is not None and not clip.sentence:
                clip.sentence, clip.speaker = sentence(row), row.text("client_id") or None


def _order(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
