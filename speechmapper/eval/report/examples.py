"""Utterances to look at: the worst of each run, and some drawn at random, the same ones in every run.

    chosen = examples_of(evaluation, lines, clips, count=3, random=2, seed=0)
    chosen.worst[0].steps        [Step("equal", "the dog", "the dog"), Step("delete", "ran", "")]
    chosen.worst[0].clip         Clip("data:audio/mpeg;base64,...")

Random ones are those whose id and seed have the smallest SHA-256: runs of the same utterances show the same ones, in
whatever order their lines are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from speechmapper.eval.report.alignment import Step, aligned
from speechmapper.eval.report.clips import Clip, Clips
from speechmapper.eval.report.evaluations import Evaluation
from speechmapper.eval.report.lines import BY_F1, Line

LABELS = ("lang", "language", "speaker", "corpus")


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance with what was said and what came out.

    Attributes:
        steps: from the reference to the output; empty where they are not to be compared word by word.
        labels: its language, speaker and so on, as far as they are known.
        prompt: what the LLM was told, as text; empty where there was none.
    """

    id: str
    reference: str
    output: str
    steps: Sequence[Step]
    measure: str
    labels: Sequence[str]
    prompt: str
    clip: Clip


@dataclass(frozen=True, slots=True)
class Examples:
    """Those of one run."""

    worst: Sequence[Example]
    random: Sequence[Example]


def examples_of(
    run: Evaluation, lines: Sequence[Line], clips: Clips, count: int = 3, random: int = 2, seed: int = 0
) -> Examples:
    """The `count` worst utterances, of which something is wrong, and `random` others."""
    order = {id(line): _drawn(line, seed) for line in lines}
    ranked = sorted(lines, key=lambda line: (-line.badness, order[id(line)]))
    worst = [line for line in ranked[:count] if line.badness > 0]
    others = sorted(lines, key=lambda line: order[id(line)])[: random + count]
    drawn = [line for line in others if not any(line is each for each in worst)][:random]
    return Examples(*([_example(run, line, clips) for line in group] for group in (worst, drawn)))


def _drawn(line: Line, seed: int) -> str:
    """The place of a line in the random order."""
    said = f"{seed}\0{line.id}\0{line.prediction.get('language', '')}\0{line.prediction['reference']}"
    return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()


def _example(run: Evaluation, line: Line, clips: Clips) -> Example:
    answer = BY_F1 in run.metrics
    known = [(name, line.prediction.get(name)) for name in LABELS]
    prompt = line.prediction.get("prompt")
    return Example(
        line.id,
        line.prediction["reference"],
        line.prediction["output"],
        () if answer else aligned(line.reference, line.output),
        f"F1 {1 - line.badness:.2f}" if answer else f"{line.errors:,} of {len(line.reference):,} words wrong",
        [f"{name} {value}" for name, value in known if isinstance(value, str)],
        prompt if isinstance(prompt, str) else "",
        clips.of(run, line.id),
    )
