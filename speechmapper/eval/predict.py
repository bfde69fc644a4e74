"""Predictions of a run: by the nearest token, by beam search, or by a frozen LLM.

    RUN/projector + store or audio -> vectors -+-> nearest rows of the LLM's table -> text      without --llm
                                               +-> probabilities of rows -> beam search -> text    --beam, --hotwords
                                               +-> prompt -> LLM -> greedy answer -> text       with --llm

Utterances of like length are batched; the lines are in the order of the store or manifest, one per item of the task (a
translation into each language, say). `predictions` writes them. Utterances that the task has no item for are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sm_pipeline.console import progress
from sm_pipeline.devices import autocast, choose_device
from sm_store import Fields
from sm_store.errors import ConfigError
from speechmapper.eval.predictions import write_predictions
from speechmapper.eval.sources import Heard, ManifestSource, Source, StoreSource
from speechmapper.llm import MAX_NEW_TOKENS
from speechmapper.measure.vectors import word_errors
from speechmapper.projector import Projector, use_head
from speechmapper.prompting import Instruction
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import Readout, build_readout, require_search, require_transcript
from speechmapper.saved_projector import load_config, load_projector, versions
from speechmapper.tasks import ASR, FileTask, Item, Task
from speechmapper.tasks.base import ANY_LANGUAGE


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What `sm-eval asr`, `st` or `sqa` evaluates.

    Attributes:
        run: run (or projector) folder.
        store, manifest: where the speech is; one of the two.
        llm: a model argument, or None for the nearest token.
        split: None: `test` where there are splits.
        batch: utterances run together.
        head: what the LLM is given, in place of the run's own head; None: that one.
        search: how a CTC projector is read without an LLM; None: greedily.
        task: what is asked, with its languages and wordings.
    """

    run: Path
    out: Path
    store: Path | None = None
    manifest: Path | None = None
    llm: str | None = None
    split: str | None = None
    device: str = "auto"
    max_new_tokens: int = MAX_NEW_TOKENS
    batch: int = 32
    head: str | None = None
    search: BeamSearch | None = None
    task: Task = ASR


def predict(request: PredictRequest) -> list[dict[str, Any]]:
    """Write predictions and what made them into `request.out`; returns the predictions.

    Raises:
        IdentityMismatch: features of another encoder than the run's. ConfigError: no such split.
        ModelError: no usable run or LLM. ManifestError: a bad manifest. RunFailed: no audio could be used.
    """
    device, task = choose_device(request.device), request.task
    if request.llm is None:
        require_transcript(task)
    if request.search is not None:
        require_search(request.search, load_config(request.run), request.llm)
    projector = load_projector(request.run).to(device)
    if request.head is not None:
        use_head(projector, request.head, "--head")
    task = task.as_trained(projector.config.trained_for)
    source = open_source(request, projector)
    not_asked = require_items(source, task, str(request.store or request.manifest))
    targets = source.store.targets(source.target) if isinstance(source, StoreSource) and source.target else None
    readout = build_readout(projector, request.llm, targets, request.max_new_tokens, request.search)
    ask = partial(answers, projector, readout, task, targets.spec.table_scale if targets else None, request.batch)
    lines: dict[int, list[dict[str, Any]]] = {}
    with progress(len(source), "reading out", "utterances") as bar:
        for heard in source.batches():
            for number, line in ask(heard, [source.fields(number) for number in heard.numbers]):
                lines.setdefault(number, []).append({"id": source.id(number), **line})
            bar.advance(len(heard.numbers))
    predictions = [line for number in sorted(lines) for line in lines[number]]
    write_predictions(
        request.out,
        predictions,
        {
            "task": task.name,
            **({"definition": task.definition} if isinstance(task, FileTask) else {}),
            **({"languages": list(task.languages)} if task.languages else {}),
            "readout": readout.name,
            **(request.search.identity() if request.search else {}),
            "llm": request.llm,
            "head": projector.config.head,
            "chat_template": dict(readout.template),
            "split": source.split,
            "rejected": source.rejected(),
            **({"not_asked": not_asked} if not_asked else {}),
            "source": str(request.store or request.manifest),
            "run": projector.config.trained_for,
            "versions": versions(),
        },
    )
    return predictions


def answers(
    projector: Projector,
    readout: Readout,
    task: Task,
    table_scale: float | None,
    most: int,
    heard: Heard,
    fields: Sequence[Fields],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line of every item of a batch's utterances, with the utterance's number, at most `most` run together."""
    asked = [(row, item) for row, each in enumerate(fields) for item in task.items(each)]
    for start in range(0, len(asked), most):
        rows, items = zip(*asked[start : start + most], strict=True)
        instructions = [task.instruction(item) for item in items]
        lines = predict_batch(projector, readout, heard.of_rows(rows), instructions, table_scale)
        for row, item, instruction, line in zip(rows, items, instructions, lines, strict=True):
            labels = {"lang": fields[row].lang, "language": item.language}
            found = {name: value for name, value in labels.items() if value not in (None, ANY_LANGUAGE)}
            found |= {"reference": item.reference, "prompt": readout.shown(instruction), **line}
            yield heard.numbers[row], {**found, "output": task.cleaned(line["output"])}


@torch.inference_mode()
def predict_batch(
    projector: Projector,
    readout: Readout,
    heard: Heard,
    instructions: Sequence[Instruction],
    table_scale: float | None,
) -> list[dict[str, Any]]:
    """Outputs of some utterances, with their distance to the true embeddings where those are known."""
    device = projector.device
    with autocast(device):
        projected = projector.project(heard.features_BTD.to(device), heard.frames_B.to(device))
        outputs = readout.read(projected, instructions)
    lines: list[dict[str, Any]] = [{"output": output} for output in outputs]
    if heard.targets_BUE is None or heard.tokens_B is None or table_scale is None:
        return lines
    targets_BUE, tokens_B = heard.targets_BUE.to(device), heard.tokens_B.to(device)
    given_BUE = readout.head.padded_inputs(projected)
    mse_B, positions_B = word_errors(given_BUE, targets_BUE, projected.vectors_B, tokens_B)
    mean_B = mse_B / table_scale
    for line, mean, count in zip(lines, mean_B.tolist(), positions_B.tolist(), strict=True):
        line["relative_mse"], line["positions"] = (round(mean, 6) if count else None), count
    return lines


def require_items(source: Source, task: Task, where: str) -> int:
    """Leave the utterances out that a task has no item for; returns how many.

    Raises:
        ConfigError: it has none at all, or no wording for the language of one.
    """
    numbers = source.numbers()
    asked = {number: task.items(source.fields(number)) for number in numbers}
    for language in sorted({item.language for items in asked.values() for item in items}):
        task.instruction(Item(language=language))
    kept = [number for number in numbers if asked[number]]
    if not kept:
        wanted = f" ({', '.join(task.needs)}{' in ' + ', '.join(task.languages) if task.languages else ''})"
        raise ConfigError(
            f"{where}: split {source.split or '(all)'}: none of {len(numbers)} utterances has an answer for "
            f"{task.name}{wanted if task.needs else ''}; choose another --split, task or corpus"
        )
    source.keep(kept)
    return len(numbers) - len(kept)


def open_source(request: PredictRequest, projector: Projector) -> Source:
    """The store or the manifest asked for."""
    if request.store is not None and request.manifest is None:
        return StoreSource(request.store, projector, request.split, request.batch)
    if request.manifest is not None and request.store is None:
        return ManifestSource(request.manifest, projector, request.split, request.batch)
    raise ConfigError("--store, --manifest: give one of the two")
