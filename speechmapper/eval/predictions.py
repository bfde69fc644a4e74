"""Predictions on disk: all that scoring needs, readable without a model.

    OUT/predictions.jsonl   one line an item: id, task, prompt, reference, output, tokens, stop, seconds, ...
    OUT/about.json          what made them: run, readout, LLM, split, versions
    OUT/rejects.jsonl       the utterances without a prediction, each with a reason: {"id": "u7", "reason": "too_short",
                            "detail": "2 frames; one vector takes 4"}

    log = PredictionLog.open(out, about, {"a1": 1, "a2": 2})       a2 has two items
    log.kept                                   lines of whole utterances that an interrupted evaluation has left
    log.append(lines)                          each batch, as it is made
    log.finish({"rejected": 0})                lines in the order of the utterances; about.json is complete

An evaluation that was interrupted is continued by the same command; lines of an utterance that lacks one are made
again, and audio that could not be read is tried again. One with other settings is refused while it is unfinished, and
replaced once it is finished.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from sm_store.durable import write_file
from sm_store.errors import ConfigError
from sm_store.identity import diff_json, require_same
from sm_store.records import Reject

PREDICTIONS_FILE = "predictions.jsonl"
ABOUT_FILE = "about.json"
REJECTS_FILE = "rejects.jsonl"
NO_ITEM = "no_item"  # reason of an utterance that the task has no answer for; the other reasons are the ledger's
COMPLETE = "complete"  # false in about.json until every utterance has its lines
FOUND_BY_PREDICTING = frozenset({COMPLETE, "rejected", "not_asked", "versions"})  # in about.json, but not what is asked


class PredictionLog:
    """The predictions of one evaluation while they are made. Make one with `open`.

    Attributes:
        kept: lines of the utterances that have all theirs already.
        added: lines since.
        finished: whether nothing is left to do.
    """

    def __init__(
        self, out: Path, about: Mapping[str, Any], items: Mapping[str, int], kept: list[dict[str, Any]]
    ) -> None:
        self._path, self._about = out / PREDICTIONS_FILE, dict(about)
        self._place = {name: place for place, name in enumerate(items)}
        self.kept, self.finished = kept, False
        self.added: list[dict[str, Any]] = []

    @classmethod
    def open(
        cls, out: Path, about: Mapping[str, Any], items: Mapping[str, int], overwrite: bool = False
    ) -> PredictionLog:
        """Begin an evaluation in `out`, or continue the one that was interrupted there.

        Args:
            about: what decides the predictions, as JSON values. items: how many lines each utterance will have, by id.
            overwrite: begin anew, whatever is there.

        Raises:
            ConfigError: `out` cannot be written, or holds something else. IdentityMismatch: an unfinished evaluation
                with other settings is there.
        """
        kept, finished = ([], False) if overwrite else _continued(out, about, items)
        log = cls(out, about, items, kept)
        log.finished = finished
        if not finished:
            write_predictions(out, kept, {**about, COMPLETE: False})
        return log

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add lines of whole utterances to the file. Raises ConfigError: they cannot be written."""
        try:
            with self._path.open("ab") as file:
                file.write(_as_bytes(lines))
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error
        self.added += lines

    def finish(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write everything in the order of the utterances, with what was `found` in about.json; returns the lines."""
        ordered = sorted([*self.kept, *self.added], key=lambda line: self._place[line["id"]])
        write_predictions(self._path.parent, ordered, {**self._about, **found})
        return ordered


def _continued(out: Path, about: Mapping[str, Any], items: Mapping[str, int]) -> tuple[list[dict[str, Any]], bool]:
    """Lines of an evaluation in `out` that this one continues, and whether it is finished."""
    if not (out / ABOUT_FILE).is_file():
        return [], False
    there = _read_about(out / ABOUT_FILE)
    same_as = json.loads(json.dumps(about))  # tuples become lists, as in the file
    differences = diff_json(there, same_as, FOUND_BY_PREDICTING)
    unfinished = there.get(COMPLETE) is False
    if differences and unfinished:
        require_same(differences, f"--out {out}: unfinished predictions (--overwrite begins anew)")
    if differences or not (out / PREDICTIONS_FILE).is_file():
        if differences:
            sys.stderr.write(f"{out}: replaces predictions with other settings ({differences[0]})\n")
        return [], False
    lines = _whole_lines(out / PREDICTIONS_FILE)
    counts = Counter(str(line.get("id")) for line in lines)
    whole = {name for name, count in counts.items() if count == items.get(name)}
    kept = [line for line in lines if line.get("id") in whole]
    return kept, not unfinished and whole == items.keys()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The predictions of an interrupted evaluation; its last line may be cut, or lack."""
    found = []
    for text in path.read_bytes().decode(errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if _is_prediction(line):
            found.append(line)
    return found


def write_predictions(out: Path, predictions: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Predictions and what made them, each file replaced as a whole.

    Raises:
        ConfigError: `out` cannot be written.
    """
    with _writing(out):
        write_file(out / PREDICTIONS_FILE, _as_bytes(predictions))
        write_file(out / ABOUT_FILE, json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")


def write_rejects(out: Path, rejects: Sequence[Reject]) -> None:
    """The utterances without a prediction, in the order of their ids; an empty file where there are none.

    Raises:
        ConfigError: `out` cannot be written.
    """
    with _writing(out):
        write_file(out / REJECTS_FILE, _as_bytes([asdict(reject) for reject in sorted(rejects, key=attrgetter("id"))]))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Make the folder of an evaluation; errors of writing into it name `--out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise _unwritable(out, error) from error


def _as_bytes(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder")


def read_predictions(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The predictions of an evaluation and what made them.

    Raises:
        ConfigError: none there, a line that is not a prediction (file:line), or an about.json that is no object.
    """
    path = out / PREDICTIONS_FILE
    try:
        raw = path.read_bytes().decode().removesuffix("\n").split("\n")  # texts may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no predictions there; run `sm-eval asr ... --out {out}` first") from error
    if raw == [""]:
        raise ConfigError(f"{path}: no predictions in it; run `sm-eval asr ... --out {out}` again")
    predictions = []
    for number, text in enumerate(raw, start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not _is_prediction(line):
            raise ConfigError(
                f"{path}:{number}: not a prediction (id, reference, output); remove the line or predict again"
            )
        predictions.append(line)
    return predictions, _read_about(out / ABOUT_FILE)


def _is_prediction(line: Any) -> bool:
    """Whether a JSON value is a prediction with all that scores need."""
    try:
        return isinstance(line["reference"], str) and isinstance(line["output"], str) and _measured(line)
    except (KeyError, TypeError):
        return False


def _measured(line: dict[str, Any]) -> bool:
    """Whether a prediction's distance to its target is a number over a count of positions, or none at all."""
    distance, positions = line.get("relative_mse"), line.get("positions")
    return distance is None or (isinstance(distance, int | float) and type(positions) is int and positions >= 0)


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: not what an evaluation has written; remove it or predict again")
    return about
