"""Reads tables and lists of corpora line by line; errors name the line.

for row in table(Path("de/train.tsv"), needs=("path", "sentence")):
    row.where           "de/train.tsv:2"
    row["sentence"]     'Er sagte: "Nein'        a quotation mark means nothing in these tables

.gz files are unpacked on the way.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sm_pipeline.corpora.found import Found, Skipped
from sm_store.errors import ManifestError

MAX_LINE_BYTES = 2**24
ODD_COLUMNS = "another number of columns"
TORN = "not a row of a table"
NO_OBJECT = "not a JSON object"
MAX_JSON_BYTES = 2**30


class OddRow(Exception):
    """Why a row cannot be used, in a few words; `usable` counts it as skipped."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values by name, and FILE:LINE."""

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def text(self, *names: str) -> str:
        """The first of these that is a string and not blank, without outer white space; "" where none is."""
        values = (self.values.get(name) for name in names)
        return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")

    def seconds(self, name: str) -> float | None:
        """A number, or None where it is absent.

        Raises:
            OddRow: something else.
        """
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            seconds = math.nan
        if math.isfinite(seconds):
            return seconds
        raise OddRow(f"{name} is not a number")


def usable(rows: Iterable[Row | Skipped], use: Callable[[Row], Found]) -> Iterator[Found]:
    """What `use` makes of each row; one that is odd is skipped with its reason, whatever the others are."""
    for row in rows:
        if isinstance(row, Skipped):
            yield row
            continue
        try:
            yield use(row)
        except OddRow as odd:
            yield Skipped(str(odd), row.where)


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """FILE:LINE and text of each line that is not blank, line ends removed.

    A byte that is not UTF-8 becomes half a surrogate pair: an utterance with such a text is skipped and counted where
    it becomes a line of the manifest.

    Raises:
        ManifestError: a file that cannot be read, a line that is too long.
    """
    number = 0
    try:
        with _open(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    raise ManifestError(f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes; is it the right file?")
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
                if text.strip():
                    yield f"{path}:{number}", text
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ManifestError(f"{path}:{number + 1}: cannot be read ({reason}); copy the file again") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def table(path: Path, needs: Sequence[str], header: Sequence[str] = ()) -> Iterator[Row | Skipped]:
    """Rows of a tab-separated table without quoting; one with another number of columns, or torn, is skipped.

    Args:
        needs: columns that must be there.
        header: names of the columns where the file has no line of names.

    Raises:
        ManifestError: a column that is missing.
    """
    names = list(header)
    for where, text in lines(path):
        try:
            cells = next(csv.reader([text], delimiter="\t", quoting=csv.QUOTE_NONE))
        except csv.Error as error:  # a line end inside a row, or one cell that fills a book
            if names:
                yield Skipped(TORN, where)
                continue
            raise ManifestError(f"{where}: {error}; keep each row on one line, columns apart by tabs") from error
        if not names:
            names = cells
            missing = [name for name in needs if name not in names]
            if missing:
                raise ManifestError(f"{where}: no column {missing[0]!r}; the columns are {', '.join(names):.200}")
        elif len(cells) != len(names):
            yield Skipped(ODD_COLUMNS, where)
        else:
            yield Row(dict(zip(names, cells, strict=True)), where)


def json_lines(path: Path) -> Iterator[Row | Skipped]:
    """Objects of a JSONL file; a line that is no JSON object is skipped."""
    for where, text in lines(path):
        try:
            yield _object(_parse(text, where), where)
        except ManifestError:
            yield Skipped(NO_OBJECT, where)


def json_file(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ManifestError: it is missing, no JSON, or huge.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ManifestError(f"{path}: larger than {MAX_JSON_BYTES} bytes; is it the right file?")
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")  # as in `lines`
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); copy the file again") from error
    return _parse(text, str(path))


def json_rows(path: Path) -> Iterator[Row | Skipped]:
    """Objects of a file that is one JSON list of them, or JSONL."""
    with _open(path) as file:
        begin = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not begin.startswith(b"["):
        yield from json_lines(path)
        return
    for number, value in enumerate(json_file(path), start=1):
        where = f"{path}: item {number}"
        yield Row(value, where) if isinstance(value, dict) else Skipped(NO_OBJECT, where)


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: a JSON {type(value).__name__}, not an object; is it the right file?")
    return Row(value, where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ManifestError(f"{where}: nested too deeply; is it the right file?") from error
    except ValueError as error:
        raise ManifestError(f"{where}: not JSON ({error}); copy the file again") from error
