"""Predictions of a run: by the nearest token, by beam search, or by a frozen LLM.

    RUN/projector + store or audio -> vectors -+-> nearest rows of the LLM's table -> text      without --llm
                                               +-> probabilities of rows -> beam search -> text    --beam, --hotwords
                                               +-> prompt -> LLM -> greedy answer -> text       with --llm

Utterances of like length are batched; the lines are in the order of the store or manifest. `predictions`
writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sm_pipeline.console import progress
from sm_pipeline.devices import autocast, choose_device
from sm_store.errors import ConfigError
from speechmapper.eval.predictions import write_predictions
from speechmapper.eval.sources import Heard, ManifestSource, Source, StoreSource
from speechmapper.llm import MAX_NEW_TOKENS
from speechmapper.measure.vectors import word_errors
from speechmapper.projector import Projector, use_head
from speechmapper.prompting import Instruction
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import Readout, build_readout, require_search
from speechmapper.saved_projector import load_config, load_projector, versions
from speechmapper.tasks import ASR


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What `sm-eval asr` was asked for.

    Attributes:
        run: run (or projector) folder.
        store, manifest: where the speech is; one of the two.
        llm: a model argument, or None for the nearest token.
        split: None: `test` where there are splits.
        batch: utterances run together.
        head: what the LLM is given, in place of the run's own head; None: that one.
        search: how a CTC projector is read without an LLM; None: greedily.
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


def predict(request: PredictRequest) -> list[dict[str, Any]]:
    """Write predictions and what made them into `request.out`; returns the predictions.

    Raises:
        IdentityMismatch: features of another encoder than the run's. ConfigError: no such split.
        ModelError: no usable run or LLM. ManifestError: a bad manifest. RunFailed: no audio could be used.
    """
    device = choose_device(request.device)
    if request.search is not None:
        require_search(request.search, load_config(request.run), request.llm)
    projector = load_projector(request.run).to(device)
    if request.head is not None:
        use_head(projector, request.head, "--head")
    source = open_source(request, projector)
    targets = source.store.targets(source.target) if isinstance(source, StoreSource) and source.target else None
    readout = build_readout(projector, request.llm, targets, request.max_new_tokens, request.search)
    scale = targets.spec.table_scale if targets else None
    lines: dict[int, dict[str, Any]] = {}
    with progress(len(source), "reading out", "utterances") as bar:
        for heard in source.batches():
            fields = [source.fields(number) for number in heard.numbers]
            items = [ASR.items(each)[0] for each in fields]
            instructions = [ASR.instruction(item) for item in items]
            outputs = predict_batch(projector, readout, heard, instructions, scale)
            for number, each, item, instruction, line in zip(
                heard.numbers, fields, items, instructions, outputs, strict=True
            ):
                lang = {"lang": each.lang} if each.lang else {}
                prompt = {"reference": item.reference, "prompt": readout.shown(instruction)}
                lines[number] = {"id": source.id(number), **lang, **prompt, **line}
            bar.advance(len(heard.numbers))
    predictions = [lines[number] for number in sorted(lines)]
    write_predictions(
        request.out,
        predictions,
        {
            "task": ASR.name,
            "readout": readout.name,
            **(request.search.identity() if request.search else {}),
            "llm": request.llm,
            "head": projector.config.head,
            "chat_template": dict(readout.template),
            "split": source.split,
            "rejected": source.rejected(),
            "source": str(request.store or request.manifest),
            "run": projector.config.trained_for,
            "versions": versions(),
        },
    )
    return predictions


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
    lines: list[dict[str, Any]] = [{"output": ASR.cleaned(output)} for output in outputs]
    if heard.targets_BUE is None or heard.tokens_B is None or table_scale is None:
        return lines
    targets_BUE, tokens_B = heard.targets_BUE.to(device), heard.tokens_B.to(device)
    given_BUE = readout.head.padded_inputs(projected)
    mse_B, positions_B = word_errors(given_BUE, targets_BUE, projected.vectors_B, tokens_B)
    mean_B = mse_B / table_scale
    for line, mean, count in zip(lines, mean_B.tolist(), positions_B.tolist(), strict=True):
        line["relative_mse"], line["positions"] = (round(mean, 6) if count else None), count
    return lines


def open_source(request: PredictRequest, projector: Projector) -> Source:
    """The store or the manifest asked for."""
    if request.store is not None and request.manifest is None:
        return StoreSource(request.store, projector, request.split, request.batch)
    if request.manifest is not None and request.store is None:
        return ManifestSource(request.manifest, projector, request.split, request.batch)
    raise ConfigError("--store, --manifest: give one of the two")
