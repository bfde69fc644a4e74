"""Part of the validation split, and the figures of stage 1 on it, without an LLM.

    distances     mse, relative_mse, mse_pad, relative_mse_pad, cosine     of the LLM inputs to the true embeddings
    readout       wer, cer                                                 nearest tokens as text; examples.txt
    length        length_error, length_ratio                               tokens before the first pad, to the truth
    norms         norm_p05, norm_p50, norm_p95, and RUN/norms.jsonl        of word vectors, to the table's rows
    threshold     eet_ratio                                                relative_mse over what the LLM tolerates

Shapes: B batch, U projector vectors, E LLM width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_store import TargetSet
from speechmapper.config import RunConfig
from speechmapper.heads import Head
from speechmapper.loader.data import TrainingData
from speechmapper.loader.prefetch import DeviceBatch, Source, read_batch
from speechmapper.measure.text import error_rates
from speechmapper.measure.threshold import Threshold, read_threshold
from speechmapper.measure.vectors import Closeness, Lengths, Norms
from speechmapper.projector import Projector
from speechmapper.readout.nearest import NearestToken
from speechmapper.train.log import EXAMPLES_FILE, NORMS_FILE
from speechmapper.train.stage import Evaluation

EVAL_BATCH = 32  # utterances
SMALLEST = 1e-12  # relative MSE; a threshold may be 0


@dataclass(frozen=True, slots=True)
class DevSet:
    """Part of the validation split, read in a fixed order.

    Attributes:
        source: a store of its own, since the training thread reads the other one.
        indices: store indices, sorted by length; references: their transcripts.
        out: the run's folder; examples: how many readouts are appended to its examples.txt.
        normalizer: name of the text normaliser, the target set's.
    """

    source: Source
    indices: np.ndarray
    references: Sequence[str]
    out: Path
    examples: int
    normalizer: str

    def batch_count(self, size: int) -> int:
        """Of `size` utterances each."""
        return -(-len(self.indices) // size)

    def batches(self, device: torch.device, size: int, numbers: Sequence[int] | None = None) -> Iterator[DeviceBatch]:
        """All of it, `size` utterances at a time; the batches' numbers are in `micro`.

        Args:
            numbers: of the batches wanted; None: of all.
        """
        for number in range(self.batch_count(size)) if numbers is None else numbers:
            yield read_batch(self.source, self.indices[number * size : (number + 1) * size], device, number)

    def rates(self, step: int, outputs: Sequence[str]) -> dict[str, float]:
        """`wer` and `cer` of the outputs, where there are any; appends examples."""
        write_examples(self.out, step, self.references, outputs, self.examples)
        rates = error_rates(self.references, outputs, self.normalizer)
        return {name: rates[name] for name in ("wer", "cer") if rates[name] is not None}


def dev_set(out: Path, data: TrainingData, run: RunConfig) -> DevSet | None:
    """Utterances spread evenly over the validation split, or None where there are none."""
    indices = spread(data.dev, run.eval_utterances)
    if len(indices) == 0:
        return None
    indices = indices[np.argsort(data.store.frames[indices], kind="stable")]
    references = data.store.columns(["text"])["text"].take(indices).to_pylist()
    return DevSet(data.again(), indices, references, out, run.examples, data.spec.normalizer)


@dataclass(frozen=True, slots=True)
class VectorValidation:
    """Figures of a projector as it is now, without an LLM.

    Attributes:
        tokenizer: of the target set.
        threshold: of the LLM, None: not known; stop: end the run below it.
    """

    dev: DevSet
    targets: TargetSet
    tokenizer: Any
    threshold: Threshold | None
    stop: bool

    def run(self, model: Projector, step: int) -> Evaluation:
        """All the figures; appends examples and the histogram of norms to the run's files."""
        spec = self.targets.spec
        head = Head(model.config, self.targets.table, spec.pad_id, model.device)
        readout = NearestToken(self.tokenizer, spec.pad_id)
        closeness, lengths, norms = Closeness(spec.table_scale), Lengths(), Norms(self.targets.table)
        outputs: list[str] = []
        for batch in self.dev.batches(model.device, EVAL_BATCH):
            projected = model.project(batch.features_BTD, batch.frames_B)
            token_ids, given_BUE = head.token_ids(projected), head.padded_inputs(projected)
            closeness.add(given_BUE, batch)
            lengths.add(readout.lengths(token_ids), batch.tokens_B.tolist())
            norms.add(given_BUE, batch)
            outputs += readout.texts(token_ids)
        append(self.dev.out / NORMS_FILE, [json.dumps({"step": step, **norms.histogram()})])
        figures = {**closeness.figures(), **self.dev.rates(step, outputs), **lengths.figures(), **norms.figures()}
        return self._judged(figures, {"norm": norms.values()})

    def _judged(self, figures: dict[str, float], histograms: dict[str, np.ndarray]) -> Evaluation:
        if self.threshold is None:
            return Evaluation(figures, histograms)
        ratio = figures["relative_mse"] / max(self.threshold.relative_mse, SMALLEST)
        reached = f"below the LLM's embedding error threshold, {self.threshold.relative_mse:.4g}"
        stop = self.stop and ratio <= 1
        return Evaluation({**figures, "eet_ratio": ratio}, histograms, reached if stop else None)


def vector_validation(out: Path, data: TrainingData, run: RunConfig) -> VectorValidation | None:
    """Validation of stage 1, or None where there is nothing to validate on.

    Raises:
        ConfigError: `run.eet` is no threshold's file, or of another LLM.
    """
    threshold = None
    if run.eet is not None:
        threshold = read_threshold(Path(run.eet))
        threshold.require_table(data.spec)
    dev = dev_set(out, data, run)
    if dev is None:
        return None
    tokenizer = load_stored_tokenizer(data.targets)
    return VectorValidation(dev, data.targets, tokenizer, threshold, run.stop_at_eet)


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """`count` of the indices, evenly spaced; all where there are fewer."""
    if count >= len(indices):
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)] if count else indices[:0]


def write_examples(
    out: Path,
    step: int,
    references: Sequence[str],
    outputs: Sequence[str],
    count: int,
    asked: Sequence[str] | None = None,
) -> None:
    """Append some readouts with their references, and what was asked where that is given, to RUN/examples.txt."""
    chosen = spread(np.arange(len(outputs)), count).tolist()
    if chosen:
        questions = [f"  asked      {text}\n" for text in asked] if asked else [""] * len(outputs)
        lines = [f"{questions[row]}  reference  {references[row]}\n  output     {outputs[row]}" for row in chosen]
        append(out / EXAMPLES_FILE, [f"step {step}", *lines])


def append(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a text file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
