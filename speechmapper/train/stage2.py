"""Stage 2: adapt the projector to one frozen LLM that repeats, translates or answers.

    store -> projector -> vectors -+-> objective against the text embeddings       sigma
                                   +-> prompt -> frozen LLM -> cross-entropy   1 - sigma
                                       of the answer's tokens

The same loop as in stage 1; only the projector's weights are given to the optimizer, the LLM's take no gradient.
With sigma 0 the text embeddings are not used, with sigma 1 the LLM is not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_pipeline.text import NORMALIZER
from sm_store import Store
from sm_store.errors import ConfigError
from speechmapper.config import AUTO, Stage2Config
from speechmapper.config_file import to_plain
from speechmapper.heads import Head
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.loader.data import DataRequest, TrainingData, open_data
from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.loader.token_ids import token_counts
from speechmapper.objectives import Objective
from speechmapper.objectives.build import build_objective, readout_of
from speechmapper.projector import Projector, use_head
from speechmapper.prompting import Prompt
from speechmapper.readout.build import Readout, llm_readout
from speechmapper.saved_projector import (
    load_projector,
    matching_target,
    require_features,
    require_target,
    trained_for,
    weights_crc32c,
)
from speechmapper.tasks import ASR, Item, Mixture, StoreFields, mixture
from speechmapper.train.loop import Loop
from speechmapper.train.run import Outcome, Run, Setup, micro_seed
from speechmapper.train.run_folder import open_accelerator, print_message, run_identity, start_run
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage import Evaluation, ProjectorOutput, ProjectorWithObjective
from speechmapper.train.validation import DevSet, dev_set

CROSS_ENTROPY = "ce"
OBJECTIVES = {"nearest": "mse", "ctc": "ctc-embedding", "cif": "dtw"}  # of `auto`, by the projector's readout
READ_BATCH = 16  # utterances the LLM reads together in validation


@dataclass(frozen=True, slots=True)
class Stage2Request:
    """The arguments of `sm-train stage2`: `projector` is a run folder, `llm` a model argument."""

    store: Path
    projector: Path
    llm: str
    out: Path
    config: Stage2Config
    target: str | None = None
    split: str | None = None
    resume: bool = False


def train_stage2(request: Stage2Request) -> Outcome:
    """Run stage 2; writes the run folder, `projector/` last.

    Raises:
        IdentityMismatch: a store, projector and LLM that do not belong together; carries the differences.
        ModelError: no usable LLM or projector. ConfigError: settings that do not fit.
    """
    with ExitStack() as locks:
        return _train(request, locks)


def _train(request: Stage2Request, locks: ExitStack) -> Outcome:
    """As `train_stage2`; the lock of the run folder is held until `locks` is closed."""
    tasks = tasks_of(request.config)  # refused before anything is loaded
    projector = load_projector(request.projector)
    config = fitted(request.config, projector)
    target = request.target or matching_target(Store.open(request.store), projector)
    wanted = DataRequest(request.store, target, request.split)
    data = open_data(wanted, projector.config.geometry, config.data, config.seed)
    require_features(projector, data.store.identity, f"store {request.store}")
    require_target(projector, data.spec, f"target set {data.spec.name}")
    fields = StoreFields(data.store)
    qualifying = require_tasks(tasks, fields, data)
    source = resolve_model(request.llm, "llm")
    accelerator = open_accelerator(config.run, request.out)
    locks.enter_context(locked_run(request.out, accelerator))
    start_run(request.out, config, request.resume, accelerator)
    targets = data.targets
    tokenizer = load_stored_tokenizer(targets)
    llm = load_llm(source, accelerator.device, config.tuning.llm_dtype, tokenizer, config.llm)
    llm.require_table(targets)
    projector.config.trained_for = trained_for(
        "stage2",
        data.store.identity,
        data.spec,
        task=config.tuning.task,
        sigma=config.tuning.sigma,
        llm=llm.identity(),
        chat_template=llm.prompter.template(),
        started_from=projector.config.trained_for,
    )
    identity = {
        **run_identity(config, projector, data),
        "llm": llm.identity(),
        "chat_template": llm.prompter.template(),
        "tuning": tuning_identity(config, tasks),
        "started_from": weights_crc32c(projector),
    }
    objective = None
    if config.tuning.sigma > 0:
        # Part kd reads the first layers of the same LLM once more: they are few, and stage 1 has no other way.
        parts = dataclasses.replace(config.objective, llm=config.objective.llm or request.llm)
        objective = build_objective(parts, targets, projector.config, accelerator.device, partial(token_counts, data))
    freeze_unused(projector, config)
    head = Head(projector.config, targets.table, data.spec.pad_id, accelerator.device)
    print_message(accelerator, f"{learning_report(projector, llm, data)}\n  {qualifying}")
    dev = dev_set(request.out, data, config.run)
    validation = ReadValidation(dev, llm_readout(llm, head)) if dev else None
    stage = TuningStage(config, objective, llm, head, fields, validation, data.spec.normalizer)
    setup = Setup(request.out, config, identity, data.order, data.store.identity.frame_rate)
    run = Run(setup, stage, ProjectorWithObjective(projector, objective), accelerator)
    loop = Loop("stage 2", data.source, data.order, config.data, config.schedule, accelerator)
    (outcome,) = loop.run([run], request.resume)
    if accelerator.is_main_process:
        run.save_result()
    return outcome


def tuning_identity(config: Stage2Config, tasks: Mixture) -> dict[str, Any]:
    """The settings of what the LLM is asked; the head is in the projector's sizes."""
    settings = {name: value for name, value in to_plain(config)["tuning"].items() if name != "head"}
    return {**settings, "prompts": tasks.prompts_sha256()}


