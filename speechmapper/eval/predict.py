"""Predictions of a run: by the nearest token, by beam search, or by a frozen LLM.

    RUN/projector + store or audio -> vectors -+-> nearest rows of the LLM's table -> text      without --llm
                                               +-> probabilities of rows -> beam search -> text    --beam, --hotwords
                                               +-> prompt -> LLM -> greedy answer -> text       with --llm

Utterances of like length are batched, and their lines written batch by batch (`predictions`), so that an evaluation
that was interrupted continues. At the end the lines are in the order of the store or manifest, one per item of the task
(a translation into each language, say). Utterances that the task has no item for, or whose audio cannot be used, are
listed as rejects.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sm_pipeline.console import progress
from sm_pipeline.devices import autocast, choose_device
from sm_pipeline.encoders.loading import weights_sha256
from sm_pipeline.manifest import read_manifest
from sm_pipeline.signals import raise_on_signals
from sm_store import Fields
from sm_store.errors import ConfigError, RunFailed
from sm_store.identity import utf8
from sm_store.records import Reject
from speechmapper.config import AUTO, NONE, LlmConfig
from speechmapper.eval.cascade import TextSource, answers_about, open_texts
from speechmapper.eval.degrade import Condition
from speechmapper.eval.predictions import NO_ITEM, REJECTS_FILE, PredictionLog, write_rejects
from speechmapper.eval.questions import Question, questions, with_held_out
from speechmapper.eval.ranks import Ranks, joined_ranks
from speechmapper.eval.sources import Heard, ManifestSource, Source, StoreSource
from speechmapper.llm import MAX_NEW_TOKENS, Output
from speechmapper.llm_loading import check_llm
from speechmapper.measure.vectors import word_errors
from speechmapper.projector import Projector, use_head
from speechmapper.prompting import Instruction
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import Readout, build_readout, require_search, require_transcript
from speechmapper.saved_projector import load_config, load_projector, versions
from speechmapper.tasks import ASR, FileTask, Item, Task
from speechmapper.tasks.base import ANY_LANGUAGE

CASCADE = "cascade"  # the readout of text in place of speech


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
        overwrite: begin anew where there are predictions already.
        condition: how a manifest's audio is made worse first; None: not at all.
        encoder: where the run's encoder is, if not where it was at extraction; for a manifest.
        wordings: how many wordings each item is asked in, `questions.ALL` of them; None: the first alone.
        cascade: `reference`, or a file or folder of predictions: texts that the LLM is given in place of speech.
        llm_dtype, quantize: how the LLM is loaded (`load_llm`, `llm.quantize`).
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
    overwrite: bool = False
    condition: Condition | None = None
    encoder: str | None = None
    llm_dtype: str = AUTO
    quantize: str = NONE
    cascade: str | None = None
    wordings: int | None = None

    def __post_init__(self) -> None:
        if self.llm is None and (self.llm_dtype, self.quantize) != (AUTO, NONE):
            raise ConfigError("--llm-dtype, --quantize: no LLM to load so; name it with --llm")
        if self.wordings is not None and self.llm is None:
            raise ConfigError("--wordings: without an LLM no prompt is read; name one with --llm")
        if self.cascade is not None and self.llm is None:
            raise ConfigError("--cascade: it gives text to an LLM; name one with --llm")
        if self.cascade is not None and (self.condition, self.encoder, self.head) != (None, None, None):
            raise ConfigError("--cascade: no speech is heard, so leave out --degrade, --encoder and --head")
        if self.store is not None and self.encoder is not None:
            raise ConfigError("--encoder: a store has its features already; leave it out, or give --manifest")


def predict(request: PredictRequest) -> list[dict[str, Any]]:
    """Write predictions and what made them into `request.out`; returns the predictions (in the main process alone).

    Raises:
        IdentityMismatch: features of another encoder than the run's. ConfigError: no such split.
        ModelError: no usable run or LLM. ManifestError: a bad manifest. RunFailed: no audio could be used.
    """
    with joined_ranks() as ranks:
        return _predict(request, ranks)


def _predict(request: PredictRequest, ranks: Ranks) -> list[dict[str, Any]]:
    device, task = choose_device(ranks.device(request.device)), request.task
    llm_config = LlmConfig(quantize=request.quantize)
    if request.llm is None:
        require_transcript(task)
    if request.search is not None:
        require_search(request.search, load_config(request.run), request.llm)
    if request.llm is not None:
        check_llm(request.llm, llm_config)  # before the encoder and its own weights are loaded
    projector = load_projector(request.run).to(device)
    if request.head is not None:
        use_head(projector, request.head, "--head")
    task = with_held_out(task.as_trained(projector.config.trained_for), task)
    source = open_source(request, projector)
    items = require_items(source, task, str(request.store or request.manifest))
    targets = source.store.targets(source.target) if isinstance(source, StoreSource) and source.target else None
    readout = build_readout(
        projector,
        request.llm,
        targets,
        request.max_new_tokens,
        request.search,
        llm_dtype=request.llm_dtype,
        llm_config=llm_config,
    )
    asked = {
        number: [each for item in found for each in questions(task, item, request.wordings)]
        for number, found in items.items()
    }
    ids = {source.id(number): number for number in items}
    log: PredictionLog | None = None
    if ranks.is_main:
        log = PredictionLog.open(
            request.out,
            about_predictions(request, task, projector, readout, source, ids),
            {name: len(asked[number]) for name, number in ids.items()},
            request.overwrite,
        )
    finished, done = ranks.of_main((log.finished, {line["id"] for line in log.kept}) if log else (False, set()))
    if finished:
        if log:
            sys.stderr.write(f"{request.out}: nothing to do, its {len(log.kept)} predictions are complete\n")
        return log.kept if log else []
    left = {number: asked[number] for name, number in ids.items() if name not in done}
    how = Asking(projector, readout, task, targets.spec.table_scale if targets else None, request.batch)
    shown = None if ranks.is_main else io.StringIO()
    with raise_on_signals(), progress(len(items), "reading out", "utterances", shown, len(done)) as bar:
        for lines, count in _rounds(how, source, left, ranks):
            if log:
                log.append(lines)
            bar.advance(count)
    rejects = list({each.id: each for found in ranks.each(source.rejects()) for each in found}.values())
    return _finished(request, log, rejects, without_items(source, task, items)) if log else []


def _rounds(
    how: Asking, source: Source, left: Mapping[int, Sequence[Question]], ranks: Ranks
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The lines that all processes have found in each round, a batch of each of them, and of how many utterances."""
    batches = source.batches(list(left), ranks.share)
    while True:
        heard = next(batches, None)
        lines: list[dict[str, Any]] = []
        if heard is not None:
            asked = [(row, each) for row, number in enumerate(heard.numbers) for each in left[number]]
            lines = answers(how, heard, asked, source)
        found = ranks.each((lines, -1 if heard is None else len(heard.numbers)))
        if all(count < 0 for _, count in found):
            return
        yield [line for lines, _ in found for line in lines], sum(max(count, 0) for _, count in found)


