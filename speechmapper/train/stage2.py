"""Stage 2: adapt the projector to one frozen LLM that repeats, translates or answers.

    store -> projector -> vectors -+-> objective against the text embeddings       sigma
                                   +-> prompt -> frozen LLM -> cross-entropy   1 - sigma
                                       of the answer's tokens

The same loop as in stage 1; only the projector's weights are given to the optimizer, the LLM's take no gradient. With
`lora.rank` low-rank adapters of the LLM's layers are trained besides (lora.py).
With sigma 0 the text embeddings are not used, with sigma 1 the LLM is run in validation alone. With `tuning.loss=kd` it
is too: training distils its first layers in place of the cross-entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_store.errors import ConfigError
from speechmapper.config import AUTO, Stage2Config, TuningConfig
from speechmapper.config_file import to_plain
from speechmapper.heads import Head
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import check_llm, load_llm
from speechmapper.loader.data import DataRequest, StorePaths, TrainingData, open_data
from speechmapper.loader.stores import recorded_stores
from speechmapper.loader.token_ids import token_counts
from speechmapper.lora import LoraAdapter, base_parameters, lora_identity, require_peft
from speechmapper.objectives.build import build_distillation, build_objective, readout_of
from speechmapper.projector import Projector, use_head
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import (
    load_projector,
    matching_target,
    require_features,
    require_target,
    trained_for,
    weights_crc32c,
)
from speechmapper.tasks import Mixture, StoreFields, Task
from speechmapper.tasks.answers import require_answers
from speechmapper.train.llm_validation import LlmValidation, Probe, probes_of
from speechmapper.train.loop import train_together
from speechmapper.train.run import Outcome, Run, Setup
from speechmapper.train.run_folder import open_accelerator, print_message, run_identity, start_run
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage import ProjectorWithObjective
from speechmapper.train.tuning_stage import Terms, TuningStage, tasks_of, unseen_tasks_of
from speechmapper.train.validation import DevSet, dev_set

OBJECTIVES = {"nearest": "mse", "ctc": "ctc-embedding", "cif": "dtw"}  # of `auto`, by the projector's readout
KD = "kd"
NOT_LEARNED = ("head", "trim", "unseen_tasks")  # settings of `tuning` that are recorded elsewhere, or change no weight


@dataclass(frozen=True, slots=True)
class Stage2Request:
    """The arguments of `sm-train stage2`: `projector` is a run folder, `llm` a model argument; `store` is one path, or
    several that are read as one store."""

    store: StorePaths
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
    plan = plan_run(request)
    check_llm(request.llm, plan.config.llm)  # before its weights are fetched
    source = resolve_model(request.llm, "llm")
    accelerator = open_accelerator(plan.config.run, request.out)
    with ExitStack() as locks:
        locks.enter_context(locked_run(request.out, accelerator))
        start_run(request.out, plan.config, request.resume, accelerator)
        llm = load_llm_of(plan, source, accelerator)
        (outcome,), _ = train_runs("stage 2", {request.out: plan}, llm, request.resume)
        return outcome


def load_llm_of(plan: Plan, source: ModelSource, accelerator: Accelerator) -> FrozenLLM:
    """The LLM of a run, on its device. Raises ModelError: none that can be loaded, or not the target set's."""
    tokenizer = load_stored_tokenizer(plan.data.targets)
    llm = load_llm(source, accelerator.device, plan.config.tuning.llm_dtype, tokenizer, plan.config.llm)
    llm.require_table(plan.data.targets)
    return llm


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as far as it is known without its LLM.

    Attributes:
        config: with the objective resolved. projector: with its head, at the weights it starts from.
        fields: of the store's utterances. dev, probes: what validation asks; None and none without a dev split.
        llm: the model argument. qualifying: how many utterances have an answer for each task, as text.
    """

    config: Stage2Config
    projector: Projector
    data: TrainingData
    tasks: Mixture
    fields: StoreFields
    dev: DevSet | None
    probes: Sequence[Probe]
    llm: str
    qualifying: str


def plan_run(request: Stage2Request, data: TrainingData | None = None) -> Plan:
    """Check all that can be checked before an LLM is loaded; writes nothing.

    Args:
        data: what the run reads, where it is open already.

    Raises:
        IdentityMismatch: a store and projector that do not belong together. ModelError: no usable projector.
        ConfigError: settings that do not fit them.
    """
    tasks_of(request.config)  # refused before anything is loaded
    if request.config.lora.rank:
        require_peft()
    projector = load_projector(request.projector)
    config = fitted(request.config, projector)
    data = data or open_stage2_data(request, projector)
    require_features(projector, data.store.identity, f"store {data.store.path}")
    require_target(projector, data.spec, f"target set {data.spec.name}")
    tasks, fields = tasks_of(config, data.spec.normalizer), StoreFields(data.store)
    qualifying = require_answers(tasks, fields, data.order.indices, data.split or "the store")
    dev, probes = dev_set(request.out, data, config.run), []
    if dev is not None:
        unseen = unseen_tasks_of(config, tasks, data.spec.normalizer)
        probes = probes_of(tasks, unseen, [fields[index] for index in dev.indices])
        require_unseen(unseen, probes)
    return Plan(config, projector, data, tasks, fields, dev, probes, request.llm, qualifying)


def open_stage2_data(request: Stage2Request, projector: Projector) -> TrainingData:
    """What a run that starts from this projector reads; raises as `open_data`."""
    wanted = DataRequest(request.store, request.target, request.split)
    matching = partial(matching_target, projector=projector)
    return open_data(wanted, projector.config.geometry, request.config.data, request.config.seed, matching)


def train_runs(
    name: str, plans: Mapping[Path, Plan], llm: FrozenLLM, resume: bool, in_sweep: bool = False
) -> tuple[list[Outcome], bool]:
    """Train a run per folder with the one LLM, all from one read of the data; each is what it would be alone.

    Returns how each run ended, and whether a signal asked to stop.

    Args:
        name: for messages.
        plans: by run folder, started and locked; all read the same batches.
        in_sweep: other runs go on when one fails, and the group of processes is kept for the runs after these.
    """
    accelerators = {out: open_accelerator(plan.config.run, out) for out, plan in plans.items()}
    first, plan = next(iter(accelerators.values())), next(iter(plans.values()))
    runs = [build_run(out, each, llm, accelerators[out]) for out, each in plans.items()]
    print_message(first, f"{learning_report(name, plans, llm, runs)}\n  {plan.qualifying}")
    return train_together(name, plan.data, plan.config, runs, first, resume, in_sweep)


def build_run(out: Path, plan: Plan, llm: FrozenLLM, accelerator: Accelerator) -> Run:
    """A run at step 0."""
    config, projector, data = plan.config, plan.projector, plan.data
    projector.config.trained_for = trained_for(
        "stage2",
        data.store.identity,
        data.spec,
        task=config.tuning.task,
        tasks=plan.tasks.recorded(),
        sigma=config.tuning.sigma,
        llm=llm.identity(),
        chat_template=llm.prompter.template(),
        started_from=projector.config.trained_for,
        **recorded_stores(data.store),
    )
    identity = identity_of(plan, llm)
    terms = build_terms(plan, llm, accelerator.device)
    freeze_unused(projector, config)
    head = Head(projector.config, data.targets.table, data.spec.pad_id, accelerator.device)
    validation = None
    if plan.dev is not None:
        readout = llm_readout(llm, head)
        shared = (accelerator, config.llm.shard)
        validation = LlmValidation(plan.dev, readout, plan.probes, data.spec.table_scale, *shared)
    stage = TuningStage(config, terms, llm, head, plan.fields, validation, data.spec.normalizer)
    setup = Setup(out, config, identity, data.order, data.store.identity.frame_rate)
    return Run(setup, stage, ProjectorWithObjective(projector, terms.objective, terms.adapter), accelerator)


def build_terms(plan: Plan, llm: FrozenLLM, device: torch.device) -> Terms:
    """What the run trains besides the projector, and by what besides cross-entropy."""
    config, data = plan.config, plan.data
    # Part kd reads the first layers of the same LLM once more: they are few, and stage 1 has no other way.
    parts = dataclasses.replace(config.objective, llm=config.objective.llm or plan.llm)
    given = (parts, data.targets, plan.projector.config, device, partial(token_counts, data))
    return Terms(
        build_objective(*given) if config.tuning.sigma > 0 else None,
        build_distillation(*given) if config.tuning.loss == KD and config.tuning.sigma < 1 else None,
        LoraAdapter(llm, config.lora, config.seed) if config.lora.rank else None,
    )


def identity_of(plan: Plan, llm: FrozenLLM) -> dict[str, Any]:
    """What a checkpoint of the run belongs to; the projector is at the weights it starts from."""
    return {
        **run_identity(plan.config, plan.projector, plan.data),
        "llm": llm.identity(),
        "chat_template": llm.prompter.template(),
        "tuning": tuning_identity(plan.config, plan.tasks),
        "started_from": weights_crc32c(plan.projector),
        **({"lora": lora_identity(plan.config.lora)} if plan.config.lora.rank else {}),
    }


def tuning_identity(config: Stage2Config, tasks: Mixture) -> dict[str, Any]:
    """The settings of what the LLM learns to answer; the head and `trim` are in the projector's sizes."""
    settings = {name: value for name, value in to_plain(config)["tuning"].items() if name not in NOT_LEARNED}
    if config.tuning.loss == TuningConfig().loss:
        settings.pop("loss")
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
    if tuning.trim and (sizes.head, sizes.readout) != ("vectors", "nearest"):
        raise ConfigError(
            "tuning.trim: it is for head vectors of a projector read by nearest token, and this one has head "
            f"{sizes.head} and is read by {sizes.readout}; leave it out"
        )
    if tuning.trim is not None:
        sizes.trim = tuning.trim
    if sizes.head == "tokens" and tuning.sigma < 1:
        raise ConfigError(
            f"tuning.sigma {tuning.sigma:g}: no gradient passes head tokens, so cross-entropy teaches nothing; set "
            "tuning.head=rows"
        )
    if tuning.loss == KD and tuning.sigma < 1 and KD in config.objective.name.split("+"):
        raise ConfigError(
            f"tuning.loss kd: objective.name {config.objective.name} has kd too; leave one of the two out"
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


def require_unseen(unseen: Sequence[Task], probes: Sequence[Probe]) -> None:
    """Raises ConfigError where a task cannot be asked of any utterance that validation uses."""
    for task in unseen:
        if not any(probe.task is task for probe in probes):
            raise ConfigError(
                f"tuning.unseen_tasks {task.name}: no utterance of the dev split that validation uses has an answer "
                f"for it ({' and '.join(task.needs)}); leave it out, or use a store made from a manifest with it"
            )


def learning_report(name: str, plans: Mapping[Path, Plan], llm: FrozenLLM, runs: Sequence[Run]) -> str:
    """What learns and what does not, for the log."""
    plan = next(iter(plans.values()))
    learning = sum(weight.numel() for weight in plan.projector.parameters() if weight.requires_grad)
    each = f" in each of {len(plans)} runs" if len(plans) > 1 else ""
    started = plan.projector.config.trained_for["started_from"].get("training", {})
    unused = "  not used: the LoRA adapter that the projector was trained with before\n" if "lora" in started else ""
    sizes = sorted({run.adapter_parameters for run in runs} - {0})
    adapters = (
        f"  learns: LoRA of the LLM, {' or '.join(f'{size:,}' for size in sizes)} parameters{each}\n" if sizes else ""
    )
    return (
        f"{name}: {len(plan.data.order.indices)} utterances of {plan.data.split or 'the store'}, "
        f"left out: {plan.data.left_out}\n"
        f"  learns: projector, {learning:,} parameters{each}\n"
        f"{adapters}{unused}"
        f"  frozen: {llm.source.id}, {base_parameters(llm):,} parameters, in eval mode, without gradients"
    )
