"""What stage 2 trains: the loss of a micro-batch, and the same on the dev split.

    batch -> projector -> what the head gives -+-> objective against the text embeddings       sigma
                                               +-> prompt -> frozen LLM -> cross-entropy   1 - sigma
                                                   of the answer's tokens

With `tuning.loss=kd` the second term is the distillation of the LLM's first layers (objectives/kd.py): training
makes no prompt and does not run the LLM.

Which task, wording and item an utterance is given is drawn from the seed and the micro-batch's number. On the dev split
it is drawn in the same way from the number of the batch: the same questions at every validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sm_pipeline.text import NORMALIZER
from sm_store.errors import ConfigError
from speechmapper.config import Stage2Config
from speechmapper.heads import Head
from speechmapper.llm import FrozenLLM
from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.lora import LoraAdapter, use_adapter
from speechmapper.objectives import Objective
from speechmapper.objectives.base import Part
from speechmapper.projector import Projected
from speechmapper.prompting import Prompt
from speechmapper.tasks import TASKS, Mixture, StoreFields, Task, mixture, task_of
from speechmapper.tasks.base import load_prompts
from speechmapper.tasks.file import is_task_file
from speechmapper.train.llm_validation import LlmValidation
from speechmapper.train.run import micro_seed
from speechmapper.train.stage import Evaluation, ProjectorOutput

CROSS_ENTROPY = "ce"


def tasks_of(config: Stage2Config, normalizer: str = NORMALIZER) -> Mixture:
    """The tasks to train, with their languages and wordings. Raises ConfigError."""
    tuning = config.tuning
    return mixture(tuning.task, tuning.asr_share, normalizer, tuning.languages, tuning.prompts)


def unseen_tasks_of(config: Stage2Config, trained: Mixture, normalizer: str = NORMALIZER) -> list[Task]:
    """The tasks of `tuning.unseen_tasks`, with their languages and wordings.

    Raises:
        ConfigError: an unknown task, or one that is trained.
    """
    tuning, taken = config.tuning, {task.name for task, rate in trained.rates if rate > 0}
    own = load_prompts(Path(tuning.prompts), TASKS) if tuning.prompts else {}
    found = []
    for name in dict.fromkeys(tuning.unseen_tasks):
        if name not in TASKS and not is_task_file(name):
            raise ConfigError(f"tuning.unseen_tasks {name}: unknown; use {', '.join(TASKS)}, or a task's YAML file")
        task = task_of(name)
        if task.name in taken:
            raise ConfigError(f"tuning.unseen_tasks {name}: {task.name} is trained (tuning.task), or named before")
        taken.add(task.name)
        found.append(task.with_normalizer(normalizer).with_choices(own.get(name), tuning.languages))
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """What the loss has, and trains, besides the LLM's cross-entropy and the projector.

    Attributes:
        objective: None where sigma is 0.
        distillation: part `kd`, in place of cross-entropy; None: cross-entropy.
        adapter: of the LLM; None: the LLM is as it was loaded.
    """

    objective: Objective | None = None
    distillation: Part | None = None
    adapter: LoraAdapter | None = None


class TuningStage:
    """`Stage` whose loss is `(1 - sigma) * cross-entropy + sigma * objective`, or with `kd` for cross-entropy."""

    shares_evaluation = True

    def __init__(
        self,
        config: Stage2Config,
        terms: Terms,
        llm: FrozenLLM,
        head: Head,
        examples: StoreFields,
        validation: LlmValidation | None = None,
        normalizer: str = NORMALIZER,
    ) -> None:
        self._sigma, self._seed = config.tuning.sigma, config.seed
        self._mixture = tasks_of(config, normalizer)
        self._objective, self._distillation = terms.objective, terms.distillation
        self._adapter, self._llm, self._head, self._examples = terms.adapter, llm, head, examples
        self._validation = validation

    def prompts(self, batch: DeviceBatch) -> list[Prompt]:
        """The prompts of a micro-batch, with answers: a function of the seed and the micro-batch's number."""
        rng = np.random.default_rng(micro_seed(self._seed, batch.micro))
        drawn = [self._mixture.draw(self._examples[index], rng) for index in batch.indices]
        return [self._llm.prompter.write(instruction) for instruction in drawn]

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        counts = self._objective.counts(batch) if self._objective is not None else {}
        if self._sigma < 1 and self._distillation is not None:
            counts |= self._distillation.counts(batch)
        elif self._sigma < 1:
            answers = sum(len(prompt.answer) for prompt in self.prompts(batch))
            counts[CROSS_ENTROPY] = torch.tensor(float(answers), device=batch.frames_B.device)
        return counts

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        output: ProjectorOutput = model(batch)
        sums = dict(output.sums)
        if self._sigma < 1 and self._distillation is not None:
            sums |= self._distillation(output.projected, batch)
        elif self._sigma < 1:
            self._prepare_llm(training=True)
            sums[CROSS_ENTROPY] = self._answer_loss(output.projected, self.prompts(batch))
        return sums

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        sigma, loss = self._sigma, torch.zeros((), device=next(iter(sums.values())).device)
        if sigma < 1 and self._distillation is not None:
            loss = loss + (1 - sigma) * self._distillation.combine(sums, counts)
        elif sigma < 1:
            loss = loss + (1 - sigma) * sums[CROSS_ENTROPY] / counts[CROSS_ENTROPY].clamp(min=1)
        if self._objective is not None:
            loss = loss + sigma * self._objective.combine(sums, counts)
        return loss

    def take_flop(self) -> float:
        return self._llm.take_flop()

    def evaluate(self, model: Any, step: int) -> Evaluation:
        if self._validation is None:
            return Evaluation()
        self._prepare_llm(training=False)
        return self._validation.run(model, step, self)

    def save(self, out: Path) -> Mapping[str, Any]:
        return {"lora": self._adapter.save(out)} if self._adapter is not None else {}

    def dev_sums(self, projected: Projected, batch: DeviceBatch) -> tuple[dict[str, float], dict[str, float]]:
        """The sums and counts of a batch of the dev split: of the cross-entropy, be it part of the loss or not, and of
        the objective's parts where it is."""
        torch.manual_seed(micro_seed(self._seed, batch.micro))
        prompts = self.prompts(batch)
        sums = {CROSS_ENTROPY: self._answer_loss(projected, prompts)}
        counts = {CROSS_ENTROPY: torch.tensor(float(sum(len(prompt.answer) for prompt in prompts)))}
        for part in (self._objective, self._distillation):
            if part is not None:
                sums |= part(projected, batch)
                counts |= part.counts(batch)
        return _numbers(sums), _numbers(counts)

    def dev_losses(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """`loss`, as in training, `ce`, per token of the answers, `objective` and `kd` where they are in the loss."""
        total, number = ({name: torch.tensor(value) for name, value in each.items()} for each in (sums, counts))
        losses = {"loss": self.combine(total, number), "ce": total[CROSS_ENTROPY] / number[CROSS_ENTROPY].clamp(min=1)}
        for name, part in (("objective", self._objective), ("kd", self._distillation)):
            if part is not None:
                losses[name] = part.combine(total, number)
        return _numbers(losses)

    def _prepare_llm(self, training: bool) -> None:
        """Let the LLM compute with this run's adapter, or without any: runs of a sweep share it."""
        if self._adapter is None:
            use_adapter(self._llm, None)
        else:
            self._adapter.use(training)

    def _answer_loss(self, projected: Projected, prompts: list[Prompt]) -> torch.Tensor:
        return self._llm.answer_loss(*self._head.inputs(projected), prompts)


def _numbers(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
