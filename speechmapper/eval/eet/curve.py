"""The embedding error threshold (EET): how much error in its input embeddings a frozen LLM tolerates.

    text -> true embeddings -> + noise of a known size -> prompt -> LLM repeats -> WER against the text

    relative MSE    0      0.05   0.1    0.2
    WER             2 %    2 %    4 %    11 %      limit: WER without noise + 1 point = 3 %
                           pass   fail             threshold: 0.075, where the line from 2 % to 4 % meets 3 %

The threshold is the largest error whose WER (mean over seeds) stays within the limit. It is interpolated linearly
between the first level that fails and the level before it, and both are reported beside it; a later level that
passes again is ignored as luck. If no level fails, the threshold is the last level, which is a lower bound. The
smaller threshold of the two kinds of noise is the LLM's.

Relative MSE is the squared error per dimension divided by the mean square of the embedding table, averaged over the
tokens of the text: there is no BOS, and there are no pads after the text, as there would be with speech. The reported
values are measured on the vectors that the LLM receives, in its own precision.

Shapes: P positions of all texts, E LLM width, V vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.console import Progress, progress
from sm_pipeline.devices import choose_device
from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_pipeline.text import NORMALIZER
from sm_store.errors import ConfigError, ModelError
from sm_store.targets import table_scale, table_sha256
from speechmapper.config import LlmConfig
from speechmapper.eval.eet.noise import NOISE
from speechmapper.eval.eet.page import write_report
from speechmapper.eval.eet.texts import Texts, choose_texts
from speechmapper.heads.rows import TableRows
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import check_llm, load_llm
from speechmapper.loader.epoch import Budget, batches_by_length
from speechmapper.measure.text import error_rates
from speechmapper.saved_projector import versions
from speechmapper.tasks import ASR, Item

# Relative MSEs; our own default, denser where a threshold is expected.
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.1)
SEEDS = 3
TEXTS = 40
BATCH = 50
TOLERATED = 0.01  # increase of WER over that without noise (method, section 5)
ROOM = 8  # tokens allowed beyond 1.25 times the longest text: quotes, capitals, a full stop
NO_BUDGET = 2**62  # batches are limited by their number of texts only


@dataclass(frozen=True, slots=True)
class EetRequest:
    """Settings of one `sm-eval eet`.

    Attributes:
        llm: a model argument.
        texts, store, split: where the texts come from; see `choose_texts`.
        levels: relative MSEs, ascending, 0 first (`parse_levels`).
        seeds: number of seeds; they are 0, 1, ...
        count: largest number of texts.
        batch: texts per batch.
        llm_config: how the LLM is loaded.
    """

    llm: str
    out: Path
    texts: Path | None = None
    store: Path | None = None
    split: str | None = None
    levels: tuple[float, ...] = LEVELS
    seeds: int = SEEDS
    count: int = TEXTS
    batch: int = BATCH
    device: str = "auto"
    llm_config: LlmConfig = field(default_factory=LlmConfig)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of repeating all texts once, with one kind and size of noise.

    Attributes:
        mse: measured squared error per dimension.
        wer: word error rate of the answers.
        nearest: share of positions whose nearest row of the embedding table is that of their token.
    """

    mse: float
    wer: float
    nearest: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a curve crosses the WER limit.

    Attributes:
        relative_mse: the threshold.
        last_passing, first_failing: the levels around it; `first_failing` is None if no level fails.
    """

    relative_mse: float
    last_passing: float
    first_failing: float | None


def measure_eet(request: EetRequest) -> dict[str, Any]:
    """Measure the curve and write eet.json and eet.html into `request.out`; returns the contents of eet.json.

    Raises:
        ConfigError: unusable texts, or a folder that cannot be written. ModelError: an unusable LLM.
    """
    device = choose_device(request.device)
    chosen = choose_texts(request.count, request.texts, request.store, request.split)
    _check_out(request.out)
    check_llm(request.llm, request.llm_config)
    subject = Subject(request, chosen, device)
    passes = 1 + (len(request.levels) - 1) * request.seeds * len(NOISE)
    with progress(passes * len(chosen.texts), "repeating", "texts") as bar:
        clean = subject.measure(next(iter(NOISE)), 0.0, 0, bar)  # the same for all kinds and seeds
        kinds = {kind: _curve(subject, kind, clean, request, bar) for kind in NOISE}
    smallest = min(kinds, key=lambda kind: kinds[kind]["threshold"]["relative_mse"])
    found = {
        "threshold": {"kind": smallest, **kinds[smallest]["threshold"]},
        "wer_without_noise": rounded(clean.wer),
        "wer_limit": rounded(clean.wer + TOLERATED),
        "kinds": kinds,
        "seeds": list(range(request.seeds)),
        **subject.to_json(),
        "texts": {**chosen.to_json(), "tokens": len(subject.ids_P), "pads": 0},
        "normalizer": NORMALIZER,
        "versions": versions(),
    }
    write_report(request.out, found)
    return found


class Subject:
    """An LLM and the texts it has to repeat.

    Raises:
        ModelError: an LLM that cannot be loaded, or a tokenizer that does not match its embedding table.
    """

    def __init__(self, request: EetRequest, chosen: Texts, device: torch.device) -> None:
        name, how = request.llm, request.llm_config
        table = load_llm_table(name)  # fetches one file of the weights, `resolve_model` all of them
        self.llm: FrozenLLM = load_llm(resolve_model(name, "llm"), device, tokenizer=table.tokenizer, config=how)
        self.table_sha256, self.scale = table_sha256(table.table_VE), table_scale(table.table_VE)
        self.table_VE = torch.from_numpy(table.table_VE)
        self.texts = chosen.texts
        ids = [table.tokenizer(text, add_special_tokens=False)["input_ids"] for text in chosen.texts]
        self.counts = [len(row) for row in ids]
        self.ids_P = torch.tensor([token for row in ids for token in row], dtype=torch.long)
        if not all(self.counts) or int(self.ids_P.max()) >= len(self.table_VE):
            raise ModelError(f"--llm {name}: its tokenizer and its embedding table do not match")
        given_PE = self.llm.embed(self.ids_P.tolist())
        self.true_PE, self._dtype = given_PE.float().cpu(), given_PE.dtype
        self._rows = TableRows(self.table_VE, device)
        self._prompt = self.llm.prompter.write(ASR.instruction(Item()))
        self._longest_answer = max(self.counts) + max(self.counts) // 4 + ROOM
        one_limit = Budget(NO_BUDGET, max_utterances=request.batch)
        self._batches = batches_by_length(np.arange(len(ids)), np.asarray(self.counts, np.int64), one_limit)

    def measure(self, kind: str, relative_mse: float, seed: int, bar: Progress) -> Measurement:
        """Let the LLM repeat all texts, their embeddings changed by noise of this kind and size."""
        generator = torch.Generator().manual_seed(seed)
        noisy_PE = NOISE[kind](self.true_PE, self.table_VE, relative_mse * self.scale, generator).to(self._dtype)
        mse = (noisy_PE.float() - self.true_PE).double().square().mean()
        vectors_PE = noisy_PE.to(self.llm.device)
        nearest = (self._rows.nearest(vectors_PE).cpu() == self.ids_P).double().mean()
        outputs = self._repeat(vectors_PE, bar)
        return Measurement(float(mse), float(error_rates(self.texts, outputs)["wer"]), float(nearest))

    def to_json(self) -> dict[str, Any]:
        """The LLM, its embedding table, its prompt and the limit of its answers."""
        return {
            "llm": {**self.llm.identity(), "dtype": str(self._dtype).removeprefix("torch.")},
            "device": self.llm.device.type,
            "table_sha256": self.table_sha256,
            "table_scale": self.scale,
            "prompt": self.llm.prompter.shown(self._prompt),
            "chat_template": self.llm.prompter.template(),
            "max_new_tokens": self._longest_answer,
        }

    def _repeat(self, vectors_PE: torch.Tensor, bar: Progress) -> list[str]:
        rows = vectors_PE.split(self.counts)
        outputs: dict[int, str] = {}
        for batch in self._batches:
            chosen = [rows[number] for number in batch.tolist()]
            lengths = torch.tensor([len(row) for row in chosen])
            prompts = [self._prompt] * len(chosen)
            padded = pad_sequence(chosen, batch_first=True)
            answers = self.llm.generate(padded, lengths, prompts, self._longest_answer)
            outputs.update(zip(batch.tolist(), answers, strict=True))
            bar.advance(len(chosen))
        return [outputs[number] for number in range(len(rows))]


def _curve(subject: Subject, kind: str, clean: Measurement, request: EetRequest, bar: Progress) -> dict[str, Any]:
    """Levels and threshold of one kind of noise, as JSON values."""
    levels: list[dict[str, Any]] = []
    for level in request.levels:
        if level:
            measurements = [subject.measure(kind, level, seed, bar) for seed in range(request.seeds)]
        else:
            measurements = [clean] * request.seeds
        mse = float(np.mean([measured.mse for measured in measurements]))
        levels.append(
            {
                "level": level,
                "relative_mse": rounded(mse / subject.scale),
                "mse": rounded(mse),
                "wer": rounded(float(np.mean([measured.wer for measured in measurements]))),
                "wer_by_seed": [rounded(measured.wer) for measured in measurements],
                "nearest_token_accuracy": rounded(float(np.mean([measured.nearest for measured in measurements]))),
            }
        )
    points = [(entry["relative_mse"], entry["wer"]) for entry in levels]
    crossing = find_crossing(points, levels[0]["wer"] + TOLERATED)
    return {
        "threshold": {
            "relative_mse": rounded(crossing.relative_mse),
            "mse": rounded(crossing.relative_mse * subject.scale),
            "last_passing": crossing.last_passing,
            "first_failing": crossing.first_failing,
        },
        "levels": levels,
    }


def find_crossing(points: Sequence[tuple[float, float]], limit: float) -> Crossing:
    """The threshold on a curve of (error, WER) points with rising errors, whose first point passes.

    It is interpolated linearly between the first point that fails and the point before it.
    """
    for (low, low_wer), (high, high_wer) in pairwise(points):
        if high_wer > limit:
            share = (limit - low_wer) / (high_wer - low_wer)
            return Crossing(low + share * (high - low), low, high)
    return Crossing(points[-1][0], points[-1][0], None)


def parse_levels(text: str) -> tuple[float, ...]:
    """`0,0.05,0.2` as numbers: ascending, without duplicates.

    Raises:
        ConfigError: not numbers of at least 0, or no 0, or nothing but 0.
    """
    example = "give relative MSEs like 0,0.05,0.2"
    levels = set()
    for word in text.split(","):
        try:
            level = float(word)
        except ValueError:
            level = math.nan
        if not 0 <= level < math.inf:
            raise ConfigError(f"--levels {text}: {word.strip()!r} is not a number of at least 0; {example}")
        levels.add(level)
    if 0 not in levels or len(levels) < 2:
        raise ConfigError(f"--levels {text}: give 0 and at least one more; each WER is compared with that at 0")
    return tuple(sorted(levels))


def rounded(value: float) -> float:
    """The value with six significant digits."""
    return float(f"{value:.6g}")


def _check_out(out: Path) -> None:
    """Refuse an unusable folder before minutes of work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be created ({error.strerror}); name a folder you can write to"
        ) from error
    if not os.access(out, os.W_OK):
        raise ConfigError(f"--out {out}: cannot be written to; name a folder you can write to")
