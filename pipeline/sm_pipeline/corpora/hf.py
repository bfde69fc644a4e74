"""Folders that Hugging Face `datasets` saved with `save_to_disk`, read without that library.

    saved/
        dataset_dict.json                       {"splits": ["train", "test"]}        (none for a single Dataset)
        train/state.json                        {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], ...}
        train/dataset_info.json                 {"features": {"audio": {"_type": "Audio"}, "text": {...}}}
        train/data-00000-of-00001.arrow         an Arrow stream; audio as {bytes, path}

Columns are known by their names (see COLUMNS), the audio also by its type. Audio that lies in the rows, which
is the usual case, is written to files beside the manifest, named by the ids.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from sm_pipeline.corpora.found import NO_AUDIO, NO_TEXT, Embedded, Found, Skipped, choose, files, split_of
from sm_pipeline.corpora.reading import OddRow, Row, json_file, usable
from sm_pipeline.languages import language_tag, tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

COLUMNS = {
    "audio": ("audio", "file", "path", "audio_path", "speech"),
    "text": (
        *("text", "sentence", "raw_transcription", "transcription", "transcript", "raw_text", "normalized_text"),
        "context",
    ),
    "id": ("id", "utt_id", "utterance_id", "segment_id", "audio_id", "key"),
    "lang": ("lang", "language", "locale", "lang_id"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "duration": ("duration", "audio_duration"),
    "question": ("question",),
    "answer": ("answer",),
    "answers": ("answers",),
    "translation": ("translation",),
    "target": ("target_lang", "target_language", "tgt_lang", "translation_lang"),
}
WHOSE_LANGUAGE = "translation in a language that is not said (the utterance is kept)"
INDICES = ("_indices_data_files", "_indices_files")
UNREADABLE = "not UTF-8, or damaged"
UNKNOWN = "audio of unknown format"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream; one cut between two batches reads well without it
MAX_NAME = 80  # characters of a file's name
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    parts = _parts(path)
    for name in choose(parts, split, path):
        yield from _dataset(parts[name], name)


def _parts(path: Path) -> dict[str, Path]:
    """The folder of each split; a single Dataset is named by the split it is of."""
    if (path / "dataset_dict.json").is_file():
        names = json_file(path / "dataset_dict.json")
        listed = names.get("splits") if isinstance(names, dict) else None
        if not isinstance(listed, list) or not all(_is_name(each) for each in listed):
            raise ManifestError(f"{path / 'dataset_dict.json'}: no list of splits; save the DatasetDict again")
        return {name: path / name for name in listed}
    if not (path / "state.json").is_file():
        if any(files(path, lambda name: name.endswith(".parquet"))):
            raise ManifestError(
                f"{path}: Parquet as on the Hub; write it with "
                f"datasets.load_dataset({str(path)!r}).save_to_disk(FOLDER) and give that folder"
            )
        raise ManifestError(f"{path}: neither dataset_dict.json nor state.json; save it with dataset.save_to_disk")
    name = _state(path).get("_split")
    return {name if isinstance(name, str) else path.absolute().name: path}


def _state(folder: Path) -> dict[str, Any]:
    state = json_file(folder / "state.json")
    if not isinstance(state, dict):
        raise ManifestError(f"{folder / 'state.json'}: not an object; save the dataset again")
    return state


def _is_name(value: object) -> bool:
    """A file in the same folder, and nothing that leads out of it."""
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and "\0" not in value


def _dataset(folder: Path, split: str) -> Iterator[Found]:
    state = _state(folder)
    if any(state.get(name) for name in INDICES):
        raise ManifestError(f"{folder}: rows are chosen by an index; use dataset.flatten_indices() and save again")
    columns: Mapping[str, Sequence[str]] | None = None
    labels = _labels(folder)
    number = 0
    for entry in state.get("_data_files") or ():
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not _is_name(name):
            raise ManifestError(f"{folder / 'state.json'}: file name {name!r:.60} is not in the folder; save it again")
        for batch in _batches(folder / str(name)):
            columns = columns or _columns(batch.schema, folder)
            for values in _rows(batch, columns):
                number += 1
                row = Row({**values, **_named(values, columns, labels)}, f"{folder}: row {number}")
                yield from usable([row], partial(_found, split=split, number=number, folder=folder))
                yield from _untold(row)


def _labels(folder: Path) -> dict[str, list[str]]:
    """Names of the classes of each column of type ClassLabel."""
    path = folder / "dataset_info.json"
    info = json_file(path) if path.is_file() else None
    features = info.get("features") if isinstance(info, dict) else None
    kinds = features.items() if isinstance(features, dict) else ()
    return {
        name: kind["names"]
        for name, kind in kinds
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list)
    }


def _named(
    values: Mapping[str, Any], columns: Mapping[str, Sequence[str]], labels: Mapping[str, list[str]]
) -> dict[str, str]:
    """The languages of a row that are numbers of classes, by name."""
    found = {}
    for field in ("lang", "target"):
        value, names = values.get(field), labels.get(columns.get(field, ("",))[0], [])
        if isinstance(value, int) and 0 <= value < len(names):
            found[field] = str(names[value])
    return found


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - len(END), 0))
            if file.read() != END:
                raise ManifestError(f"{path}: cannot be read to its end, which is missing; copy or save it again")
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            yield from stream
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"{path}: cannot be read as an Arrow stream ({reason:.100}); save it again") from error


def _columns(schema: pa.Schema, folder: Path) -> dict[str, Sequence[str]]:
    """Which column is what, by field of an utterance; of the text all that may have it, the first filled one counts."""
    found: dict[str, Sequence[str]] = {}
    for field, names in COLUMNS.items():
        present = [name for name in names if name in schema.names]
        if present:
            found[field] = present if field == "text" else present[:1]
    structs = [each.name for each in schema if _is_audio(each.type)]
    if structs and found.get("audio", ("",))[0] not in structs:
        found["audio"] = structs[:1]
    for field in ("audio", "text"):
        if field not in found:
            raise ManifestError(
                f"{folder}: no column for the {field} among {', '.join(schema.names):.120}; "
                f"rename it: dataset.rename_column(..., {field!r})"
            )
    audio = found["audio"][0]
    kind = schema.field(audio).type
    if not (_is_audio(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ManifestError(
            f"{folder}: column {audio!r} holds {kind!s:.60}, not audio; "
            "use dataset.cast_column(..., Audio()) and save again"
        )
    return found


def _is_audio(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _rows(batch: pa.RecordBatch, columns: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """The values of each row by field; of one that cannot be read, such as text that is not UTF-8, none."""
    arrays = {field: [batch.column(name) for name in names] for field, names in columns.items()}
    for index in range(batch.num_rows):
        try:
            values = {field: _first([array[index] for array in several]) for field, several in arrays.items()}
        except ValueError:  # of which Arrow's own and UnicodeDecodeError are kinds
            values = {}
        yield values


def _first(cells: Sequence[pa.Scalar]) -> Any:
    """The value of the first cell that is not blank; of the last where all are."""
    value = None
    for cell in cells:
        value = cell.as_py()
        if value is not None and not (isinstance(value, str) and not value.strip()):
            break
    return value


def _found(row: Row, split: str, number: int, folder: Path) -> Found:
    if not row.values:
        raise OddRow(UNREADABLE)
    name = row.values.get("id")
    seconds = row.seconds("duration")
    utterance = Utterance(
        id=str(name) if isinstance(name, (str, int)) and str(name).strip() else f"{split}-{number:08d}",
        audio="",
        text=row.text("text"),
        duration=None if seconds is None else round(seconds, 6),  # float32 has about as many digits
        lang=tag_or_name(row.text("lang")),
        speaker=_label(row.values.get("speaker")),
        split=split_of(split) or split,
        question=row.text("question") or None,
        answer=row.text("answer") or _answer(row.values.get("answers")),
        translation=_translation(row),
    )
    return _with_audio(utterance, row, folder) if utterance.text else Skipped(NO_TEXT, row.where)


def _with_audio(utterance: Utterance, row: Row, folder: Path) -> Found:
    audio = row.values.get("audio")
    content, path = (audio.get("bytes"), audio.get("path")) if isinstance(audio, dict) else (None, audio)
    if isinstance(content, bytes) and content:
        suffix = suffix_of(content)
        if suffix is None:
            return Skipped(UNKNOWN, row.where)
        name = file_name(f"{utterance.split}-{row.where.rpartition(' ')[2]}-{utterance.id}", suffix)
        return Embedded(replace(utterance, audio=name), lambda: content, row.where)
    if isinstance(path, str) and path.strip():
        return replace(utterance, audio=os.path.join(folder, path))
    return Skipped(NO_AUDIO, row.where)


def suffix_of(content: bytes) -> str | None:
    """The suffix that the first bytes of an audio file call for; None for what cannot be decoded."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return ".wav"
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and len(content) > 1 and content[1] & 0xE0 == 0xE0):
        return ".mp3"
    return {b"fLaC": ".flac", b"OggS": ".ogg"}.get(content[:4])


