"""Predictions of a run: by the nearest token, or by a frozen LLM.

    RUN/projector + store or audio -> vectors -+-> nearest rows of the LLM's table -> text      without --llm
                                               +-> prompt -> LLM -> greedy answer -> text       with --llm

Utterances of like length are batched; the lines are in the order of the store or manifest. `predictions`
writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sm_pipeline.console import progress
from sm_pipeline.devices import autocast, choose_device
from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_store import TargetSet
from sm_store.errors import ConfigError
from speechmapper.eval.predictions import write_predictions
from speechmapper.eval.sources import Heard, ManifestSource, Source, StoreSource
from speechmapper.llm import MAX_NEW_TOKENS, load_llm
from speechmapper.objectives.base import word_and_pad_positions
from speechmapper.projector import Projector
from speechmapper.readout.nearest import NearestToken
from speechmapper.saved_projector import load_projector, model_name, versions
from speechmapper.train.tokenizer import load_tokenizer

NEAREST, GENERATED = "nearest-token", "generation"


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What `sm-eval asr` was asked for.

    Attributes:
        run: run (or projector) folder.
        store, manifest: where the speech is; one of the two.
        llm: a model argument, or None for the nearest token.
        split: None: `test` where there are splits.
        batch: utterances run together.
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


@dataclass(frozen=True, slots=True)
class Readout:
    """How vectors become text: `read(vectors_BUE, vectors_B)`, and what to say of it."""

    name: str
    read: Callable[[torch.Tensor, torch.Tensor], list[str]]
    prompt: str | None = None


def predict(request: PredictRequest) -> list[dict[str, Any]]:
    """Write predictions and what made them into `request.out`; returns the predictions.

    Raises:
        IdentityMismatch: features of another encoder than the run's. ConfigError: no such split.
        ModelError: no usable run or LLM. ManifestError: a bad manifest. RunFailed: no audio could be used.
    """
    device = choose_device(request.device)
    projector = load_projector(request.run).to(device)
    source = open_source(request, projector)
    targets = source.store.targets(source.target) if isinstance(source, StoreSource) and source.target else None
    readout = build_readout(request, projector, targets)
    scale = targets.spec.table_scale if targets else None
    lines: dict[int, dict[str, Any]] = {}
    with progress(len(source), "reading out", "utterances") as bar:
        for heard in source.batches():
            for number, line in zip(heard.numbers, predict_batch(projector, readout, heard, scale), strict=True):
                lines[number] = {**source.entry(number), "prompt": readout.prompt, **line}
            bar.advance(len(heard.numbers))
    predictions = [lines[number] for number in sorted(lines)]
    write_predictions(
        request.out,
        predictions,
        {
            "task": "asr",
            "readout": readout.name,
            "llm": request.llm,
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
    projector: Projector, readout: Readout, heard: Heard, table_scale: float | None
) -> list[dict[str, Any]]:
    """Outputs of some utterances, with their distance to the true embeddings where those are known."""
    device = projector.device
    with autocast(device):
        vectors_BUE, vectors_B = projector(heard.features_BTD.to(device), heard.frames_B.to(device))
        outputs = readout.read(vectors_BUE, vectors_B)
    lines: list[dict[str, Any]] = [{"output": output} for output in outputs]
    if heard.targets_BUE is None or heard.tokens_B is None or table_scale is None:
        return lines
    targets_BUE, tokens_B = heard.targets_BUE.to(device), heard.tokens_B.to(device)
    error_BU = (vectors_BUE.float() - targets_BUE.float()).square().mean(dim=-1) / table_scale
    word_BU, _ = word_and_pad_positions(vectors_B, tokens_B, error_BU.shape[1])
    positions_B = torch.where(tokens_B > 0, word_BU.sum(dim=1), 0)
    mean_B = (error_BU * word_BU).sum(dim=1) / word_BU.sum(dim=1).clamp(min=1)
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


def build_readout(request: PredictRequest, projector: Projector, targets: TargetSet | None) -> Readout:
    """Generation by the LLM asked for, else the nearest token of the run's LLM.

    Args:
        targets: the store's target set of the run's LLM; without, table and tokenizer come from the LLM's
        files.
    """
    if request.llm is not None:
        tokenizer = load_tokenizer(targets.tokenizer_dir) if targets else None
        llm = load_llm(resolve_model(request.llm, "llm"), projector.device, tokenizer=tokenizer)
        if targets:
            llm.require_table(targets)
        prompt = llm.prompter.asr()
        return Readout(
            GENERATED,
            lambda vectors, lengths: llm.generate(vectors, lengths, [prompt] * len(vectors), request.max_new_tokens),
            llm.prompter.shown(prompt),
        )
    made = projector.config.trained_for["target"]
    if targets:
        table, tokenizer = targets.table, load_tokenizer(targets.tokenizer_dir)
    else:
        loaded = load_llm_table(model_name({"id": made["llm"], "revision": made["revision"]}))
        table, tokenizer = loaded.table_VE, loaded.tokenizer
    nearest = NearestToken(table, tokenizer, made["pad_id"], projector.device, projector.blank)
    return Readout(NEAREST, lambda vectors, lengths: nearest.texts(nearest.token_ids(vectors, lengths)))