def _finished(
    request: PredictRequest, log: PredictionLog, rejects: Sequence[Reject], not_asked: Sequence[Reject]
) -> list[dict[str, Any]]:
    """Write what is left to be written of an evaluation; returns its predictions. Raises RunFailed: there are none."""
    write_rejects(request.out, [*not_asked, *rejects])
    if not log.kept and not log.added:
        raise RunFailed(
            f"{request.store or request.manifest}: no audio of its {len(rejects)} utterances could be used; "
            f"{request.out / REJECTS_FILE} has the reasons"
        )
    more = {"not_asked": len(not_asked)} if not_asked else {}
    return log.finish({"rejected": len(rejects), **more, "versions": versions()})


def about_predictions(
    request: PredictRequest, task: Task, projector: Projector, readout: Readout, source: Source, ids: Iterable[str]
) -> dict[str, Any]:
    """What decides the predictions, as JSON values: evaluations that agree in it can be continued."""
    return {
        "task": task.name,
        **({"definition": task.definition} if isinstance(task, FileTask) else {}),
        **({"languages": list(task.languages)} if task.languages else {}),
        "prompts_sha256": task.fingerprint(),
        **({"wordings_asked": request.wordings or "all"} if request.wordings is not None else {}),
        "readout": readout.name if request.cascade is None else CASCADE,
        **(request.search.identity() if request.search else {}),
        "llm": request.llm,
        **({"max_new_tokens": request.max_new_tokens} if request.llm else {}),
        **({"llm_dtype": request.llm_dtype} if request.llm_dtype != AUTO else {}),
        **({"quantize": request.quantize} if request.quantize != NONE else {}),
        "head": projector.config.head,
        "chat_template": dict(readout.template),
        "split": source.split,
        "source": str(request.store or request.manifest),
        **({"cascade": request.cascade, "texts_sha256": source.sha256()} if isinstance(source, TextSource) else {}),
        **({"condition": request.condition.identity()} if request.condition else {}),
        **({"target": source.target} if isinstance(source, StoreSource) else {}),
        "utterances_sha256": hashlib.sha256("\n".join(ids).encode(errors="surrogateescape")).hexdigest(),
        "projector_sha256": weights_sha256(projector),
        "run": projector.config.trained_for,
    }


@dataclass(frozen=True, slots=True)
class Asking:
    """How answers are read out.

    Attributes:
        table_scale: mean square of the table's entries, by which distances to true embeddings are divided.
        most: items run together.
    """

    projector: Projector
    readout: Readout
    task: Task
    table_scale: float | None
    most: int