def fitted(config: Stage2Config, projector: Projector) -> Stage2Config:
    """The configuration with the objective by which this projector is read, where it leaves that open (`auto`: the
    squared error alone for a projector read by nearest token, as in the paper); sets the projector's head.

    Raises:
        ConfigError: a head that the projector cannot have, or one that cross-entropy cannot train.
    """
    sizes, tuning = projector.config, config.tuning
    if tuning.head is not None:
        use_head(projector, tuning.head, "tuning.head")
    if sizes.head == "tokens" and tuning.sigma < 1:
        raise ConfigError(
            f"tuning.sigma {tuning.sigma:g}: no gradient passes head tokens, so cross-entropy teaches nothing; set "
            "tuning.head=rows"
        )
    if config.objective.name != AUTO:
        return config
    objective = dataclasses.replace(config.objective, name=OBJECTIVES[sizes.readout])
    if sizes.readout == "ctc":
        objective = dataclasses.replace(objective, ctc_temperature=sizes.ctc_temperature)
    return dataclasses.replace(config, objective=objective)


def freeze_unused(projector: Projector, config: Stage2Config) -> None:
    """Take the gradient from parameters that this run's loss does not reach: processes would wait for each other's."""
    ctc = config.tuning.sigma > 0 and readout_of(config.objective.name) == "ctc"
    if projector.blank is not None:
        projector.blank.requires_grad_(ctc)
    if projector.log_temperature is not None:
        projector.log_temperature.requires_grad_(ctc or (projector.config.head == "rows" and config.tuning.sigma < 1))


def tasks_of(config: Stage2Config, normalizer: str = NORMALIZER) -> Mixture:
    """The tasks to train, with their languages and wordings. Raises ConfigError."""
    tuning = config.tuning
    return mixture(tuning.task, tuning.asr_share, normalizer, tuning.languages, tuning.prompts)


