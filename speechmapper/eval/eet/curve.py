"""The embedding error threshold (EET): how much error in its input embeddings a frozen LLM tolerates.

    text -> true embeddings -> + noise of a known size -> prompt -> LLM repeats -> WER against the text

    relative MSE    0      0.05   0.1    0.2
    WER             2 %    2 %    4 %    11 %      limit: WER without noise + 1 point = 3 %
                           pass   fail             threshold: 0.075, where the line from 2 % to 4 % meets 3 %

The threshold is the largest error with a mean WER (over seeds) within the limit, found on the curve from 0 up to
the first level that fails: whatever passes beyond that is luck. It lies between the last level that passes and
that one, which are given beside it, by linear interpolation. Where no level fails it is the last level, a lower
bound. Of the two kinds of noise the smaller threshold counts.

Relative MSE is the squared error per dimension over the mean square of the embedding table, over the positions
of the text's tokens: no BOS, and no pads behind the text, as speech would give. What is reported is measured on
the vectors the LLM is given, in its own precision.

Shapes: P positions of all texts, E LLM width, V vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.console import Progress, progress
from sm_pipeline.devices import choose_device
from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.text import NORMALIZER
from sm_store.errors import ConfigError, ModelError
from sm_store.targets import table_scale, table_sha256
from speechmapper.eval.eet.noise import NOISE
from speechmapper.eval.eet.page import write_report
from speechmapper.eval.eet.texts import Texts, choose_texts
from speechmapper.llm import FrozenLLM, load_llm
from speechmapper.loader.epoch import Budget, batches_by_length
from speechmapper.measure.text import error_rates
from speechmapper.readout.nearest import NearestToken
from speechmapper.saved_projector import versions
from speechmapper.tasks import ASR, Item

# Relative MSEs; our own default, close together where a threshold is to be expected.
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.1)
SEEDS = 3
TEXTS = 40
BATCH = 50
TOLERATED = 0.01  # WER above that without noise (method, section 5)
ROOM = 8  # tokens of an answer beyond the longest text and a quarter: quotes, capitals, a full stop
NO_BUDGET = 2**62  # batches are bounded by their number of texts alone


@dataclass(frozen=True, slots=True)
class EetRequest:
    """What `sm-eval eet` was asked for.

    Attributes:
        llm: a model argument.
        texts, store, split: where the texts are from; see `choose_texts`.
        levels: relative MSEs, ascending, 0 first (`parse_levels`).
        seeds: how many; they are 0, 1, ...
        count: of texts, at most.
        batch: texts run together.
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