def answers(how: Asking, heard: Heard, asked: Sequence[tuple[int, Question]], source: Source) -> list[dict[str, Any]]:
    """The line of every question about a batch's utterances, each with its row in the batch."""
    found = []
    for start in range(0, len(asked), how.most):
        rows, chosen = zip(*asked[start : start + how.most], strict=True)
        instructions = [question.instruction(how.task) for question in chosen]
        began = time.perf_counter()
        lines = predict_batch(how.projector, how.readout, heard.of_rows(rows), instructions, how.table_scale)
        seconds = (time.perf_counter() - began) / len(rows)
        for row, question, instruction, line in zip(rows, chosen, instructions, lines, strict=True):
            number = heard.numbers[row]
            found.append(
                {
                    "id": source.id(number),
                    "task": how.task.name,
                    **labels(source.fields(number), question.item),
                    "reference": question.item.reference,
                    **question.labels(),
                    **prompt_of(how.readout.shown(instruction)),
                    **line,
                    "output": how.task.cleaned(line["output"]),
                    "seconds": round(seconds, 4),
                }
            )
    return found


def labels(fields: Fields, item: Item) -> dict[str, Any]:
    """What is known of an item besides its answer, to tell results apart by: speaker, corpus, languages, ..."""
    known = {name: getattr(fields, name) for name in ("lang", "speaker", "corpus", "duration")}
    known["language"] = None if item.language == ANY_LANGUAGE else item.language
    known["question"] = item.values.get("question")
    known["source"] = fields.text if fields.text != item.reference else None
    return {name: value for name, value in known.items() if value is not None}


def prompt_of(prompt: str | None) -> dict[str, Any]:
    """A prompt and its fingerprint; without one, null alone."""
    return {"prompt": prompt, **({"prompt_sha256": hashlib.sha256(utf8(prompt)).hexdigest()[:12]} if prompt else {})}


@torch.inference_mode()
def predict_batch(
    projector: Projector,
    readout: Readout,
    heard: Heard,
    instructions: Sequence[Instruction],
    table_scale: float | None,
) -> list[dict[str, Any]]:
    """Outputs of some utterances, with their distance to the true embeddings where those are known."""
    if heard.texts is not None:
        read = answers_about(heard.texts, readout, instructions)
        return [{"output": answer.text, **ending(answer)} for answer in read]
    device = projector.device
    with autocast(device):
        projected = projector.project(heard.features_BTD.to(device), heard.frames_B.to(device))
        read = readout.answers(projected, instructions)
    lines: list[dict[str, Any]] = [{"output": answer.text, **ending(answer)} for answer in read]
    if heard.targets_BUE is None or heard.tokens_B is None or table_scale is None:
        return lines
    targets_BUE, tokens_B = heard.targets_BUE.to(device), heard.tokens_B.to(device)
    given_BUE = readout.head.padded_inputs(projected)
    mse_B, positions_B = word_errors(given_BUE, targets_BUE, projected.vectors_B, tokens_B)
    mean_B = mse_B / table_scale
    for line, mean, count in zip(lines, mean_B.tolist(), positions_B.tolist(), strict=True):
        line["relative_mse"], line["positions"] = (round(mean, 6) if count else None), count
    return lines


def ending(answer: Output) -> dict[str, Any]:
    """How many tokens an LLM wrote, and what ended them; empty where none wrote."""
    return (
        {}
        if answer.tokens is None
        else {"tokens": answer.tokens, "stop": "length" if answer.stopped_by_length else "end"}
    )


def require_items(source: Source, task: Task, where: str) -> dict[int, list[Item]]:
    """The items of every utterance that has any, by its number.

    Raises:
        ConfigError: none has one, or there is no wording for the language of one.
    """
    numbers = source.numbers()
    asked = {number: task.items(source.fields(number)) for number in numbers}
    for language in sorted({item.language for items in asked.values() for item in items}):
        task.instruction(Item(language=language))
    found = {number: items for number, items in asked.items() if items}
    if not found:
        wanted = f" ({', '.join(task.needs)}{' in ' + ', '.join(task.languages) if task.languages else ''})"
        raise ConfigError(
            f"{where}: split {source.split or '(all)'}: none of {len(numbers)} utterances has an answer for "
            f"{task.name}{wanted if task.needs else ''}; choose another --split, task or corpus"
        )
    return found


def without_items(source: Source, task: Task, items: Mapping[int, Sequence[Item]]) -> list[Reject]:
    """The utterances that a task has no item for."""
    lacks = f"lacks {task.needed() or 'text'}"
    return [Reject(source.id(number), NO_ITEM, lacks) for number in source.numbers() if number not in items]


def open_source(request: PredictRequest, projector: Projector) -> Source:
    """The store or the manifest asked for."""
    if request.cascade is not None:
        return open_texts(request.cascade, request.store, request.manifest, request.split, request.batch)
    if request.store is not None and request.manifest is None:
        if request.condition is not None:
            raise ConfigError("--degrade: a store has features, not audio; give the corpus with --manifest")
        return StoreSource(request.store, projector, request.split, request.batch)
    if request.manifest is not None and request.store is None:
        condition = request.condition
        degrade = None if condition is None else condition.degrade(read_manifest(request.manifest))
        return ManifestSource(request.manifest, projector, request.split, request.batch, degrade, request.encoder)
    raise ConfigError("--store, --manifest: give one of the two")