def require_tasks(tasks: Mixture, fields: StoreFields, data: TrainingData) -> str:
    """Count the utterances that each task of the mixture has an answer for; returns the counts as text.

    Raises:
        ConfigError: a task that no utterance has an answer for, or a translation that there is no prompt for.
    """
    indices, split = data.order.indices, data.split or "the store"
    counts = {task.name: int(fields.present(task.needs, indices).sum()) for task, rate in tasks.rates if rate > 0}
    for task, rate in tasks.rates:
        if rate > 0 and not counts[task.name]:
            raise ConfigError(
                f"tuning.task {task.name}: no utterance of {split} has {' and '.join(task.needs)}; "
                "choose another task or a store made from a manifest with it"
            )
    tasks.require_prompts(fields.languages(indices))
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"answers for: {shown} of {len(indices):,} utterances; one without any is trained as {tasks.fallback.name}"


def learning_report(projector: Projector, llm: FrozenLLM, data: TrainingData) -> str:
    """What learns and what does not, for the log."""
    learning = sum(weight.numel() for weight in projector.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in llm.model.parameters())
    return (
        f"stage 2: {len(data.order.indices)} utterances of {data.split or 'the store'}, "
        f"left out: {data.left_out}\n"
        f"  learns: projector, {learning:,} parameters\n"
        f"  frozen: {llm.source.id}, {frozen:,} parameters, in eval mode, without gradients"
    )


class TuningStage:
    """`Stage` whose loss is `(1 - sigma) * cross-entropy + sigma * objective`."""

    def __init__(
        self,
        config: Stage2Config,
        objective: Objective | None,
        llm: FrozenLLM,
        head: Head,
        examples: StoreFields,
        validation: ReadValidation | None = None,
        normalizer: str = NORMALIZER,
    ) -> None:
        self._sigma, self._seed = config.tuning.sigma, config.seed
        self._mixture = tasks_of(config, normalizer)
        self._objective, self._llm, self._head, self._examples = objective, llm, head, examples
        self._validation = validation

    def prompts(self, batch: DeviceBatch) -> list[Prompt]:
        """The prompts of a micro-batch, with answers: a function of the seed and the micro-batch's number."""
        rng = np.random.default_rng(micro_seed(self._seed, batch.micro))
        drawn = [self._mixture.draw(self._examples[index], rng) for index in batch.indices]
        return [self._llm.prompter.write(instruction) for instruction in drawn]

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        counts = self._objective.counts(batch) if self._objective is not None else {}
        if self._sigma < 1:
            answers = sum(len(prompt.answer) for prompt in self.prompts(batch))
            counts[CROSS_ENTROPY] = torch.tensor(float(answers), device=batch.frames_B.device)
        return counts

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        output: ProjectorOutput = model(batch)
        sums = dict(output.sums)
        if self._sigma < 1:
            sums[CROSS_ENTROPY] = self._llm.answer_loss(*self._head.inputs(output.projected), self.prompts(batch))
        return sums

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        sigma, loss = self._sigma, torch.zeros((), device=next(iter(sums.values())).device)
        if sigma < 1:
            loss = loss + (1 - sigma) * sums[CROSS_ENTROPY] / counts[CROSS_ENTROPY].clamp(min=1)
        if self._objective is not None:
            parts = {name: value for name, value in sums.items() if name != CROSS_ENTROPY}
            loss = loss + sigma * self._objective.combine(parts, counts)
        return loss

    def evaluate(self, model: Any, step: int) -> Evaluation:
        return self._validation.run(model, step) if self._validation else Evaluation()


@dataclass(frozen=True, slots=True)
class ReadValidation:
    """Error rates of the transcripts that a readout makes of the vectors."""

    dev: DevSet
    readout: Readout

    def run(self, model: Projector, step: int) -> Evaluation:
        """`wer` and `cer` of transcripts."""
        instruction = ASR.instruction(Item())
        outputs: list[str] = []
        for batch in self.dev.batches(model.device, READ_BATCH):
            read = self.readout.read(
                model.project(batch.features_BTD, batch.frames_B), [instruction] * len(batch.indices)
            )
            outputs += [ASR.cleaned(output) for output in read]
        return Evaluation(self.dev.rates(step, outputs))
