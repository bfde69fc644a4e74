"""Accuracy of answers to questions by LLMs that judge them (the paper's measure of spoken question answering).

    judgements(out, predictions, JudgeRequest(("smollm2-135m",)))
      -> {"smollm2-135m": [0.93, 0.12]}, {"judges": {"smollm2-135m": {"accuracy": 0.5, "gold": 0.98, ...}}, ...}

Each prediction has a `question`, a `reference` and an `output`; how likely each judge finds it right is kept by id in
OUT/judgements.jsonl. Each judge is asked whether the given answer says the same as the reference, in the words of
`prompts/judge.yaml`, and its probability of yes over yes and no is read (speechmapper/eval/judge_llm.py). An answer
counts as right above 0.5. The accuracy is the mean over the judges, with the standard deviation between them.

A judge may say yes to everything. So each is calibrated on answers whose worth is known: the references themselves
(`gold`, should be 1), the references of other questions (`shuffled`, should be near 0) and no answer (`empty`, 0).

Judgements are used again while the judge, its question and the texts are unchanged. A request adds judges to those that
have judged the same predictions before; without a request, the latter are all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from sm_store.durable import write_file
from sm_store.errors import ConfigError
from speechmapper.eval.kept_lines import read_kept
from speechmapper.eval.predictions import PREDICTIONS_FILE
from speechmapper.tasks.base import PROMPT_FOLDER

if TYPE_CHECKING:
    from sm_pipeline.models.source import ModelSource

JUDGEMENTS_FILE = "judgements.jsonl"
PROMPT_FILE = PROMPT_FOLDER / "judge.yaml"
OUTPUT, GOLD, SHUFFLED, EMPTY = "output", "gold", "shuffled", "empty"
CALIBRATED_ON = 200  # lines, evenly spread; our own
RIGHT = 0.5  # probability of yes above which an answer is right
Verdict = dict[str, float]  # `yes`: probability of yes over yes and no; `said`: of either over the whole vocabulary
FIELDS = {"judge": str, "weights": str, "prompts": str, "sha256": str, "yes": float, "said": float}


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Which LLMs judge.

    Attributes:
        judges: model arguments, as for `--llm`. device: as for `--device`.
    """

    judges: tuple[str, ...]
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class JudgeId:
    """A judge: the preset, Hub id or folder, and what changes with its weights."""

    name: str
    weights: str


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to judge: the questions' own (`kind` "output") or one whose worth is known; `line` is its position."""

    kind: str
    line: int
    answer: str


@lru_cache
def judge_prompts() -> dict[str, str]:
    """The system turn, the question and the words for yes and no."""
    found: dict[str, str] = yaml.safe_load(PROMPT_FILE.read_text(encoding="utf-8"))
    return found


def prompts_sha256() -> str:
    """Fingerprint of what judges are asked, 12 hex digits."""
    return hashlib.sha256(json.dumps(judge_prompts(), sort_keys=True).encode()).hexdigest()[:12]


def require_questions(predictions: Sequence[Mapping[str, Any]], where: Path) -> None:
    """Check that predictions answer questions. Raises ConfigError: one that does not (file:line)."""
    for number, line in enumerate(predictions, start=1):
        if not line.get("question"):
            raise ConfigError(
                f"{where}:{number}: no `question`, which a judge reads; judges are for answers to questions: predict "
                "again with `sm-eval sqa`"
            )


