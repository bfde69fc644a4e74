"""What goes wrong, by cause: how many outputs each cause has, and a few of them.

    causes(run, lines)
      -> [Cause("stopped by length", 12, 0.06, [line, line, line]), Cause("refusals", 3, 0.015, []), ...]

What can be read off a line is counted here, so that evaluations made before any such metric have it too: an empty
output, one that was stopped by its length, one that repeats itself, one much shorter or longer than its reference.
The language of outputs, refusals and whether instructions were followed are counts of metrics.json, where `sm-eval
score` has put them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechmapper.eval.report.evaluations import Evaluation, number
from speechmapper.eval.report.lines import Line
from speechmapper.eval.report.tables import ABSENT, Cell, Column, Row, Table
from speechmapper.measure.repetition import COMPRESSION_LIMIT, LENGTH, compression_ratio

SEQUENCE = 5  # words
SHARE_REPEATED = 0.2  # of an output's sequences of words, that were there before
SHORT, LONG = 0.5, 2.0  # words of the output per word of the reference
FEW_WORDS = 3  # of reference and output together, below which lengths say nothing
EXAMPLES = 3
LONGEST_READ = 20_000  # characters of an output


@dataclass(frozen=True, slots=True)
class Cause:
    """A way to be wrong, with how many outputs of how many are, and the first few of them.

    Attributes:
        share: count as a fraction of all. examples: empty where the cause cannot be read off a line.
    """

    name: str
    count: int
    share: float
    examples: Sequence[Line] = ()


def causes(run: Evaluation, lines: Sequence[Line]) -> list[Cause]:
    """The causes that an evaluation can be counted for, those that did not happen included."""
    found = []
    shown: set[int] = set()  # an output that is wrong in several ways is an example of the first
    for name, metric, happened in _CAUSES:
        rate = number(run.metrics, metric) if metric else None
        those = [line for line in lines if happened(line)] if happened else []
        examples = [line for line in those if id(line) not in shown][:EXAMPLES]
        shown |= set(map(id, examples))
        if rate is not None and metric not in _SEEN_HERE:
            share = 1.0 - rate if metric in _GOOD else rate
            found.append(Cause(name, round(share * len(lines)), share, examples))
        elif happened is not None and (name != STOPPED or any("stop" in line.prediction for line in lines)):
            found.append(Cause(name, len(those), len(those) / len(lines), examples))
    return found


def cause_table(found: Sequence[tuple[Evaluation, Sequence[Cause]]]) -> Table:
    """Counts and shares of the causes, a row per run."""
    names = list(dict.fromkeys(cause.name for _, listed in found for cause in listed))
    rows = []
    for run, listed in found:
        by_name = {cause.name: cause for cause in listed}
        cells = [_counted(by_name.get(name)) for name in names]
        rows.append(Row((Cell(run.name), Cell(f"{len(run.predictions):,}"), *cells)))
    heads = (Column("run"), Column("outputs", number=True), *(Column(name, number=True) for name in names))
    return Table("What goes wrong, by cause", heads, rows)


def _counted(cause: Cause | None) -> Cell:
    return Cell(ABSENT if cause is None else f"{cause.count:,} ({100 * cause.share:.1f} %)")


def _empty(line: Line) -> bool:
    return not line.prediction["output"].strip()


def _stopped(line: Line) -> bool:
    return line.prediction.get("stop") == LENGTH


def _repeats(line: Line) -> bool:
    """Whether the output repeats itself, and the reference does not."""
    return _repetitive(line.prediction["output"], line.output) and not _repetitive(
        line.prediction["reference"], line.reference
    )


def _repetitive(text: str, words: Sequence[str]) -> bool:
    if compression_ratio(text[:LONGEST_READ]) > COMPRESSION_LIMIT:
        return True
    sequences = [tuple(words[at : at + SEQUENCE]) for at in range(len(words) - SEQUENCE + 1)]
    return bool(sequences) and 1 - len(set(sequences)) / len(sequences) > SHARE_REPEATED


def _short(line: Line) -> bool:
    return _lengths_tell(line) and len(line.output) < SHORT * len(line.reference)


def _long(line: Line) -> bool:
    return _lengths_tell(line) and len(line.output) > LONG * len(line.reference)


def _lengths_tell(line: Line) -> bool:
    return bool(line.reference) and bool(line.output) and len(line.reference) + len(line.output) > FEW_WORDS


STOPPED = "stopped by length"
_GOOD = ("target_language_rate", "instruction_following_rate")  # their complement is what goes wrong
_SEEN_HERE = ("repetition_rate", "stopped_by_length_rate")
_CAUSES: Sequence[tuple[str, str | None, Callable[[Line], bool] | None]] = (
    ("not in the target language", "target_language_rate", None),
    ("in English", "english_rate", None),
    ("repeats itself", None, _repeats),
    (STOPPED, None, _stopped),
    ("empty", None, _empty),
    ("less than half as long", None, _short),
    ("more than twice as long", None, _long),
    ("refusal", "refusal_rate", None),
    ("instruction not followed", "instruction_following_rate", None),
)