@dataclass(frozen=True, slots=True)
class Reading:
    """All texts once, at one size of one noise.

    Attributes:
        mse: measured, per dimension. nearest: share of positions whose nearest row is their token's.
    """

    mse: float
    wer: float
    nearest: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a curve leaves what is tolerated.

    Attributes:
        relative_mse: the threshold. last_passing, first_failing: the levels around it; None: none fails.
    """

    relative_mse: float
    last_passing: float
    first_failing: float | None


def measure_eet(request: EetRequest) -> dict[str, Any]:
    """Measure the curve and write eet.json and eet.html into `request.out`; returns what is in eet.json.

    Raises:
        ConfigError: texts that cannot be used, or a folder that cannot be written. ModelError: no usable LLM.
    """
    device = choose_device(request.device)
    chosen = choose_texts(request.count, request.texts, request.store, request.split)
    _check_out(request.out)
    subject = Subject(request.llm, chosen, device, request.batch)
    passes = 1 + (len(request.levels) - 1) * request.seeds * len(NOISE)
    with progress(passes * len(chosen.texts), "repeating", "texts") as bar:
        clean = subject.read(next(iter(NOISE)), 0.0, 0, bar)  # the same for all kinds and seeds
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
    """An LLM and the texts it is to repeat.

    Raises:
        ModelError: not an LLM that can be loaded, or a tokenizer that does not belong to its table.
    """

    def __init__(self, name: str, chosen: Texts, device: torch.device, batch: int) -> None:
        table = load_llm_table(name)
        self.llm: FrozenLLM = load_llm(table.source, device, tokenizer=table.tokenizer)
        self.table_sha256, self.scale = table_sha256(table.table_VE), table_scale(table.table_VE)
        self.table_VE = torch.from_numpy(table.table_VE)
        self.texts = chosen.texts
        ids = [table.tokenizer(text, add_special_tokens=False)["input_ids"] for text in chosen.texts]
        self.counts = [len(row) for row in ids]
        self.ids_P = torch.tensor([token for row in ids for token in row], dtype=torch.long)
        if not all(self.counts) or int(self.ids_P.max()) >= len(self.table_VE):
            raise ModelError(f"--llm {name}: its tokenizer and its embedding table do not belong together")
        given_PE = self.llm.embed(self.ids_P.tolist())
        self.true_PE, self._dtype = given_PE.float().cpu(), given_PE.dtype
        self._nearest = NearestToken(self.table_VE, table.tokenizer, -1, device)  # -1: no row is a pad
        self._prompt = self.llm.prompter.write(ASR.instruction(Item()))
        self._longest_answer = max(self.counts) + max(self.counts) // 4 + ROOM
        one_limit = Budget(NO_BUDGET, max_utterances=batch)
        self._batches = batches_by_length(np.arange(len(ids)), np.asarray(self.counts, np.int64), one_limit)

    def read(self, kind: str, relative_mse: float, seed: int, bar: Progress) -> Reading:
        """Let the LLM repeat all texts with this noise."""
        generator = torch.Generator().manual_seed(seed)
        noisy_PE = NOISE[kind](self.true_PE, self.table_VE, relative_mse * self.scale, generator).to(self._dtype)
        mse = (noisy_PE.float() - self.true_PE).double().square().mean()
        vectors_PE = noisy_PE.to(self.llm.device)
        found = self._nearest.token_ids(vectors_PE[None], torch.tensor([len(vectors_PE)]))[0]
        nearest = (torch.tensor(found) == self.ids_P).double().mean()
        outputs = self._repeat(vectors_PE, bar)
        return Reading(float(mse), float(error_rates(self.texts, outputs)["wer"]), float(nearest))

    def to_json(self) -> dict[str, Any]:
        """The LLM, its table, and how it was asked."""
        return {
            "llm": {**self.llm.identity(), "dtype": str(self._dtype).removeprefix("torch.")},
            "device": self.llm.device.type,
            "table_sha256": self.table_sha256,
            "table_scale": self.scale,
            "prompt": self.llm.prompter.shown(self._prompt),
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


def _curve(subject: Subject, kind: str, clean: Reading, request: EetRequest, bar: Progress) -> dict[str, Any]:
    """One kind's levels and threshold, as JSON values."""
    levels: list[dict[str, Any]] = []
    for level in request.levels:
        if level:
            readings = [subject.read(kind, level, seed, bar) for seed in range(request.seeds)]
        else:
            readings = [clean] * request.seeds
        mse = float(np.mean([reading.mse for reading in readings]))
        levels.append(
            {
                "level": level,
                "relative_mse": rounded(mse / subject.scale),
                "mse": rounded(mse),
                "wer": rounded(float(np.mean([reading.wer for reading in readings]))),
                "wer_by_seed": [rounded(reading.wer) for reading in readings],
                "nearest_token_accuracy": rounded(float(np.mean([reading.nearest for reading in readings]))),
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
    """The threshold on a curve of (error, WER), by rising error; the first point passes.

    Linear between the last point that passes, before any that fails, and the first that fails.
    """
    for (low, low_wer), (high, high_wer) in pairwise(points):
        if high_wer > limit:
            share = (limit - low_wer) / (high_wer - low_wer)
            return Crossing(low + share * (high - low), low, high)
    return Crossing(points[-1][0], points[-1][0], None)


def parse_levels(text: str) -> tuple[float, ...]:
    """`0,0.05,0.2` as numbers: ascending, each once.

    Raises:
        ConfigError: not numbers of at least 0, or without 0 or anything beside it.
    """
    example = "give relative MSEs like 0,0.05,0.2"
    levels = set()
    for word in text.split(","):
        try:
            level = float(word)
        except ValueError:
            level = math.nan
        if not 0 <= level < math.inf:
            raise ConfigError(f"--levels {text}: {word.strip()!r} is no number of at least 0; {example}")
        levels.add(level)
    if 0 not in levels or len(levels) < 2:
        raise ConfigError(f"--levels {text}: 0 and at least one more are needed, as WER is compared with that at 0")
    return tuple(sorted(levels))


def rounded(value: float) -> float:
    """Six digits that count."""
    return float(f"{value:.6g}")


def _check_out(out: Path) -> None:
    """Better said now than after minutes of work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made ({error.strerror}); name a folder you can write to") from error
    if not os.access(out, os.W_OK):
        raise ConfigError(f"--out {out}: cannot be written; name a folder you can write to")
