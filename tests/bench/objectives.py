"""Stage 1 objectives and heads at equal steps, several seeds: by default on what `make demo` left in demo/store.

    python tests/bench/objectives.py [--store demo/store] [--config YAML] [--steps 500] [--seeds 3] --out OUT
        [--objectives mse+cosine,ctc-embedding] [--set objective.negatives=1000] [--llm smollm2-135m] [--utterances 48]

Each run is trained by itself, with the projector, batches, learning rate and schedule
of the demo preset or of `--config`. Figures are of the dev split: by nearest token, and with `--llm` as that LLM reads
each head of the projector, with no stage 2. Every run keeps its folder; `OUT/objectives.json` keeps the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sm_pipeline.models.source import resolve_model
from speechmapper.config import Stage1Config
from speechmapper.config_file import load_stage1
from speechmapper.heads import Head
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.loader.data import DataRequest, open_data
from speechmapper.projector import HEADS, use_head
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import load_projector
from speechmapper.train.llm_validation import LlmValidation, asr_probe
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, geometry_of, train_stage1
from speechmapper.train.validation import dev_set

OBJECTIVES = (
    "mse",
    "mse+cosine",
    "mse+centered-cosine",
    "l1+cosine+contrastive",
    "mse+cosine+ctc",
    "dtw",
    "ctc-embedding",
    "ctc-embedding+commitment",
)
LONGEST_ANSWER = 60  # tokens: an LLM that cannot read its input would go on to its limit


def variant(config: Stage1Config, name: str) -> Stage1Config:
    """The configuration with another objective, at its default weights."""
    defaults = {f"{part}_weight": None for part in ("cosine", "centered_cosine", "contrastive", "ctc", "commitment")}
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, name=name, **defaults))


def measure(given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Dev figures by objective, one entry a seed."""
    llm = load_llm(resolve_model(given.llm, "llm"), torch.device("cpu")) if given.llm else None
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.objectives}
    for seed in range(1, given.seeds + 1):
        settings = [f"seed={seed}", "run.eval_every=0", "run.save_every=0", *given.set]
        if given.steps is not None:
            settings += [f"schedule.steps={given.steps}", f"schedule.warmup={given.steps // 10}"]
        config = load_stage1(None if given.config else "demo", given.config, settings)
        runs = {given.out / f"{name}-seed{seed}": variant(config, name) for name in given.objectives}
        for run, each in runs.items():
            started = time.perf_counter()
            train_stage1(Stage1Request(given.store, run, each))
            seconds = time.perf_counter() - started
            figures = {key.removeprefix("dev_"): value for key, value in read_metrics(run)[-1].items()}
            row = {name: figures[name] for name in ("wer", "relative_mse")} | {"seconds": seconds / each.schedule.steps}
            if llm is not None:
                row |= read_heads(llm, run, given.store, each, given.utterances)
            found[each.objective.name].append(row)
            (given.out / "objectives.json").write_text(json.dumps(found, indent=1))
    return found


def read_heads(llm: FrozenLLM, run: Path, store: Path, config: Stage1Config, utterances: int) -> dict[str, float]:
    """WER of what the LLM reads of each head, on so many dev utterances."""
    data = open_data(DataRequest(store), geometry_of(config), config.data, config.seed)
    dev = dev_set(run, data, dataclasses.replace(config.run, eval_utterances=utterances, examples=0))
    assert dev is not None
    projector, found = load_projector(run), {}
    for kind in HEADS[projector.config.readout]:
        use_head(projector, kind, "head")
        head = Head(projector.config, data.targets.table, data.spec.pad_id, projector.device)
        with torch.inference_mode():
            readout = llm_readout(llm, head, LONGEST_ANSWER)
            read = LlmValidation(dev, readout, [asr_probe(dev)], data.spec.table_scale).run(projector, 0)
        found[f"llm {kind}"] = read.figures["wer"]
    return found


def in_columns(found: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Table:
    """Means over the seeds, with the least and the most."""
    figures = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))
    table = Table("objective", *figures, title=title)
    for name, rows in found.items():
        cells = []
        for figure in figures:
            values = [row[figure] for row in rows if figure in row]
            shown = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""
            cells.append(shown)
        table.add_row(name, *cells)
    return table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="YAML in place of the demo preset")
    parser.add_argument("--steps", type=int, help="of stage 1; warm-up is a tenth of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=["objective.negatives=1000"], metavar="KEY=VALUE")
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=list(OBJECTIVES))
    parser.add_argument("--llm", help="let this LLM read each head")
    parser.add_argument("--utterances", type=int, default=48, help="that it reads")
    return parser.parse_args(arguments)


def main() -> None:
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    title = f"{given.steps or 'as configured'} steps, {given.seeds} seeds, dev split"
    Console(file=sys.stdout, width=200).print(in_columns(measure(given), title))


if __name__ == "__main__":
    main()
