"""What it costs a training step to score its vectors against the rows of an LLM's table.

    mse+cosine            the paper's objective: no scores
    ctc-embedding N       N rows drawn at random
    ctc-embedding all     the whole table; beside it, how many more multiply-adds that is

    python tests/bench/scoring.py [--width 1024] [--vocabulary 49152] [--negatives 8192] [--vectors 320] [--device cuda]

One forward and backward of the projector with each objective on the same batch, in turns; medians. Multiply-adds are
counted by torch in one of them. At paper size on a GPU: --width 4096 --vocabulary 128256 --vectors 1024.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from speechmapper.objectives.base import Answers, Objective
from speechmapper.objectives.cosine import Cosine
from speechmapper.objectives.ctc import EmbeddingCTC
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import Projector, ProjectorConfig

PAPER, SECONDS_OF_AN_UTTERANCE = "mse+cosine", 12


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes: `width` of the LLM's rows (the projector's blocks have a fourth and half of it), vectors of a batch."""

    width: int = 1024
    vocabulary: int = 49_152
    negatives: int = 8192
    vectors: int = 320
    rounds: int = 3
    device: str = "cpu"


def measure(options: Options) -> Table:
    """Seconds and multiply-adds of a step by objective, and their ratios to the paper's."""
    device = torch.device(options.device)
    torch.manual_seed(1)
    table_VE = torch.randn(options.vocabulary, options.width, device=device)
    objectives = {
        PAPER: Objective({"mse": (WeightedDistance(), 1.0), "cosine": (Cosine(), 1.0)}),
        f"ctc-embedding {options.negatives}": of_ctc(Vocabulary(table_VE, options.negatives)),
        "ctc-embedding all": of_ctc(Vocabulary(table_VE, 0)),
    }
    sizes = ProjectorConfig(
        block_sizes=(options.width // 4, options.width // 2),
        block_outputs=(options.width // 2, options.width),
        output_size=options.width,
        ffn_size=options.width // 2,
        readout="ctc",
    )
    projector = Projector(sizes).to(device)
    features_BTD, answers = batch(options, sizes, device)
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    operations = {}
    for number in range(options.rounds + 1):
        for name, objective in objectives.items():
            if number == 0:  # warms up, and counts
                with FlopCounterMode(display=False) as counter:
                    step(projector, objective, features_BTD, answers)
                operations[name] = counter.get_total_flops() / 2
            else:
                seconds[name].append(step(projector, objective, features_BTD, answers))
    return in_rows({name: statistics.median(each) for name, each in seconds.items()}, operations, options)


def of_ctc(vocabulary: Vocabulary) -> Objective:
    return Objective({"ctc-embedding": (EmbeddingCTC(vocabulary, 0.1), 1.0)})


def batch(options: Options, sizes: ProjectorConfig, device: torch.device) -> tuple[torch.Tensor, Answers]:
    """Utterances of random frames, with half as many tokens as vectors."""
    frames = 25 * SECONDS_OF_AN_UTTERANCE
    each = sizes.geometry.num_vectors(frames)
    utterances = max(1, round(options.vectors / each))
    vectors_B = torch.full((utterances,), each, device=device)
    ids_BN = torch.randint(options.vocabulary, (utterances, each // 2), device=device)
    answers = Answers(
        targets_BUE=torch.randn(utterances, each, options.width, device=device),
        vectors_B=vectors_B,
        tokens_B=torch.full((utterances,), each // 2, device=device),
        token_ids_BN=ids_BN,
        frames_B=torch.full((utterances,), frames, device=device),
    )
    return torch.randn(utterances, frames, sizes.input_size, device=device), answers


def step(projector: Projector, objective: Objective, features_BTD: torch.Tensor, answers: Answers) -> float:
    """Seconds of one forward and backward."""
    started = time.perf_counter()
    projected = projector.project(features_BTD, answers.frames_B)
    objective.combine(objective(projected, answers), objective.counts(answers)).backward()
    projector.zero_grad()
    if features_BTD.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_rows(seconds: dict[str, float], operations: dict[str, float], options: Options) -> Table:
    title = f"A step with {options.vectors} vectors of width {options.width}, {options.vocabulary:,} rows"
    table = Table("objective", "ms", "of mse+cosine", "multiply-adds", "of mse+cosine", title=title)
    for name, each in seconds.items():
        ratios = f"{each / seconds[PAPER]:.2f}", f"{operations[name] / operations[PAPER]:.2f}"
        table.add_row(name, f"{1000 * each:.0f}", ratios[0], f"{operations[name] / 1e9:.1f} G", ratios[1])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("width", "vocabulary", "negatives", "vectors", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Options(), name))
    parser.add_argument("--device", default="cpu")
    Console(file=sys.stdout).print(measure(Options(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