def judgements(
    out: Path, predictions: Sequence[Mapping[str, Any]], request: JudgeRequest | None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Each judge's probability that each prediction is right, by judge.

    Args:
        out: the evaluation's folder. request: None: only judgements that are kept there and fit all lines.

    Returns:
        The probabilities, and what belongs into metrics.json besides their mean: `judges` (accuracy and calibration of
        each) and `judge_prompts`; nothing where nothing was judged.

    Raises:
        ConfigError: lines without a question. ModelError: a judge that is no causal LM, or is not to be had.
    """
    path = out / JUDGEMENTS_FILE
    if request is None and (not path.exists() or not all(line.get("question") for line in predictions)):
        return {}, {}
    require_questions(predictions, out / PREDICTIONS_FILE)
    cases = [Case(OUTPUT, number, line["output"]) for number, line in enumerate(predictions)]
    cases += calibration(predictions)
    questions = [filled(predictions[case.line], case.answer) for case in cases]
    entries = [entry for entry in read_kept(path, FIELDS) if entry["prompts"] == prompts_sha256()]
    known = _by_judge(entries)
    asked = {text_sha256(question) for question in questions}
    kept = {judge: verdicts for judge, verdicts in known.items() if asked <= verdicts.keys()}
    if request is not None:
        from sm_pipeline.models.source import resolve_model  # torch: `score` does without

        for source in [resolve_model(name, "judge") for name in request.judges]:
            judge = JudgeId(source.id, weights_state(source))
            verdicts = _judged(source, questions, request.device, known.get(judge, {}))
            kept = {each: found for each, found in kept.items() if each.name != judge.name} | {judge: verdicts}
        _keep(path, predictions, cases, questions, kept)
    if not kept:
        return {}, {}
    found = {judge.name: [verdicts[text_sha256(text)] for text in questions] for judge, verdicts in kept.items()}
    summary = {judge: _summary(cases, verdicts) for judge, verdicts in found.items()}
    judged = {judge: [each["yes"] for each in verdicts[: len(predictions)]] for judge, verdicts in found.items()}
    return judged, {"judges": summary, "judge_prompts": prompts_sha256()}


def calibration(lines: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Answers whose worth is known, for at most `CALIBRATED_ON` of the lines.

    The shuffled answer of a line is the reference of the next line on which it differs; there is none where all are
    the same.
    """
    count = len(lines)
    chosen = sorted({number * count // min(count, CALIBRATED_ON) for number in range(min(count, CALIBRATED_ON))})
    cases = []
    for number in chosen:
        own = lines[number]["reference"]
        cases += [Case(GOLD, number, own), Case(EMPTY, number, "")]
        others = (lines[(number + step) % count]["reference"] for step in range(1, count))
        other = next((text for text in others if text.strip().lower() != own.strip().lower()), None)
        cases += [] if other is None else [Case(SHUFFLED, number, other)]
    return cases


def filled(line: Mapping[str, Any], answer: str) -> str:
    """What a judge is asked about an answer; texts are put in as they are, whatever braces they hold."""
    values = {"question": line["question"], "reference": line["reference"], "answer": answer}
    pieces = judge_prompts()["question"].split("{")
    parts = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}")
        parts += [values[name], rest]
    return "".join(parts)


def text_sha256(text: str) -> str:
    """12 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weights_state(source: ModelSource) -> str:
    """What changes with a judge's weights: its commit on the Hub, else a fingerprint of what its files look like."""
    if source.revision is not None:
        return source.revision
    states = [(path.name, path.stat()) for path in sorted(source.folder.iterdir()) if path.is_file()]
    return text_sha256(json.dumps([[name, state.st_size, state.st_mtime_ns] for name, state in states]))


def _by_judge(entries: Iterable[Mapping[str, Any]]) -> dict[JudgeId, dict[str, Verdict]]:
    """Kept judgements by judge and by what was asked."""
    found: dict[JudgeId, dict[str, Verdict]] = {}
    for entry in entries:
        verdict = {"yes": entry["yes"], "said": entry["said"]}
        found.setdefault(JudgeId(entry["judge"], entry["weights"]), {})[entry["sha256"]] = verdict
    return found


def _judged(
    source: ModelSource, questions: Sequence[str], device: str, known: Mapping[str, Verdict]
) -> dict[str, Verdict]:
    """One judge's verdicts by what was asked; it is loaded only where one is not known."""
    missing = {key: text for text in questions if (key := text_sha256(text)) not in known}
    if not missing:
        return dict(known)
    from speechmapper.eval.judge_llm import load_judge

    prompts = judge_prompts()
    judge = load_judge(source, device, (prompts["yes"], prompts["no"]))
    verdicts = judge.verdicts([(prompts["system"], text) for text in missing.values()], source.id)
    new = {key: {"yes": each.yes, "said": each.said} for key, each in zip(missing, verdicts, strict=True)}
    return {**known, **new}


def _keep(
    path: Path,
    lines: Sequence[Mapping[str, Any]],
    cases: Sequence[Case],
    questions: Sequence[str],
    kept: Mapping[JudgeId, Mapping[str, Verdict]],
) -> None:
    written = []
    for judge, by_text in kept.items():
        for case, question in zip(cases, questions, strict=True):
            key = text_sha256(question)
            made = {"judge": judge.name, "weights": judge.weights, "prompts": prompts_sha256(), "sha256": key}
            written.append({"id": lines[case.line].get("id"), "answer": case.kind, **by_text[key], **made})
    write_file(path, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in written))


def _summary(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Accuracy of the outputs and of each kind of known answer, and how much of the probability is on yes and no."""
    named = {"accuracy": OUTPUT, "gold": GOLD, "shuffled": SHUFFLED, "empty": EMPTY}
    found: dict[str, float | None] = {}
    for name, kind in named.items():
        right = [verdict["yes"] > RIGHT for case, verdict in zip(cases, verdicts, strict=True) if case.kind == kind]
        found[name] = fmean(right) if right else None
    return {**found, "yes_or_no": fmean(verdict["said"] for verdict in verdicts)}