def file_name(name: str, suffix: str) -> str:
    """A file name of plain characters; what had to be changed is told apart by a hash."""
    plain = _UNSAFE.sub("_", name).lstrip(".")[:MAX_NAME]
    if plain != name:
        plain = f"{plain}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:12]}"
    return plain + suffix


def _answer(answers: object) -> str | None:
    """The first of several answers, as SQuAD has them: {"text": [...]}."""
    texts = answers.get("text") if isinstance(answers, dict) else answers
    first = texts[0] if isinstance(texts, list) and texts else None
    return first.strip() or None if isinstance(first, str) else None


def _target(row: Row) -> str | None:
    """Language of a translation that is a text by itself."""
    return language_tag(row.text("target")) if row.text("target") else None


def _untold(row: Row) -> list[Skipped]:
    """A translation that is left out, counted beside its utterance."""
    untold = isinstance(row.values.get("translation"), str) and row.text("translation") and _target(row) is None
    return [Skipped(WHOSE_LANGUAGE, row.where)] if untold else []


def _translation(row: Row) -> dict[str, str] | None:
    translation = row.values.get("translation")
    if isinstance(translation, dict):
        return _texts(translation)
    target, text = _target(row), row.text("translation")
    return {target: text} if target and text else None


def _label(value: object) -> str | None:
    return str(value) if isinstance(value, (str, int)) and str(value).strip() else None


def _texts(translation: dict[str, Any]) -> dict[str, str] | None:
    texts = {lang: text for lang, text in translation.items() if isinstance(text, str) and text}
    return {language_tag(lang) or lang: text for lang, text in texts.items()} or None
